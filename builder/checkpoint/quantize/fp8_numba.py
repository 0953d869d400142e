"""The arithmetic of `builder.checkpoint.quantize.fp8` compiled by numba: the same bytes and sums at the disk's speed.

No `fastmath`: reordered sums and flushed denormals would differ between machines. The loops over a row's columns are
plain enough for LLVM to vectorize without it.
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
    # One row of a block, seen as bits and as FP32.
    wide = np.empty(block_cols, np.uint32)
    exact = np.empty(block_cols, np.float32)
    lifted = np.empty(block_cols, np.float32)
    noise = np.empty(block_cols, np.float32)
    signal = np.empty(block_cols, np.float32)
    for i in range(scales.shape[0]):
        top, bottom = i * block_rows, min((i + 1) * block_rows, rows)
        for j in range(scales.shape[1]):
            left, right = j * block_cols, min((j + 1) * block_cols, cols)
            largest = np.uint16(0)
            for row in range(top, bottom):
                for column in range(left, right):
                    largest = max(largest, np.uint16(x[row, column] & np.uint16(0x7FFF)))
            if largest >= BF16_INFINITY:
                return i * scales.shape[1] + j
            plain = _scale(largest)
            best_scale, best_noise = plain, np.float64(0)
            for step in steps if len(steps) > 1 else steps[:0]:
                tried = min(max(np.int64(plain) + step, 1), BF16_INFINITY - 1)
                found, _ = _block(
                    x, top, bottom, left, right, np.uint16(tried), wide, exact, lifted, noise, signal, values
                )
                if step == 0 or found < best_noise:
                    best_scale, best_noise = np.uint16(tried), found
            scales[i, j] = best_scale
            sums[0, i, j], sums[1, i, j] = _block(
                x, top, bottom, left, right, best_scale, wide, exact, lifted, noise, signal, values
            )
    return -1


@_jit
def _scale(largest: Any) -> Any:  # pragma: no cover  compiled
    one = np.empty(1, np.uint32)
    one[0] = np.uint32(largest) << np.uint32(16)
    ratio = np.empty(1, np.float32)
    ratio[0] = one.view(np.float32)[0] / _MAX
    bits = ratio.view(np.uint32)[0]
    rounded = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    return np.uint16(BF16_ONE) if rounded == 0 else rounded


@_jit
def _block(
    x: Any, top: int, bottom: int, left: int, right: int, scale: Any, wide: Any, exact: Any, lifted: Any,
    noise: Any, signal: Any, values: Any,
) -> tuple[Any, Any]:  # pragma: no cover  compiled  # fmt: skip
    width = right - left
    floats = wide.view(np.float32)
    lifted_bits = lifted.view(np.uint32)
    codes = np.empty(width, np.uint32)
    wide[0] = np.uint32(scale) << np.uint32(16)
    factor = floats[0]
    for column in range(width):
        noise[column] = np.float32(0)
        signal[column] = np.float32(0)
    for row in range(top, bottom):
        line, out = x[row, left:right], values[row, left:right]
        for column in range(width):
            wide[column] = np.uint32(np.uint32(np.uint16(line[column] & np.uint16(0x7FFF))) << np.uint32(16))
        for column in range(width):
            exact[column] = floats[column] / factor
        for column in range(width):
            floats[column] = min(exact[column], _MAX)
            lifted[column] = floats[column] + np.float32(16384.0)
        for column in range(width):
            # Each step back to 32 bits: numba would go on in 64, in half as many lanes.
            bits = wide[column]
            odd = np.uint32(np.uint32(bits >> np.uint32(20)) & np.uint32(1))
            rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFFF)) + odd)
            normal = np.uint32(np.uint32(rounded >> np.uint32(20)) - np.uint32(960))
            subnormal = np.uint32(lifted_bits[column] - np.uint32(0x46800000))
            small = bits < np.uint32(0x3C800000)
            codes[column] = subnormal if small else normal
            lowered = lifted[column] - np.float32(16384.0)
            wide[column] = np.uint32(rounded & np.uint32(0xFFF00000))
            lifted[column] = lowered if small else floats[column]
        for column in range(width):
            out[column] = np.uint8(codes[column]) | np.uint8(np.uint16(line[column] >> np.uint16(8)) & np.uint16(0x80))
        for column in range(width):
            distance = exact[column] - lifted[column]
            noise[column] += distance * distance
            signal[column] += exact[column] * exact[column]
    first, second = np.float64(0), np.float64(0)
    for column in range(width):
        first += np.float64(noise[column])
        second += np.float64(signal[column])
    squared = np.float64(factor) * np.float64(factor)
    return first * squared, second * squared
