"""What binds a wheel's members to the wheel: which there are, and the digest of each by RECORD.

It is remembered by the wheel's SHA-256 once the whole wheel was read, so that later a member read by range proves itself.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.base.record import read_record
from builder.util.errors import InputError
from builder.util.files import cache_dir, sha256, write_file

MEMBER_LIMIT = 64 << 20
"""Bytes of a member that is read."""
_MAX_MEMBERS = 200_000
_EXECUTABLE = 0o100


@dataclass(frozen=True)
class WheelIndex:
    """The members of a wheel (path -> whether it is executable) and its RECORD, with the SHA-256 of each path in it."""

    dist_info: str
    members: Mapping[str, bool] = field(repr=False)
    record: bytes = field(repr=False)
    digests: Mapping[str, str] = field(repr=False)


def index_of(archive: zipfile.ZipFile, name: str) -> WheelIndex:
    """Read what binds a wheel's members. `name` is the wheel's, for errors. Raises `InputError` when it is not a wheel."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    members = {info.filename: bool(info.external_attr >> 16 & _EXECUTABLE) for info in infos}
    if len(members) != len(infos) or len(infos) > _MAX_MEMBERS:
        raise InputError(f"{name} has members that are repeated, or too many", hint="do not use this wheel")
    found = [path.split("/")[0] for path in members if re.fullmatch(r"[^/]+-[^/-]+\.dist-info/RECORD", path)]
    if len(found) != 1:
        raise InputError(f"{name} has {len(found)} RECORD files, where a wheel has one", hint="check the recipe's base")
    path = f"{found[0]}/RECORD"
    if archive.getinfo(path).file_size > MEMBER_LIMIT:
        raise InputError(f"{path} in {name} is larger than {MEMBER_LIMIT >> 20} MiB", hint="do not use this wheel")
    return _index(found[0], members, archive.read(path), name)


def _index(dist_info: str, members: Mapping[str, bool], record: bytes, name: str) -> WheelIndex:
    rows = read_record(record, f"{dist_info}/RECORD in {name}")
    return WheelIndex(dist_info, members, record, {row.path: _hexadecimal(row.digest) for row in rows})


def _hexadecimal(digest: str) -> str:
    """A digest of RECORD as 64 hexadecimal digits; empty when it is missing or of another kind."""
    algorithm, _, text = digest.partition("=")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return ""
    return data.hex() if algorithm == "sha256" and len(data) == 32 else ""


def _path(digest: str) -> Path:
    return cache_dir("checked") / f"wheel-{digest}.json"


def write_index(digest: str, index: WheelIndex) -> None:
    """Remember that the wheel with this SHA-256 was read whole and has this index."""
    body = json.dumps(
        {"wheel": digest, "dist_info": index.dist_info, "members": dict(index.members), "record": index.record.decode()}
    ).encode()
    write_file(_path(digest), sha256(body).encode() + b"\n" + body)


def read_index(digest: str) -> WheelIndex | None:
    """The index of a wheel that was read whole, or None."""
    path = _path(digest)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        document = json.loads(body)
        if head.decode() != sha256(body) or document["wheel"] != digest:
            raise ValueError("another wheel's")
        return _index(str(document["dist_info"]), document["members"], document["record"].encode(), "the cache")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, InputError):
        path.unlink(missing_ok=True)
        return None
