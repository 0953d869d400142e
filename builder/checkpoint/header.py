"""The header of a safetensors file, read strictly, and written.

Format: 8 bytes of little-endian length N, N bytes of JSON, then the tensors' bytes, one behind the other without holes.
Source: the format's description in the safetensors repository. The library can neither stream a tensor nor write one
chunk by chunk, which is why headers are read here; the tests let the library judge what is written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from builder.checkpoint.jsontext import refuse_unwritable
from builder.checkpoint.regular import open_regular
from builder.util.errors import InputError
from builder.util.strictjson import strict_json

# The library takes 100 MB. A shard with 1,000 tensors needs 0.1 MB; beyond this limit, parsing alone would take
# hundreds of megabytes.
HEADER_LIMIT = 16 << 20
# Data begins on a page: what is written can be read directly from disk, and shared between files by block.
_ALIGNMENT = 4096
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


_LFS_POINTER = b"version https://git-lfs"
START = len(_LFS_POINTER)
"""Bytes at a file's beginning that tell how long its header is, or that it is not the file itself."""


class HeaderError(InputError):
    """A file is not a whole and sound safetensors file."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's place: `begin` and `end` are bytes behind the header, `shape` counts elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A shard's tensors in the order of their bytes; `data_start` is the file offset of the first one."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data_start: int
    file_size: int


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """The size in bytes of a tensor. Raises `ValueError` for an unknown type or a size that is not a whole number of bytes."""
    if dtype not in _BITS:
        raise ValueError(f"unknown dtype {dtype!r}")
    bits = math.prod(shape) * _BITS[dtype]
    if bits % 8:
        raise ValueError(f"{dtype} {list(shape)} is not a whole number of bytes")
    return bits // 8


def element_bytes(dtype: str) -> int:
    """The size of one element in bytes, at least 1: what its offset should be a multiple of."""
    return max(1, _BITS[dtype] // 8)


def read_header(path: Path) -> Header:
    """Read and judge the header of the safetensors file `path`. Raises `HeaderError` with what is wrong with it."""
    try:
        with BufferedReader(open_regular(path)) as stream:
            size = os.fstat(stream.fileno()).st_size
            length = header_length(stream.read(START), path=path, file_size=size)
            stream.seek(8)
            raw = stream.read(length)
    except OSError as error:
        raise HeaderError(
            f"cannot read {path.name}: {error.strerror}", details=[("where", str(path))], hint="fetch the shard again"
        ) from error
    return parse_header(raw, path=path, file_size=size)


def header_length(start: bytes, *, path: Path, file_size: int | None = None) -> int:
    """The size in bytes of the JSON, from the first `START` bytes of a file of `file_size` bytes, where that is known.

    Raises `HeaderError` when they are not the start of a safetensors file.
    """
    if start == _LFS_POINTER:
        raise HeaderError(
            f"{path.name} is a git-LFS pointer, not the file",
            details=[("where", str(path))],
            hint="fetch the files: git lfs pull",
        )
    length = int.from_bytes(start[:8], "little")
    size = file_size if file_size is not None else HEADER_LIMIT + 8 if len(start) == START else len(start)
    if size < 10 or length < 2:
        raise _wrong(path, "is not a safetensors file", f"{size} bytes, header of {length}")
    if length > HEADER_LIMIT:
        found = f"{length:,} bytes of header; the limit is {HEADER_LIMIT:,}"
        raise _wrong(path, "is not a safetensors file" if length > size else "has a header too large", found)
    if 8 + length > size:
        raise _wrong(path, "is truncated inside its header", f"{size:,} bytes, header ends at {8 + length:,}")
    return length


def parse_header(raw: bytes, *, path: Path, file_size: int | None) -> Header:
    """Judge the JSON `raw` of a file of `file_size` bytes, where that is known. `path` is for messages."""
    try:
        if not raw.startswith(b"{"):
            raise ValueError("it does not begin with {")
        document = strict_json(raw.decode("utf-8"))
        refuse_unwritable(document)
        metadata = _metadata(document.pop("__metadata__", {}))
        tensors = sorted(
            (_tensor(name, entry) for name, entry in document.items()), key=lambda each: (each.begin, each.end)
        )
        _without_holes(tensors)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "has an unsound safetensors header", str(error) or type(error).__name__) from error
    data_start = 8 + len(raw)
    wanted = data_start + (tensors[-1].end if tensors else 0)
    if file_size is not None and file_size != wanted:
        what = "is truncated" if file_size < wanted else "has bytes behind its last tensor"
        raise _wrong(path, what, f"{file_size:,} bytes, the header describes {wanted:,}")
    return Header({each.name: each for each in tensors}, metadata, data_start, wanted)


def make_header(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length and the JSON, padded with spaces so that the data begins at a multiple of 4096."""
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for each in tensors:
        document[each.name] = {
            "dtype": each.dtype, "shape": list(each.shape), "data_offsets": [each.begin, each.end],
        }  # fmt: skip
    raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(8 + len(raw)) % _ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw


def _wrong(path: Path, what: str, found: str) -> HeaderError:
    return HeaderError(
        f"{path.name} {what}",
        details=[("where", str(path)), ("found", found)],
        hint="fetch the shard again, and compare its SHA-256 with the publisher's",
    )


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("__metadata__ is not a map of texts")
    return found


def _whole(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 63


def _tensor(name: str, entry: Any) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError(f"{name}: dtype is not a text")  # noqa: TRY004  one kind of trouble for the caller
    if not isinstance(shape, list) or not all(map(_whole, shape)):
        raise ValueError(f"{name}: shape is not a list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise ValueError(f"{name}: data_offsets are not two whole numbers")
    begin, end = offsets
    size = tensor_bytes(dtype, shape)
    if end - begin != size:
        raise ValueError(f"{name}: {dtype} {shape} takes {size:,} bytes, its offsets span {end - begin:,}")
    return Tensor(name, dtype, tuple(shape), begin, end)


def _without_holes(tensors: list[Tensor]) -> None:
    position, before = 0, "the header"
    for each in tensors:
        if each.begin != position:
            kind = "overlaps" if each.begin < position else "leaves a hole behind"
            raise ValueError(f"{each.name} {kind} {before}: it begins at {each.begin:,}, not {position:,}")
        position, before = each.end, each.name
