"""Bytes of a model's weights on the GPU: from its shape, or from a checkpoint's headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from packaging.version import Version

from builder.documents.model_shape import DTYPE_BYTES, ModelShape
from builder.vllm.fit.kv import TURBOQUANT
from builder.vllm.flagvalues import human_int

GIB = 1 << 30
_BLOCK = 128
_SCALE_BYTES = 4  # vLLM keeps a block's scale in FP32, whatever the checkpoint has
_DTYPES = {
    "F64": 8, "F32": 4, "I32": 4, "U32": 4, "I64": 8, "BF16": 2, "F16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E8M0": 1,
}  # fmt: skip
# 0.20.x registers TurboQuant's decode buffers in every attention layer, 32 splits wide; later ones share a workspace.
_TQ_SPLITS = 32
_TQ_SHARED = Version("0.21.0")
_ROTARY, _TQ_BUFFERS = "rotary cache", "TurboQuant buffers"


Place = Literal["layers", "experts", "replicated", "first", "last"]


@dataclass(frozen=True)
class Part:
    """Some of the weights: what they are, their type on the GPU, their bytes, and how they are divided over GPUs.

    `first` and `last` are on that pipeline stage; `tied` says that the last one has them too.
    """

    name: str
    dtype: str
    bytes: int
    place: Place = "layers"
    tied: bool = False


def parts_of_shape(shape: ModelShape) -> list[Part]:
    """Weights by part, from the shape alone. Embeddings, MLPs, projections, norms, convolutions, scales, vision tower."""
    width = DTYPE_BYTES[shape.dtype]
    linear, experts = _linear_parameters(shape), _expert_parameters(shape)
    parts: list[Part] = []
    kinds: list[tuple[str, int, Place]] = [("linear layers", linear, "layers"), ("experts", experts, "experts")]
    for name, count, place in kinds:
        if not count:
            continue
        if shape.quantization == "fp8":
            parts.append(Part(name, "fp8", count, place))
            scales = "scales" if place == "layers" else "scales of experts"
            parts.append(Part(scales, "fp32", count // _BLOCK**2 * _SCALE_BYTES, place))
        else:
            parts.append(Part(name, shape.dtype, count * width, place))
    parts.append(Part("norms, gates, convolutions", shape.dtype, _small_parameters(shape) * width, "replicated"))
    parts += _tables(shape, width)
    if shape.vision_parameters:
        parts.append(Part("vision tower", shape.dtype, shape.vision_parameters * width, "first"))
    return parts


def _linear_parameters(shape: ModelShape) -> int:
    """Parameters of the layers that are quantized in a block FP8 checkpoint."""
    dense = shape.layers - (shape.experts.layers if shape.experts else 0)
    mlp = 3 * shape.hidden * shape.mlp * dense
    if shape.experts is not None:
        mlp += 3 * shape.hidden * shape.experts.shared_mlp * shape.experts.layers
    attention = shape.attention
    queries = attention.query_heads * attention.head_size
    per_attention = shape.hidden * (
        queries * (2 if attention.gated else 1) + 2 * attention.kv_heads * attention.head_size + queries
    )
    if shape.latent is not None:
        per_attention = shape.latent.parameters(shape.hidden, attention.query_heads)
    total = mlp + per_attention * shape.attention_layers
    if shape.gdn is not None:
        values = shape.gdn.value_heads * shape.gdn.head_size
        # queries, keys and values; the gate z; the output
        total += shape.hidden * (shape.gdn.convolved + values + values) * shape.gdn.layers
    return total


def _expert_parameters(shape: ModelShape) -> int:
    """Parameters of the experts that a router chooses from: three matrices each."""
    experts = shape.experts
    return 3 * shape.hidden * experts.mlp * experts.count * experts.layers if experts is not None else 0


def _small_parameters(shape: ModelShape) -> int:
    """Parameters that stay in the model's type: norms, the two gates a and b of a GDN layer, its convolution."""
    total = (2 * shape.layers + 1) * shape.hidden + 2 * shape.attention.head_size * shape.attention_layers
    if shape.experts is not None:
        total += shape.hidden * shape.experts.count * shape.experts.layers
    if shape.gdn is not None:
        gdn = shape.gdn
        gates = 2 * shape.hidden * gdn.value_heads
        total += (gates + gdn.convolved * gdn.convolution + 2 * gdn.value_heads + gdn.head_size) * gdn.layers
    return total


def _tables(shape: ModelShape, width: int) -> list[Part]:
    parts = []
    elements = shape.vocabulary * shape.hidden
    for table in ("embed_tokens",) if shape.tied else ("embed_tokens", "lm_head"):
        place: Place = "last" if table == "lm_head" else "first"
        if table in shape.fp8_tables:
            scales = -(-shape.vocabulary // _BLOCK) * -(-shape.hidden // _BLOCK) * _SCALE_BYTES
            parts.append(Part(table, "fp8", elements + scales, place, tied=shape.tied))
        else:
            parts.append(Part(table, shape.dtype, elements * width, place, tied=shape.tied))
    return parts


def parts_of_headers(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, speculation: bool = False, draft_from: int | None = None
) -> list[Part]:
    """Weights by type, from (name, type as safetensors names it, shape) of every tensor of a checkpoint.

    Draft layers (`mtp.`, and those from number `draft_from` on) are not loaded without speculation. Block scales are kept in
    FP32.
    """
    total: dict[tuple[str, Place], int] = {}
    for name, dtype, dimensions in tensors:
        if not speculation and (name.startswith("mtp.") or ".mtp." in name or _is_draft(name, draft_from)):
            continue
        elements = 1
        for each in dimensions:
            elements *= each
        scale = name.endswith(("weight_scale_inv", "weight_scale"))
        key = ("fp32 scales" if scale else dtype, _place_of(name))
        # Scales of blocks are kept in FP32; those of MXFP4 and NVFP4, one byte each, are not.
        size = _SCALE_BYTES if scale and dtype not in ("U8", "F8_E4M3", "F8_E8M0") else _DTYPES.get(dtype, 2)
        total[key] = total.get(key, 0) + elements * size
    return [Part("tensors", dtype, count, place) for (dtype, place), count in sorted(total.items())]


def _is_draft(name: str, draft_from: int | None) -> bool:
    """Whether a tensor is of a layer behind the model's own: DeepSeek's and GLM's checkpoints number their MTP layers on."""
    if draft_from is None:
        return False
    match = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return match is not None and int(match[1]) >= draft_from


def _place_of(name: str) -> Place:
    if ".experts." in name:
        return "experts"
    if name.endswith(("norm.weight", ".mlp.gate.weight", ".router.weight", ".kv_a_proj_with_mqa.weight")):
        return "replicated"
    if "embed_tokens" in name:
        return "first"
    return "last" if name.startswith("lm_head") or ".lm_head." in name else "layers"


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
        parts.append(Part(_ROTARY, shape.dtype, count, "replicated"))
    seqs = human_int(flags.get("max-num-seqs"))
    if flags.get("kv-cache-dtype") in TURBOQUANT and version < _TQ_SHARED and seqs is not None:
        heads, size = shape.attention.query_heads, shape.attention.head_size
        per_layer = seqs * heads * (_TQ_SPLITS * (size + 1) + size + 1) * 4
        parts.append(Part(_TQ_BUFFERS, "fp32", per_layer * shape.attention.layers))
    return parts


def offloaded(parts: Sequence[Part], limit: int) -> tuple[list[Part], int]:
    """What stays on one GPU when up to `limit` bytes of its layers are kept in the machine's memory, and how many are.

    As `UVAOffloader` does it: parameters of layers until the limit is reached; no buffer, no table and no vision tower.
    """
    moved = [part.place in ("layers", "experts") and part.name not in (_ROTARY, _TQ_BUFFERS) for part in parts]
    total = sum(part.bytes for part, moves in zip(parts, moved, strict=True) if moves)
    away = min(limit, total)
    if not away:
        return list(parts), 0
    return [
        replace(part, bytes=part.bytes - part.bytes * away // total) if moves else part
        for part, moves in zip(parts, moved, strict=True)
    ], away
