"""Which implementation quantizes: numba's when numba is installed, else numpy's. Both give the same bytes."""

from __future__ import annotations

from builder.checkpoint.blocks import Kernel
from builder.checkpoint.quantize.fp8 import quantize_numpy

try:
    from builder.checkpoint.quantize.fp8_numba import quantize_numba
except ImportError:  # numba is part of the extra `checkpoint`
    _FASTEST: Kernel = quantize_numpy
else:
    _FASTEST = quantize_numba


def fastest_kernel() -> Kernel:
    """The fastest kernel that is installed."""
    return _FASTEST
