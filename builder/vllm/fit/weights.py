"""Bytes of a model's weights on the GPU: from its shape, or from a checkpoint's headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.version import Version

from builder.documents.model_shape import DTYPE_BYTES, ModelShape
from builder.vllm.fit.kv import TURBOQUANT

GIB = 1 << 30
_BLOCK = 128
_SCALE_BYTES = 4  # vLLM keeps a block's scale in FP32, whatever the checkpoint has
_DTYPES = {
    "F64": 8, "F32": 4, "I32": 4, "U32": 4, "I64": 8, "BF16": 2, "F16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# 0.20.x registers TurboQuant's decode buffers in every attention layer, 32 splits wide; later ones share a workspace.
_TQ_SPLITS = 32
_TQ_SHARED = Version("0.21.0")


@dataclass(frozen=True)
class Part:
    """Some of the weights: what they are, their type on the GPU, and their bytes."""

    name: str
    dtype: str
    bytes: int


def parts_of_shape(shape: ModelShape) -> list[Part]:
    """Weights by part, from the shape alone. Embeddings, MLPs, projections, norms, convolutions, scales, vision tower."""
    width = DTYPE_BYTES[shape.dtype]
    linear = _linear_parameters(shape)
    parts: list[Part] = []
    if shape.quantization == "fp8":
        parts.append(Part("linear layers", "fp8", linear))
        parts.append(Part("scales", "fp32", linear // _BLOCK**2 * _SCALE_BYTES))
    else:
        parts.append(Part("linear layers", shape.dtype, linear * width))
    parts.append(Part("norms, gates, convolutions", shape.dtype, _small_parameters(shape) * width))
    parts += _tables(shape, width)
    if shape.vision_parameters:
        parts.append(Part("vision tower", shape.dtype, shape.vision_parameters * width))
    return parts


def _linear_parameters(shape: ModelShape) -> int:
    """Parameters of the layers that are quantized in a block FP8 checkpoint."""
    mlp = 3 * shape.hidden * shape.mlp * shape.layers
    attention = shape.attention
    queries = attention.query_heads * attention.head_size
    per_attention = shape.hidden * (
        queries * (2 if attention.gated else 1) + 2 * attention.kv_heads * attention.head_size + queries
    )
    total = mlp + per_attention * attention.layers
    if shape.gdn is not None:
        values = shape.gdn.value_heads * shape.gdn.head_size
        # queries, keys and values; the gate z; the output
        total += shape.hidden * (shape.gdn.convolved + values + values) * shape.gdn.layers
    return total


def _small_parameters(shape: ModelShape) -> int:
    """Parameters that stay in the model's type: norms, the two gates a and b of a GDN layer, its convolution."""
    total = (2 * shape.layers + 1) * shape.hidden + 2 * shape.attention.head_size * shape.attention.layers
    if shape.gdn is not None:
        gdn = shape.gdn
        gates = 2 * shape.hidden * gdn.value_heads
        total += (gates + gdn.convolved * gdn.convolution + 2 * gdn.value_heads + gdn.head_size) * gdn.layers
    return total


def _tables(shape: ModelShape, width: int) -> list[Part]:
    parts = []
    elements = shape.vocabulary * shape.hidden
    for table in ("embed_tokens",) if shape.tied else ("embed_tokens", "lm_head"):
        if table in shape.fp8_tables:
            scales = -(-shape.vocabulary // _BLOCK) * -(-shape.hidden // _BLOCK) * _SCALE_BYTES
            parts.append(Part(table, "fp8", elements + scales))
        else:
            parts.append(Part(table, shape.dtype, elements * width))
    return parts


def parts_of_headers(tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, speculation: bool = False) -> list[Part]:
    """Weights by type, from (name, type as safetensors names it, shape) of every tensor of a checkpoint.

    Draft layers (`mtp.`) are not loaded without speculation. Block scales are kept in FP32.
    """
    total: dict[str, int] = {}
    for name, dtype, dimensions in tensors:
        if not speculation and (name.startswith("mtp.") or ".mtp." in name):
            continue
        elements = 1
        for each in dimensions:
            elements *= each
        scale = name.endswith(("weight_scale_inv", "weight_scale"))
        key = "fp32 scales" if scale else dtype
        total[key] = total.get(key, 0) + elements * (_SCALE_BYTES if scale else _DTYPES.get(dtype, 2))
    return [Part("tensors", dtype, count) for dtype, count in sorted(total.items())]


def vision_parameters(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> int:
    """Parameters of a vision tower, by the names that vision-language checkpoints give them."""
    found = 0
    for name, _, dimensions in tensors:
        if name.startswith(("model.visual.", "visual.", "vision_tower.", "model.vision_tower.")):
            count = 1
            for each in dimensions:
                count *= each
            found += count
    return found


def parts_of_run(shape: ModelShape, version: Version, flags: Mapping[str, object]) -> list[Part]:
    """What is on the GPU beside the weights as soon as the model is loaded, and counts as loaded: buffers."""
    parts = []
    if shape.rotary_positions and shape.rotary_size:
        count = shape.rotary_positions * shape.rotary_size * DTYPE_BYTES[shape.dtype]
        parts.append(Part("rotary cache", shape.dtype, count))
    seqs = flags.get("max-num-seqs")
    if flags.get("kv-cache-dtype") in TURBOQUANT and version < _TQ_SHARED and isinstance(seqs, int):
        heads, size = shape.attention.query_heads, shape.attention.head_size
        per_layer = seqs * heads * (_TQ_SPLITS * (size + 1) + size + 1) * 4
        parts.append(Part("TurboQuant buffers", "fp32", per_layer * shape.attention.layers))
    return parts
