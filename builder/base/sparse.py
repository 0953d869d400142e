"""Sparse files of a tar in the PAX format: where the stored bytes belong, and the file that they make.

Source: the GNU tar manual, "Storing Sparse Files" (versions 0.0, 0.1 and 1.0), and Go's `archive/tar`, which takes them. GNU
tar's older form (entries of type `S`) is not here: the clients that unpack layers refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_BLOCK = 512
_MAX_PARTS = 1 << 16
_PREFIX = "GNU.sparse."
MAP = f"{_PREFIX}map"


@dataclass(frozen=True)
class Sparse:
    """What the header of a sparse file says. `parts` are (offset, length) pairs; None when the map is before the data."""

    name: str
    size: int
    """Bytes of the whole file."""
    parts: tuple[tuple[int, int], ...] | None

    def expand(self, stored: bytes) -> bytes:
        """The whole file. Raises `ValueError` when the map does not fit the stored bytes."""
        parts, data = (self.parts, stored) if self.parts is not None else _map_before(stored)
        if sum(length for _, length in parts) != len(data):
            raise ValueError("a sparse file has more or fewer bytes than its map says")
        whole = bytearray(self.size)
        read, end = 0, 0
        for offset, length in parts:
            if offset < end or offset + length > self.size:
                raise ValueError("the map of a sparse file is not in order")
            whole[offset : offset + length] = data[read : read + length]
            read, end = read + length, offset + length
        return bytes(whole)


def sparse_of(records: Mapping[str, str]) -> Sparse | None:
    """The sparse file that PAX records describe; None for other files. Raises `ValueError` for what is not one of the three."""
    found = {key.removeprefix(_PREFIX): text for key, text in records.items() if key.startswith(_PREFIX)}
    if not found:
        return None
    version = found.get("major", "0"), found.get("minor", "1")
    if version not in (("0", "0"), ("0", "1"), ("1", "0")):
        raise ValueError(f"a sparse file is of version {'.'.join(version)[:20]}")
    size = found.get("realsize", found.get("size", ""))
    parts = None if version == ("1", "0") else _pairs(found.get("map", "").split(",") if found.get("map") else [])
    return Sparse(found.get("name", ""), _number(size), parts)


def _pairs(numbers: list[str]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_PARTS:
        raise ValueError("the map of a sparse file is damaged")
    return tuple((_number(numbers[at]), _number(numbers[at + 1])) for at in range(0, len(numbers), 2))


def _map_before(stored: bytes) -> tuple[tuple[tuple[int, int], ...], bytes]:
    """Version 1.0: lines with a count and that many pairs, filled up to a block, then the data."""
    first, end = stored.partition(b"\n")[0], 0
    count = _number(first.decode("ascii", "replace"))
    if count > _MAX_PARTS:
        raise ValueError("the map of a sparse file is damaged")
    for _ in range(2 * count + 1):
        end = stored.find(b"\n", end) + 1
        if not end:
            raise ValueError("the map of a sparse file is truncated")
    numbers = stored[:end].decode("ascii", "replace").split("\n")[1:-1]
    return _pairs(numbers), stored[-(-end // _BLOCK) * _BLOCK :]


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError(f"a sparse file has {text[:20]!r} for a number")
    return int(text)
