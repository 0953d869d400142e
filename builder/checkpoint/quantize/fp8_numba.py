"""The arithmetic of `builder.checkpoint.quantize.fp8` compiled by numba: the same bytes and sums at the disk's speed.

A block row is read from its first row to its last, each across all its blocks: memory is read in its order, and each loop
over a row's columns is plain enough for LLVM to vectorize. No `fastmath`: reordered sums and flushed denormals would differ
between machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from builder.checkpoint.blocks import (
    BF16_INFINITY,
    BF16_ONE,
    E4M3_MAX,
    SEARCH_STEPS,
    NotFiniteError,
    Quantized,
    block_count,
)
from builder.util.files import cache_dir

if TYPE_CHECKING:
    from builder.checkpoint.blocks import U16

# Compiling takes seconds; the package's own folder may be read-only.
numba.config.CACHE_DIR = str(cache_dir("numba"))  # type: ignore[attr-defined]

_MAX = np.float32(E4M3_MAX)
_STEPS = np.array(SEARCH_STEPS, np.int64)
_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def quantize_numba(x: U16, block: tuple[int, int], *, search: bool = False) -> Quantized:
    """Quantize whole block rows; lets go of the interpreter's lock. Raises `NotFiniteError`."""
    rows, cols = x.shape
    blocks = block_count((rows, cols), block)
    values = np.empty((rows, cols), np.uint8)
    scales = np.empty(blocks, np.uint16)
    sums = np.empty((2, *blocks), np.float64)
    steps = _STEPS if search else _STEPS[:1]
    bad = _quantize(np.ascontiguousarray(x), block[0], block[1], steps, values, scales, sums)
    if bad >= 0:
        raise NotFiniteError(int(bad) // blocks[1], int(bad) % blocks[1])
    return Quantized(values, scales, sums[0], sums[1])


@_jit
def _quantize(
    x: Any, block_rows: int, block_cols: int, steps: Any, values: Any, scales: Any, sums: Any
) -> Any:  # pragma: no cover  compiled
    rows, cols = x.shape
    # One block row: what belongs to its columns, and what is tried for its blocks.
    largest = np.empty(cols, np.uint16)
    factors, noise, signal = np.empty(cols, np.float32), np.empty(cols, np.float32), np.empty(cols, np.float32)
    plain, tried = np.empty(scales.shape[1], np.uint16), np.empty(scales.shape[1], np.uint16)
    found = np.empty((2, scales.shape[1]), np.float64)
    for i in range(scales.shape[0]):
        top, bottom = i * block_rows, min((i + 1) * block_rows, rows)
        _largest(x, top, bottom, largest)
        for j in range(scales.shape[1]):
            most = np.uint16(0)
            for column in range(j * block_cols, min((j + 1) * block_cols, cols)):
                most = max(most, largest[column])
            if most >= BF16_INFINITY:
                return i * scales.shape[1] + j
            plain[j] = _scale(most)
        for step in steps:
            for j in range(scales.shape[1]):
                tried[j] = min(max(np.int64(plain[j]) + step, 1), BF16_INFINITY - 1)
            _block_row(x, top, bottom, block_cols, tried, factors, noise, signal, values, found)
            for j in range(scales.shape[1]):
                if step == 0 or found[0, j] < sums[0, i, j]:
                    scales[i, j], sums[0, i, j], sums[1, i, j] = tried[j], found[0, j], found[1, j]
        if len(steps) > 1:
            _block_row(x, top, bottom, block_cols, scales[i], factors, noise, signal, values, found)
    return -1


@_jit
def _largest(x: Any, top: int, bottom: int, largest: Any) -> None:  # pragma: no cover  compiled
    """The largest magnitude of each column, as the pattern of a BF16."""
    largest[:] = 0
    for row in range(top, bottom):
        line = x[row]
        for column in range(line.shape[0]):
            magnitude = np.uint16(line[column] & np.uint16(0x7FFF))
            largest[column] = magnitude if magnitude > largest[column] else largest[column]


@_jit
def _scale(largest: Any) -> Any:  # pragma: no cover  compiled
    bits = np.float32(_widened(largest) / _MAX).view(np.uint32)
    rounded = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    return np.uint16(BF16_ONE) if rounded == 0 else rounded


@_jit
def _widened(pattern: Any) -> Any:  # pragma: no cover  compiled
    """The FP32 of the pattern of a BF16."""
    return np.uint32(np.uint32(pattern) << np.uint32(16)).view(np.float32)


@_jit
def _block_row(
    x: Any, top: int, bottom: int, block_cols: int, scales: Any, factors: Any, noise: Any, signal: Any, values: Any, found: Any
) -> None:  # pragma: no cover  compiled  # fmt: skip
    """Quantize a block row with these scales; `found` gets each block's sums of squares: of the error, and of what was there."""
    cols = x.shape[1]
    for j in range(scales.shape[0]):
        factors[j * block_cols : (j + 1) * block_cols] = _widened(scales[j])
    noise[:] = 0
    signal[:] = 0
    for row in range(top, bottom):
        line, out = x[row], values[row]
        for column in range(cols):
            out[column], distance, exact = _value(line[column], factors[column])
            noise[column] += np.float32(distance * distance)
            signal[column] += np.float32(exact * exact)
    for j in range(scales.shape[0]):
        first, second = np.float64(0), np.float64(0)
        for column in range(j * block_cols, min((j + 1) * block_cols, cols)):
            first += np.float64(noise[column])
            second += np.float64(signal[column])
        factor = np.float64(_widened(scales[j]))
        found[0, j], found[1, j] = first * (factor * factor), second * (factor * factor)


@_jit
def _value(word: Any, factor: Any) -> tuple[Any, Any, Any]:  # pragma: no cover  compiled
    """The E4M3 of a BF16 over its scale; how far its magnitude is from the exact one, and the exact one."""
    # Each step goes back to 32 bits: numba would go on in 64, in half as many lanes.
    exact = np.float32(_widened(np.uint16(word & np.uint16(0x7FFF))) / factor)
    near = np.float32(min(exact, _MAX))
    bits = near.view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(20)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFFF)) + odd)
    normal = np.uint32(np.uint32(rounded >> np.uint32(20)) - np.uint32(960))
    normal_value = np.uint32(rounded & np.uint32(0xFFF00000)).view(np.float32)
    # A subnormal's last place is 2^-9, which is FP32's at 16384.
    lifted = np.float32(near + np.float32(16384.0))
    subnormal = np.uint32(lifted.view(np.uint32) - np.uint32(0x46800000))
    subnormal_value = np.float32(lifted - np.float32(16384.0))
    small = bits < np.uint32(0x3C800000)
    code = np.uint8(subnormal if small else normal)
    sign = np.uint8(np.uint16(word >> np.uint16(8)) & np.uint16(0x80))
    return code | sign, np.float32(exact - (subnormal_value if small else normal_value)), exact
