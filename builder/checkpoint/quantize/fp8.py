"""The arithmetic of block FP8, to the bit, on BF16 bit patterns.

Per block: `a = max|x|`; `s = bf16(fp32(a) / 448)`, 1.0 where that is zero; `q = e4m3(clamp(fp32(x) / fp32(s), -448, 448))`;
all rounding to nearest, ties to even; E4M3 is the finite-only kind (`float8_e4m3fn`). NaN and infinity are refused.

Two implementations give the same bytes and the same error sums: this one on numpy, and `fp8_numba`. For that, sums are
made in one fixed order: FP32 down each of a block's columns, then FP64 from its first column to its last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.checkpoint.blocks import (
    BF16_INFINITY,
    BF16_ONE,
    E4M3_MAX,
    SEARCH_STEPS,
    NotFiniteError,
    Quantized,
    block_count,
    from_bf16,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from builder.checkpoint.blocks import F64, U8, U16

_STRIPE_VALUES = 1 << 20


def quantize_numpy(x: U16, block: tuple[int, int], *, search: bool = False) -> Quantized:
    """Quantize whole block rows. Raises `NotFiniteError`."""
    import numpy as np

    rows, cols = x.shape
    scales = np.empty(block_count((rows, cols), block), np.uint16)
    values = np.empty((rows, cols), np.uint8)
    noise, signal = np.empty(scales.shape), np.empty(scales.shape)
    # Stripes keep the temporary arrays, some forty bytes per value, below 100 MB.
    stripe = max(1, _STRIPE_VALUES // (block[0] * block[1]))
    for i in range(scales.shape[0]):
        for j in range(0, scales.shape[1], stripe):
            down = slice(i * block[0], min((i + 1) * block[0], rows))
            across = slice(j * block[1], min((j + stripe) * block[1], cols))
            place = (i, slice(j, j + stripe))
            try:
                part = _quantize_stripe(x[down, across], block, search=search)
            except NotFiniteError as error:
                raise NotFiniteError(i, j + error.column) from error
            values[down, across], scales[place] = part.values, part.scales[0]
            noise[place], signal[place] = part.noise[0], part.signal[0]
    return Quantized(values, scales, noise, signal)


def _quantize_stripe(x: U16, block: tuple[int, int], *, search: bool) -> Quantized:
    """One block row of some block columns."""
    import numpy as np

    rows, cols = x.shape
    across = -(-cols // block[1])
    padded = np.zeros((block[0], across * block[1]), np.uint16)
    padded[:rows, :cols] = x
    # [block row, row in block, block column, column in block]
    blocks = padded.reshape(1, block[0], across, block[1])
    largest = (blocks & np.uint16(0x7FFF)).max(axis=(1, 3))
    bad = np.argwhere(largest >= BF16_INFINITY)
    if len(bad):
        raise NotFiniteError(0, int(bad[0][1]))
    scales = plain_scales(largest)
    if search:
        values, scales, noise, signal = _searched(blocks, scales)
    else:
        values, noise, signal = _with_scales(blocks, scales)
    return Quantized(values.reshape(block[0], -1)[:rows, :cols], scales, noise, signal)


def plain_scales(largest: U16) -> U16:
    """BF16 patterns of the scales of blocks whose largest magnitudes have these BF16 patterns."""
    import numpy as np
    from ml_dtypes import bfloat16

    rounded = (from_bf16(largest) / np.float32(E4M3_MAX)).astype(bfloat16).view(np.uint16)
    return np.where(rounded == 0, np.uint16(BF16_ONE), rounded)


def _with_scales(blocks: U16, scales: U16) -> tuple[U8, F64, F64]:
    import numpy as np
    from ml_dtypes import float8_e4m3fn

    factor = from_bf16(scales)[:, None, :, None]
    # A scale far below the plain one (search, tiny values) may overflow the ratio; the clamp takes it back.
    with np.errstate(over="ignore"):
        exact = np.abs(from_bf16(blocks) / factor)
    # ml_dtypes rounds to nearest even, and gives NaN above 464: hence the clamp before it.
    nearest = np.minimum(exact, np.float32(E4M3_MAX)).astype(float8_e4m3fn)
    sign = ((blocks >> np.uint16(8)) & np.uint16(0x80)).astype(np.uint8)
    squared = from_bf16(scales).astype(np.float64) ** 2
    with np.errstate(over="ignore"):
        distance = exact - nearest.astype(np.float32)
        noise, signal = _block_sums(distance * distance) * squared, _block_sums(exact * exact) * squared
    return nearest.view(np.uint8) | sign, noise, signal


def _block_sums(squares: NDArray[np.float32]) -> F64:
    """Sums over each block, in the order that the module's docstring fixes."""
    import numpy as np

    down = np.zeros((squares.shape[0], squares.shape[2], squares.shape[3]), np.float32)
    for row in range(squares.shape[1]):
        down += squares[:, row]
    total = np.zeros(down.shape[:2], np.float64)
    for column in range(down.shape[2]):
        total += down[:, :, column]
    return total


def _searched(blocks: U16, plain: U16) -> tuple[U8, U16, F64, F64]:
    import numpy as np

    scales = plain
    values, noise, signal = _with_scales(blocks, plain)
    for step in SEARCH_STEPS[1:]:
        tried = candidate_scales(plain, step)
        codes, other, power = _with_scales(blocks, tried)
        better = other < noise
        values = np.where(better[:, None, :, None], codes, values)
        scales, noise, signal = (
            np.where(better, mine, best) for mine, best in ((tried, scales), (other, noise), (power, signal))
        )
    return values, scales, noise, signal


def candidate_scales(plain: U16, step: int) -> U16:
    """The scales `step` BF16 patterns away, kept positive and finite."""
    import numpy as np

    return np.clip(plain.astype(np.int32) + step, 1, BF16_INFINITY - 1).astype(np.uint16)
