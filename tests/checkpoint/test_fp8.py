"""Block FP8 to the bit: both implementations against torch, which knows E4M3 and BF16 by itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.checkpoint.blocks import Kernel, NotFiniteError, Quantized, e4m3_values
from builder.checkpoint.quantize.fp8 import quantize_numpy
from builder.checkpoint.quantize.fp8_numba import quantize_numba
from tests.support.checkpoints import bf16, normal
from tests.support.minilm import embedding_table
from tests.support.services import leave_out

KERNELS = [pytest.param(quantize_numpy, id="numpy"), pytest.param(quantize_numba, id="numba")]
BLOCK = (128, 128)
NOT_FINITE = [each for each in range(65536) if each & 0x7FFF >= 0x7F80]
FINITE = np.array([each for each in range(65536) if each & 0x7FFF < 0x7F80], np.uint16)


def torch_() -> Any:
    if importlib.util.find_spec("torch") is None:
        leave_out("needs torch 2.13.0, which .ci/run installs")
    import torch

    return torch


def reference(x: Any, block: tuple[int, int]) -> tuple[Any, Any]:
    """Codes and scale patterns as torch makes them, block by block: the definition, written plainly."""
    torch = torch_()
    values = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    rows, cols = values.shape
    codes = torch.empty((rows, cols), dtype=torch.uint8)
    scales = torch.empty((-(-rows // block[0]), -(-cols // block[1])), dtype=torch.bfloat16)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = (slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1]))
            part = values[place].float()
            scale = (part.abs().max() / 448.0).bfloat16()
            scale = torch.ones_like(scale) if scale == 0 else scale
            scales[i, j] = scale
            codes[place] = torch.clamp(part / scale.float(), -448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    return codes.numpy(), scales.view(torch.int16).numpy().view(np.uint16)


def agrees(kernel: Kernel, x: Any, block: tuple[int, int] = BLOCK) -> Quantized:
    found = kernel(x, block, search=False)
    codes, scales = reference(x, block)
    np.testing.assert_array_equal(found.scales, scales)
    np.testing.assert_array_equal(found.values, codes)
    return found


def dequantized(found: Quantized, block: tuple[int, int]) -> Any:
    scales = (found.scales.astype(np.uint32) << np.uint32(16)).view(np.float32)
    wide = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[: found.values.shape[0], : found.values.shape[1]]
    return e4m3_values()[found.values].astype(np.float64) * wide


def as_float(x: Any) -> Any:
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "kind", ["normal", "heavy tails", "constant", "zero", "minus zero", "denormal", "huge", "tiny", "one outlier"]
)
def test_blocks_of_every_kind_are_as_torch_makes_them(kernel: Kernel, kind: str) -> None:
    dice = np.random.default_rng(3)
    shape = (256, 384)
    kinds: dict[str, Callable[[], Any]] = {
        "normal": lambda: normal(*shape),
        "heavy tails": lambda: bf16(dice.standard_cauchy(shape)),
        "constant": lambda: bf16(np.full(shape, -0.37)),
        "zero": lambda: np.zeros(shape, np.uint16),
        "minus zero": lambda: np.full(shape, 0x8000, np.uint16),
        "denormal": lambda: dice.integers(0, 0x80, shape).astype(np.uint16) | np.uint16(0x8000),
        "huge": lambda: dice.integers(0x7E00, 0x7F80, shape).astype(np.uint16),
        "tiny": lambda: dice.integers(0x0080, 0x0900, shape).astype(np.uint16),
        "one outlier": lambda: np.where(dice.random(shape) < 0.0001, bf16(np.full(shape, 3e3)), normal(*shape)),
    }
    agrees(kernel, kinds[kind]())


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_finite_bf16_value_at_many_scales(kernel: Kernel) -> None:
    assert len(FINITE) + len(NOT_FINITE) == 65536
    assert len(NOT_FINITE) == 256
    # All values in one table, neighbours together: small blocks so that each meets a scale of its own size...
    agrees(kernel, np.resize(FINITE, (512, 128)), (1, 128))
    # ... and all of them below each of several largest values, 448 times the scale and odd ones among them.
    for largest in (0x3F80, 0x43E0, 0x43E1, 0x4B7F, 0x7F7F, 0x0101, 0x0001):
        below = FINITE[largest >= (FINITE & 0x7FFF)]
        below = np.append(below, np.uint16(largest))
        agrees(kernel, below.reshape(1, -1), (1, len(below)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_nan_and_infinity_is_refused_with_its_block(kernel: Kernel) -> None:
    x = normal(300, 300)
    for special in NOT_FINITE:
        x[260, 131] = special
        with pytest.raises(NotFiniteError) as caught:
            kernel(x, BLOCK, search=False)
        assert (caught.value.row, caught.value.column) == (2, 1)
    x[260, 131] = 0x7F7F
    kernel(x, BLOCK, search=False)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 129), (127, 128), (128, 127), (129, 1), (130, 257), (3, 5)])
def test_partial_blocks_at_the_edges(kernel: Kernel, shape: tuple[int, int]) -> None:
    agrees(kernel, normal(*shape))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_real_embedding_table(kernel: Kernel) -> None:
    x = bf16(embedding_table())
    assert x.shape == (30522, 384)
    found = agrees(kernel, x)
    wanted = as_float(x)
    error = np.sqrt(((wanted - dequantized(found, BLOCK)) ** 2).sum() / (wanted**2).sum())
    assert error < 0.0266
    assert np.sqrt(found.noise.sum() / found.signal.sum()) == pytest.approx(error, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 70), st.tuples(st.integers(1, 16), st.integers(1, 32)),
    st.integers(0, 2**32 - 1), st.sampled_from([0x7F7F, 0x3FFF, 0x00FF, 0x47FF]), st.booleans(),
)  # fmt: skip
def test_any_table_any_block_both_alike(
    rows: int, cols: int, block: tuple[int, int], seed: int, most: int, search: bool
) -> None:
    dice = np.random.default_rng(seed)
    x = dice.integers(0, most, (rows, cols), endpoint=True).astype(np.uint16)
    x |= dice.integers(0, 2, (rows, cols)).astype(np.uint16) << np.uint16(15)
    first, second = (kernel(x, block, search=search) for kernel in (quantize_numpy, quantize_numba))
    for name in ("values", "scales", "noise", "signal"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    if not search:
        agrees(quantize_numba, x, block)


def test_the_error_on_normal_data_and_what_the_search_gains() -> None:
    x = normal(512, 1280)
    wanted = as_float(x)
    errors = []
    for search in (False, True):
        found = quantize_numba(x, BLOCK, search=search)
        lost = ((wanted - dequantized(found, BLOCK)) ** 2).sum()
        errors.append(np.sqrt(lost / (wanted**2).sum()))
        assert found.noise.sum() == pytest.approx(lost, rel=1e-4)
    assert errors[0] < 0.0266
    assert 0.98 < errors[1] / errors[0] < 0.99
    # No block gets worse.
    plain, searched = (quantize_numba(x, BLOCK, search=each).noise for each in (False, True))
    assert (searched <= plain).all()


def test_the_values_of_the_codes_are_torchs() -> None:
    torch = torch_()
    wanted = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(e4m3_values(), wanted)
