"""A strict reader of tar streams: the formats that image builders write, read as Go's `archive/tar` reads them.

Docker, containerd and podman unpack layers with that package, so that what it refuses or reads in another way than
Python's `tarfile` must not be ours to guess. Sizes that lie, headers that are damaged, and extensions without a limit are
refused at once (`tarfile` hung or ran backwards on some: CVE-2025-8194, CVE-2024-6232).

Source: POSIX.1-2017 `pax`, the GNU tar manual ("Basic Tar Format"), and the source of Go's `archive/tar`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from builder.base.sparse import MAP, Sparse, sparse_of
from builder.util.errors import InputError

_BLOCK = 512
_CHUNK = 1 << 18
_MAX_SIZE = 1 << 40
_MAX_EXTENSION = 1 << 20
_MAX_PENDING = 16
_ZERO = bytes(_BLOCK)

_REGULAR = (b"0", b"\0", b"7")
_KINDS = {b"1": "hardlink", b"2": "symlink", b"3": "device", b"4": "device", b"5": "directory", b"6": "fifo"}
_SAFE_GLOBAL = ("path", "linkpath", "size")


class TarError(ValueError):
    """The stream is not a tar that every client reads in the same way."""


class Readable(Protocol):
    """Where a tar comes from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Member:
    """An entry: its name and link target as they are written, kind, permission bits, and bytes of content."""

    name: str
    kind: str
    """`file`, `directory`, `symlink`, `hardlink`, `device` or `fifo`."""
    mode: int
    size: int
    target: str


class TarReader:
    """The members of a tar, one after another. `content` is that of the last one, and can be read once."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._sparse: Sparse | None = None

    def __iter__(self) -> Iterator[Member]:
        """Raises `TarError` for a damaged or ambiguous tar, `EOFError` for a truncated one."""
        extensions: dict[str, str] = {}
        pending = 0
        while True:
            self._skip()
            header = self._header()
            if header is None:
                if extensions:
                    raise TarError("the last entry has a header extension and nothing else")
                return
            kind = header[156:157]
            size = 0 if kind in _KINDS else _number(header[124:136], "size")
            if kind in (b"x", b"g", b"L", b"K"):
                pending += 1
                if size > _MAX_EXTENSION or pending > _MAX_PENDING:
                    raise TarError(f"an entry has header extensions of more than {_MAX_EXTENSION >> 20} MiB")
                found = self._extension(kind, size)
                if any(extensions.get(key, text) != text for key, text in found.items()):
                    raise TarError("an entry has two header extensions that differ")
                extensions |= found
                continue
            pending = 0
            member = _member(header, kind, size, extensions)
            self._left = member.size
            self._padding = -member.size % _BLOCK
            yield self._whole(member, extensions)
            extensions = {}

    def content(self) -> bytes:
        """All bytes of the last member. Raises `EOFError` when the stream ends before."""
        data = self._exactly(self._left)
        self._left = 0
        try:
            return data if self._sparse is None else self._sparse.expand(data)
        except ValueError as error:
            raise TarError(str(error)) from error

    def _whole(self, member: Member, extensions: dict[str, str]) -> Member:
        """A member as it is when it is unpacked: a sparse file has another name and size than it is stored with."""
        try:
            self._sparse = sparse_of(extensions)
        except ValueError as error:
            raise TarError(str(error)) from error
        if self._sparse is None:
            return member
        size = _bounded(self._sparse.size, "size")
        if member.kind != "file" or member.size > size + _MAX_EXTENSION:
            raise TarError("an entry is called a sparse file and is not one")
        return replace(member, name=self._sparse.name or member.name, size=size)

    def _skip(self) -> None:
        left = self._left + self._padding
        while left:
            data = self._stream.read(min(left, _CHUNK))
            if not data:
                raise EOFError("a file in the tar is truncated")
            left -= len(data)
        self._left = self._padding = 0

    def _exactly(self, size: int) -> bytes:
        chunks: list[bytes] = []
        left = size
        while left:
            data = self._stream.read(min(left, _CHUNK))
            if not data:
                raise EOFError("the tar is truncated")
            chunks.append(data)
            left -= len(data)
        return b"".join(chunks)

    def _header(self) -> bytes | None:
        """The next header block, or None at the end: two blocks of zeros, or nothing more."""
        first = self._stream.read(_BLOCK)
        if not first:
            return None
        block = first + self._exactly(_BLOCK - len(first))
        if block == _ZERO:
            second = self._stream.read(_BLOCK)
            if second and second + self._exactly(_BLOCK - len(second)) != _ZERO:
                raise TarError("an entry follows one block of zeros")
            return None
        _check_sum(block)
        return block

    def _extension(self, kind: bytes, size: int) -> dict[str, str]:
        data = self._exactly(size)
        self._padding = -size % _BLOCK
        self._skip()
        if kind in (b"L", b"K"):
            return {"path" if kind == b"L" else "linkpath": _text(data.split(b"\0", 1)[0])}
        records = _pax(data)
        if kind == b"g":
            # Go hands these out and applies none of them; tarfile applies them to every entry that follows.
            if any(key in _SAFE_GLOBAL or key.startswith("GNU.") for key in records):
                raise TarError("a global header names a path or a size, which clients read in different ways")
            return {}
        return {key: text for key, text in records.items() if key in _SAFE_GLOBAL or key.startswith("GNU.sparse.")}


def _member(header: bytes, kind: bytes, size: int, extensions: dict[str, str]) -> Member:
    name = _string(header[0:100])
    if header[257:263] == b"ustar\0":
        prefix = _string(header[345:500])
        name = f"{prefix}/{name}" if prefix else name
    # An empty value takes an extension back (POSIX).
    name = extensions.get("path") or name
    target = extensions.get("linkpath") or _string(header[157:257])
    # Only permission bits are taken of a number that may be negative or too large.
    mode = _number(header[100:108], "mode", any_value=True) & 0o7777
    if kind in _KINDS:
        return Member(name, _KINDS[kind], mode, 0, target)
    if kind not in _REGULAR:
        raise TarError(f"entry {name[:100]!r} is of type {kind!r}, which layers do not have")
    member = Member(name, "file", mode, size, "")
    if extensions.get("size"):
        member = replace(member, size=_decimal(extensions["size"]))
    if member.name.endswith("/") and kind == b"\0":
        return replace(member, kind="directory")
    return member


def _check_sum(block: bytes) -> None:
    wanted = _number(block[148:156], "checksum", any_value=True)
    blank = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(blank)
    # Old programs summed signed characters.
    if wanted not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in blank)):
        raise TarError("a header is damaged: its checksum is wrong")


def _number(data: bytes, what: str, *, any_value: bool = False) -> int:
    """A number of a header: octal text, or base 256 with the highest bit set. Negative and huge ones are refused."""
    if data[0] & 0x80:
        value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        if data[0] & 0x40:
            value -= 1 << (8 * len(data) - 1)
    else:
        text = data.strip(b" \0").split(b"\0", 1)[0]
        if text.strip(b"01234567"):
            raise TarError(f"a {what} is not a number: {text[:20]!r}")
        value = int(text, 8) if text else 0
    return value if any_value else _bounded(value, what)


def _bounded(value: int, what: str) -> int:
    if not 0 <= value <= _MAX_SIZE:
        raise TarError(f"a {what} of {value} bytes is not possible")
    return value


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise TarError(f"a size is not a number: {text[:20]!r}")
    return _bounded(int(text), "size")


def _pax(data: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n` of a PAX header."""
    records: dict[str, str] = {}
    parts: list[str] = []
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 10)
        digits = data[at:blank] if blank > 0 else b""
        if not digits.isdigit():
            raise TarError("a PAX header is damaged")
        length = int(digits)
        record = data[blank + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length <= blank + 1 - at or at + length > len(data) or not equals or not value.endswith(b"\n") or not key:
            raise TarError("a PAX header is damaged")
        if key in (b"path", b"linkpath") and b"\0" in value:
            raise TarError("a PAX header has a NUL in a path")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            # Version 0.0 repeats these two, in pairs.
            if (len(parts) % 2 == 0) != (key == b"GNU.sparse.offset"):
                raise TarError("a PAX header is damaged")
            parts.append(_text(value[:-1]))
        else:
            records[_text(key)] = _text(value[:-1])
        at += length
    if parts:
        records[MAP] = ",".join(parts)
    return records


def _string(data: bytes) -> str:
    return _text(data.split(b"\0", 1)[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def clean_name(name: str) -> str:
    """A member's path from `/`, without `./`. Raises `InputError` for one that leaves the tree."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InputError(f"a layer has an entry that leaves the tree: {name!r}", hint="do not use this base")
    return "/".join(parts)
