"""Block FP8 as values: its constants, what a kernel takes and gives, and how many blocks a table has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U8 = NDArray[np.uint8]
    U16 = NDArray[np.uint16]
    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

E4M3_MAX = 448.0

BF16_ONE = 0x3F80

BF16_INFINITY = 0x7F80

# BF16 steps from the plain scale that `search` tries, the plain one first so that it wins a tie. An E4M3 grid repeats
# itself with every doubling, which is 128 steps; smaller scales than the plain one clamp the largest values.
SEARCH_STEPS = (0, *range(-24, 0, 4), *range(4, 128, 4))


@dataclass(frozen=True)
class Quantized:
    """What a group of whole block rows becomes.

    `values` U8 [rows, cols] holds E4M3 codes, `scales` U16 [block rows, block cols] BF16 patterns. `noise` and
    `signal`, FP64 [block rows, block cols], are sums over each block of (x - q * s) ** 2 and x ** 2, where x is taken
    as it is after division by s in FP32.
    """

    values: U8
    scales: U16
    noise: F64
    signal: F64


class NotFiniteError(ValueError):
    """A value is NaN or infinite. `row` and `column` are its block's, counted in blocks from the group's start."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__(f"NaN or infinity in block {row}, {column}")
        self.row, self.column = row, column


class Kernel(Protocol):
    """`x` U16 [rows, cols] of BF16 patterns, `block` (rows, cols); every block row but the last must be whole."""

    def __call__(self, x: U16, block: tuple[int, int], *, search: bool) -> Quantized: ...


def block_count(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """How many blocks cover `shape`, partial ones at the edges included."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def from_bf16(patterns: U16) -> F32:
    """FP32 values of BF16 bit patterns, in the same shape."""
    import numpy as np
    from ml_dtypes import bfloat16

    values: F32 = patterns.view(bfloat16).astype(np.float32)
    return values


def e4m3_values() -> F32:
    """The value of each of the 256 E4M3 codes (finite-only kind; NaN at 0x7F and 0xFF)."""
    import numpy as np
    from ml_dtypes import float8_e4m3fn

    values: F32 = np.arange(256, dtype=np.uint8).view(float8_e4m3fn).astype(np.float32)
    return values
