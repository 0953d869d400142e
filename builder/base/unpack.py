"""A wheel's files as an installer would put them into a base, without pip and without running anything.

PyPA's `installer` reads the wheel, checks it against its own RECORD and says which file belongs into which scheme; where the
schemes are follows from the folder of the base's packages. What would change the Python that the image was judged by is
refused: `.pth` files, `sitecustomize`, paths that leave, links. Scripts are written here, so that their bytes do not follow
from the version of a library.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
import stat
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from builder.util.errors import InputError
from builder.util.files import sha256

if TYPE_CHECKING:
    import os

    from installer.destinations import WheelDestination
    from installer.records import RecordEntry
    from installer.utils import Scheme
    from packaging.tags import Tag

_MOST_FILES = 60_000
_MOST_BYTES = 8 << 30
_FILE_LIMIT = 4 << 30
_DIST_PACKAGES = re.compile(r"(?P<prefix>.+)/lib/python(?:3|3\.\d+)/(?P<kind>site|dist)-packages")
_STARTUP = re.compile(r"(?:sitecustomize|usercustomize)(?:\.py|/.*)", re.DOTALL)
_SCRIPT = """#!{python}
# -*- coding: utf-8 -*-
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({attribute}())
"""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Unpacked:
    """A wheel's files by path from `/` without the leading slash, with content and mode; RECORD is among them."""

    name: str
    version: str
    dist_info: str
    tags: frozenset[Tag]
    files: Mapping[str, tuple[bytes, int]] = field(repr=False)

    @property
    def native(self) -> bool:
        """Whether it has compiled parts, by its tags or by what is in it."""
        return all(tag.platform != "any" for tag in self.tags) or any(
            path.endswith((".so", ".pyd")) or ".so." in path.rpartition("/")[2] for path in self.files
        )

    @property
    def metadata(self) -> bytes:
        return next(
            (data for path, (data, _) in self.files.items() if path.endswith(f"/{self.dist_info}/METADATA")), b""
        )


@dataclass(frozen=True)
class Schemes:
    """Where an installer puts things in a base: folders from `/`. `python` is what scripts run on."""

    root: str
    python: str
    prefix: str | None

    @classmethod
    def of(cls, root: str) -> Schemes:
        """The schemes of the folder that holds the packages. Debian's own Python has `dist-packages`, and is in `/usr/bin`."""
        match = _DIST_PACKAGES.fullmatch(root)
        if match is None:
            return cls(root, "/usr/bin/python3", None)
        prefix = match["prefix"]
        home = "usr" if match["kind"] == "dist" else prefix
        return cls(root, f"/{home}/bin/python3", prefix)

    def folder(self, scheme: str, distribution: str, what: str) -> str:
        """The folder of a scheme. Raises `InputError` when it cannot be told."""
        if scheme in ("purelib", "platlib"):
            return self.root
        if self.prefix is None:
            raise InputError(
                f"{what} has {scheme}, and where these go cannot be told from /{self.root}",
                hint="use a wheel without scripts and data files, or a base with lib/python3.N/site-packages",
            )
        return {
            "scripts": f"{self.prefix}/bin",
            "data": self.prefix,
            "headers": f"{self.prefix}/include/{distribution}",
        }[scheme]


def unpack_wheel(path: Path, filename: str, root: str) -> Unpacked:
    """Unpack the wheel in the file `path`, called `filename`, for the packages in `root`.

    Raises `InputError` for what is not a sound wheel, and for a wheel that has what a layer must not bring.
    """
    from installer import install
    from installer.exceptions import InstallerError
    from installer.sources import WheelFile
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        _, _, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise InputError(
            f"{filename} is not the name of a wheel: {error}", hint="keep the name that it was built with"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, filename)
            archive.filename = filename
            source = WheelFile(archive)
            source.validate_record()
            destination = _Destination(Schemes.of(root), source.distribution, filename)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                install(source, cast("WheelDestination", destination), {"INSTALLER": b"overlay-image-builder\n"})
            dist_info = source.dist_info_dir
    except (
        InstallerError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        EOFError,
        NotImplementedError,
        OSError,
        AssertionError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{filename} is not a sound wheel: {_reason(error)}", hint="build or download it again"
        ) from error
    name, version = _identity(destination.files, f"{root}/{dist_info}", filename)
    return Unpacked(
        name,
        version,
        dist_info,
        frozenset(tags),
        dict(sorted(destination.files.items())),
    )


def _reason(error: Exception) -> str:
    issues = getattr(error, "issues", None)
    return "; ".join(str(each) for each in issues) if isinstance(issues, list) else str(error) or type(error).__name__


def _check_members(archive: zipfile.ZipFile, filename: str) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > _MOST_FILES or sum(info.file_size for info in infos) > _MOST_BYTES:
        raise InputError(f"{filename} has more than {_MOST_FILES:,} files, or than {_MOST_BYTES >> 30} GiB")
    if len(set(names)) != len(names):
        raise InputError(f"{filename} has a member twice", hint="do not use this wheel")
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{filename}: {info.filename} is a link or a device", hint="a wheel has files only")
        parts = info.filename.rstrip("/").split("/")
        if (
            any(part in ("", ".", "..") for part in parts)
            or "\\" in info.filename
            or any(ord(each) < 32 for each in info.filename)
        ):
            raise InputError(
                f"{filename}: the path {info.filename!r} leaves the wheel's folder", hint="do not use this wheel"
            )


class _Destination:
    """Collects the files instead of writing them: an `installer.destinations.WheelDestination`, which few commands need."""

    def __init__(self, schemes: Schemes, distribution: str, filename: str) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self._schemes = schemes
        self._distribution = distribution
        self._filename = filename

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:  # noqa: ARG002
        if (
            "/" in name
            or name in ("", ".", "..")
            or not _IDENTIFIER.fullmatch(module)
            or not _IDENTIFIER.fullmatch(attr)
        ):
            raise InputError(f"{self._filename}: the script {name!r} is not one", hint="do not use this wheel")
        text = _SCRIPT.format(python=self._schemes.python, module=module, name=attr.partition(".")[0], attribute=attr)
        return self._add("scripts", name, text.encode(), 0o755)

    def write_file(
        self, scheme: Scheme, path: str | os.PathLike[str], stream: BinaryIO, is_executable: bool
    ) -> RecordEntry:
        data = stream.read(_FILE_LIMIT)
        mode = 0o755 if is_executable else 0o644
        if scheme == "scripts":
            mode = 0o755
            first, newline, rest = data.partition(b"\n")
            if re.fullmatch(rb"#!pythonw?\s*", first):
                data = f"#!{self._schemes.python}".encode() + newline + rest
        return self._add(scheme, str(path), data, mode)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        rows: list[tuple[str, str, str]] = []
        for where, entry in records:
            folder = self._schemes.folder(where, self._distribution, self._filename)
            path = posixpath.relpath(f"/{folder}/{entry.path}", f"/{self._schemes.root}")
            digest = f"{entry.hash_.name}={entry.hash_.value}" if entry.hash_ is not None else ""
            rows.append((path, digest, "" if entry.size is None else str(entry.size)))
        buffer = io.StringIO()
        ordered = sorted(rows, key=lambda row: row[0].encode())
        csv.writer(buffer, lineterminator="\n").writerows(ordered)
        folder = self._schemes.folder(scheme, self._distribution, self._filename)
        self.files[f"{folder}/{record_file_path}"] = (buffer.getvalue().encode(), 0o644)

    def _add(self, scheme: str, path: str, data: bytes, mode: int) -> RecordEntry:
        folder = self._schemes.folder(scheme, self._distribution, self._filename)
        full = posixpath.normpath(f"{folder}/{path}")
        if not full.startswith(f"{folder}/"):
            raise InputError(f"{self._filename}: the path {path!r} leaves /{folder}", hint="do not use this wheel")
        below = full.removeprefix(f"{self._schemes.root}/")
        if below != full and "/" not in below and below.endswith(".pth"):
            raise InputError(
                f"{self._filename} has {below}, which runs or changes what is imported whenever Python starts",
                hint="what the image imports was judged without it: leave this wheel out",
            )
        if below != full and _STARTUP.fullmatch(below):
            raise InputError(
                f"{self._filename} has {below}, which runs whenever Python starts", hint="leave this wheel out"
            )
        from installer.records import Hash, RecordEntry

        if full in self.files:
            raise InputError(f"{self._filename} has /{full} twice", hint="do not use this wheel")
        self.files[full] = (data, mode)
        digest = _encoded(data)
        return RecordEntry(path, Hash("sha256", digest), len(data))


def _encoded(data: bytes) -> str:
    import base64
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _identity(files: Mapping[str, tuple[bytes, int]], info: str, filename: str) -> tuple[str, str]:
    """Name and version by METADATA, which must be those of the file's name."""
    from email.parser import BytesHeaderParser

    from packaging.utils import canonicalize_name, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    headers = BytesHeaderParser().parsebytes(files.get(f"{info}/METADATA", (b"", 0))[0])
    name, version = str(headers.get("Name") or "").strip(), str(headers.get("Version") or "").strip()
    wanted_name, wanted_version, *_ = parse_wheel_filename(filename)
    try:
        same = canonicalize_name(name) == wanted_name and Version(version) == wanted_version
    except InvalidVersion:
        same = False
    if not same:
        raise InputError(
            f"{filename} says of itself that it is {name or 'nameless'} {version}",
            hint="keep the name that it was built with",
        )
    return name, version


def record_of(unpacked: Unpacked, root: str) -> tuple[str, str]:
    """The path of RECORD from `/`, and its SHA-256."""
    path = f"{root}/{unpacked.dist_info}/RECORD"
    return path, sha256(unpacked.files[path][0])
