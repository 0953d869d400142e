"""Two tars, byte for byte: what differs, by entry and header field.

The bytes decide whether two layers are the same; this module only says where they differ. So it reads tars leniently, block
by block, and shows what a tar library would hide: padding, fields that no reader uses, and bytes behind the end.
Source: POSIX.1-2001, "ustar Interchange Format" and "pax Header Block".
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from builder.image.layer import LARGEST_PACKED
from builder.release.verify.problem import MISSING, Problem
from builder.util.files import sha256

_BLOCK: Final = 512
_FIELDS: Final = (
    ("name", 0, 100), ("mode", 100, 108), ("uid", 108, 116), ("gid", 116, 124), ("size", 124, 136), ("mtime", 136, 148),
    ("type", 156, 157), ("linkname", 157, 257), ("magic", 257, 263), ("version", 263, 265), ("uname", 265, 297),
    ("gname", 297, 329), ("devmajor", 329, 337), ("devminor", 337, 345), ("prefix", 345, 500), ("unused bytes", 500, 512),
    # Last, since it follows from the others.
    ("checksum", 148, 156),
)  # fmt: skip
_EXTENDED: Final = {b"x": "PAX header", b"g": "global PAX header", b"L": "GNU long name", b"K": "GNU long link"}
_KINDS: Final = {
    b"0": "a file", b"\0": "a file", b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device",
    b"4": "a block device", b"5": "a folder", b"6": "a FIFO", b"7": "a contiguous file", b"S": "a sparse file",
}  # fmt: skip
_MOST_PROBLEMS: Final = 50


@dataclass(frozen=True)
class TarEntry:
    """One entry. `extended` is everything before its header that belongs to it: PAX headers and GNU long names."""

    name: str
    header: bytes = field(repr=False)
    data: bytes = field(repr=False)
    padding: bytes = field(repr=False)
    extended: bytes = field(repr=False)

    @property
    def kind(self) -> str:
        flag = self.header[156:157]
        return _KINDS.get(flag, f"an entry of type {flag!r}")

    @property
    def is_file(self) -> bool:
        return self.header[156:157] in (b"0", b"\0")

    @property
    def mode(self) -> int | None:
        return _number(self.header[100:108])


@dataclass(frozen=True)
class Tar:
    """A tar's entries in their order, and the bytes from its end mark on."""

    entries: tuple[TarEntry, ...]
    tail: bytes = field(repr=False)


def read_tar(data: bytes) -> Tar:
    """Take a tar apart. It never fails: what cannot be read as an entry is part of the tail."""
    entries: list[TarEntry] = []
    at, extended_from, long_name = 0, 0, ""
    while True:
        header = data[at : at + _BLOCK]
        size = _number(header[124:136]) if len(header) == _BLOCK and any(header) else None
        if size is None or not 0 <= size <= len(data) - at - _BLOCK:
            return Tar(tuple(entries), data[extended_from:])
        body = data[at + _BLOCK : at + _BLOCK + size]
        end = at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        flag = header[156:157]
        if flag in _EXTENDED:
            long_name = _long_name(flag, body) or long_name
        else:
            name = long_name or _header_name(header)
            padding = data[at + _BLOCK + size : end]
            entries.append(TarEntry(name.rstrip("/"), header, body, padding, data[extended_from:at]))
            extended_from, long_name = end, ""
        at = end


def layer_tar(blob: bytes) -> bytes:
    """The tar of a layer of ours as a registry has it: gzip or a tar. It never fails: what cannot be unpacked is left out.

    No more is unpacked than this tool ever packs, and a byte more.
    """
    if _compression(blob) != "gzip":
        return blob
    try:
        return zlib.decompressobj(31).decompress(blob, LARGEST_PACKED + 1)
    except zlib.error:
        return b""


def layer_differences(wanted: bytes, found: bytes) -> list[Problem]:
    """What differs between two layers as a registry has them; empty only for the same bytes."""
    if wanted == found:
        return []
    left, right = layer_tar(wanted), layer_tar(found)
    kinds = _compression(wanted), _compression(found)
    if kinds[0] != kinds[1]:
        problem = Problem("layer, compression", *(kind or "a tar as it is" for kind in kinds))
        return [problem, *(_tar_differences(left, right) if kinds[1] in (None, "gzip") else ())]
    if left == right:
        return [Problem("layer, its gzip", f"sha256:{sha256(wanted)}", f"sha256:{sha256(found)}, of the same tar")]
    return _tar_differences(left, right)


def _tar_differences(wanted: bytes, found: bytes) -> list[Problem]:
    if wanted == found:
        return []
    left, right = read_tar(wanted), read_tar(found)
    problems = list(_entries(left, right))
    problems += _tails(left.tail, right.tail)
    if not problems:
        at = next((index for index, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), len(wanted))
        problems.append(Problem(f"layer, byte {at}", f"sha256:{sha256(wanted)}", f"sha256:{sha256(found)}"))
    return problems[:_MOST_PROBLEMS]


def _entries(left: Tar, right: Tar) -> Iterator[Problem]:
    known = {entry.name: entry for entry in left.entries}
    counts = Counter(entry.name for entry in right.entries)
    first = {entry.name: entry for entry in reversed(right.entries)}
    for name, entry in known.items():
        if name not in first:
            yield Problem(f"layer entry {name}", f"{_what(entry)} in the layer", MISSING)
    for name, entry in dict(sorted(first.items())).items():
        if name not in known:
            yield Problem(f"layer entry {name}", "no such entry", _what(entry))
    for name, count in counts.items():
        if count > 1:
            yield Problem(f"layer entry {name}, number of times", "once", f"{count} times")
    for name, entry in known.items():
        # Extractors let the last of several entries win.
        for other in [each for each in right.entries if each.name == name]:
            yield from _entry(entry, other)
    order = [entry.name for entry in right.entries if entry.name in known]
    for wanted, found in zip([name for name in known if name in first], order, strict=False):
        if wanted != found and set(counts.values()) == {1}:
            yield Problem(f"layer, order of entries from {wanted}", wanted, found)
            break


def _entry(left: TarEntry, right: TarEntry) -> Iterator[Problem]:
    where = f"layer entry {left.name}"
    if left.extended != right.extended:
        yield Problem(f"{where}, headers before it", _extended(left), _extended(right))
    for name, start, end in _FIELDS:
        wanted, found = left.header[start:end], right.header[start:end]
        if wanted != found:
            if name == "checksum" and _sum(right.header) == _number(found) and left.header[:148] != right.header[:148]:
                continue
            yield Problem(f"{where}, field {name}", _field(name, wanted, left), _field(name, found, right))
    if left.data != right.data:
        yield Problem(f"{where}, content", f"sha256:{sha256(left.data)}", f"sha256:{sha256(right.data)}")
    if left.padding != right.padding and len(left.data) == len(right.data):
        yield Problem(f"{where}, padding behind its content", "zeros", repr(right.padding.strip(b"\0")[:60]))


def _what(entry: TarEntry) -> str:
    base = entry.name.rpartition("/")[2]
    if base == ".wh..wh..opq":
        return "an opaque marker, which hides the folder of the base"
    if base.startswith(".wh."):
        return "a whiteout, which removes a file of the base"
    return entry.kind


def _extended(entry: TarEntry) -> str:
    if not entry.extended:
        return "none"
    found, at = [], 0
    while at < len(entry.extended):
        header = entry.extended[at : at + _BLOCK]
        size = _number(header[124:136]) or 0
        body = entry.extended[at + _BLOCK : at + _BLOCK + size]
        found.append(f"{_EXTENDED.get(header[156:157], 'a header')} {body[:80]!r}")
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return "; ".join(found)


def _field(name: str, raw: bytes, entry: TarEntry) -> str:
    if name == "type":
        return entry.kind
    number = (
        _number(raw) if name in ("mode", "uid", "gid", "size", "mtime", "devmajor", "devminor", "checksum") else None
    )
    if number is None:
        return repr(raw.rstrip(b"\0"))
    if name == "mode":
        return f"{number:o}"
    # The same number in another spelling is another byte.
    return str(number) if raw.strip(b"\0 ").lstrip(b"0") in (f"{number:o}".encode(), b"") else f"{number} as {raw!r}"


def _tails(left: bytes, right: bytes) -> list[Problem]:
    if left == right:
        return []
    if right.strip(b"\0"):
        return [
            Problem(
                "layer, bytes behind the last entry",
                f"{len(left)} zeros",
                f"{len(right)} bytes: {right.strip(bytes(1))[:60]!r}",
            )
        ]
    return [Problem("layer, end of the tar", f"{len(left)} zeros", f"{len(right)} zeros")]


def _compression(data: bytes) -> str | None:
    for magic, name in ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")):
        if data.startswith(magic):
            return name
    return None


def _header_name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:262] == b"ustar" else name


def _long_name(flag: bytes, body: bytes) -> str:
    if flag == b"L":
        return _text(body)
    if flag == b"x":
        for line in body.split(b"\n"):
            _, _, pair = line.partition(b" ")
            if pair.startswith(b"path="):
                return pair[5:].decode("utf-8", "replace")
    return ""


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _number(raw: bytes) -> int | None:
    """A numeric field: octal text, or base 256 behind a set first bit. None when it is neither."""
    if raw[:1] and raw[0] & 0x80:
        return int.from_bytes(raw, "big", signed=True) if raw[0] == 0xFF else int.from_bytes(raw[1:], "big")
    text = raw.strip(b"\0 ")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        return None


def _sum(header: bytes) -> int:
    return sum(header[:148]) + 8 * 32 + sum(header[156:])
