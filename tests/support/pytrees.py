"""Python files of released vLLM wheels, laid out as a package, without the wheels' bulk: some 6 to 13 MB a version.

Members stand next to each other in a wheel, so that a handful of range requests reads all of them.
"""

from __future__ import annotations

import fcntl
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import requests

from builder.base.wheel import find_wheel
from builder.base.wheel_archive import WheelLink, open_wheel
from builder.documents.reference import Platform
from builder.util.context import Context
from builder.util.errors import UnreachableError
from tests.support.services import leave_out
from tests.support.wheels import WHEELS, folder, python_files

_GAP = 200_000


def package_tree(version: str) -> Path:
    """A folder with `vllm/**/*.py` of a release, read once per machine."""
    target = folder() / "trees" / version
    target.parent.mkdir(exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            temporary = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                for name, data in _files(version).items():
                    path = temporary / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                temporary.rename(target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return target


def _files(version: str) -> dict[str, bytes]:
    if version in WHEELS:
        return python_files(version)
    try:
        link = find_wheel("vllm", version, Platform.parse("linux/amd64"), context=Context())
        return _by_range(link)
    except (UnreachableError, requests.RequestException) as error:
        leave_out(f"needs the Python files of vLLM {version}, which could not be read: {error}")
        raise


def _by_range(link: WheelLink) -> dict[str, bytes]:
    with open_wheel(link, context=Context()) as archive:
        members = sorted(
            (
                each
                for each in archive.infolist()
                if each.filename.startswith("vllm/") and each.filename.endswith(".py")
            ),
            key=lambda each: each.header_offset,
        )
    runs: list[list[zipfile.ZipInfo]] = []
    end = 0
    for member in members:
        if not runs or member.header_offset - end > _GAP:
            runs.append([])
        runs[-1].append(member)
        end = member.header_offset + member.compress_size
    found: dict[str, bytes] = {}
    with requests.Session() as session:
        for run in runs:
            start = run[0].header_offset
            last = run[-1].header_offset + run[-1].compress_size + 4096
            answer = session.get(link.url, headers={"Range": f"bytes={start}-{last}"}, timeout=120)
            assert answer.status_code == 206, answer.status_code
            found |= {member.filename: _member(answer.content, member.header_offset - start, member) for member in run}
    return found


def _member(data: bytes, at: int, member: zipfile.ZipInfo) -> bytes:
    name, extra = struct.unpack("<HH", data[at + 26 : at + 30])
    begin = at + 30 + name + extra
    packed = data[begin : begin + member.compress_size]
    content = packed if member.compress_type == zipfile.ZIP_STORED else zlib.decompress(packed, -15)
    assert zlib.crc32(content) == member.CRC, member.filename
    return content


class LazyFiles(dict[str, bytes]):
    """The files under a folder by path, read when they are asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __contains__(self, path: object) -> bool:
        return (self._root / str(path)).is_file()

    def __getitem__(self, path: str) -> bytes:
        return (self._root / path).read_bytes()
