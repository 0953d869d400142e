"""How a model is divided over GPUs: what one GPU of the fullest stage has.

Sources: `vllm/distributed/utils.py` (`get_pp_indices`), `vllm/model_executor/layers/fused_moe/config.py` (experts are divided
over the tensor and the data parallel ranks together, with expert parallelism whole experts, without it a part of each),
`vllm/model_executor/layers/vocab_parallel_embedding.py`, and `vllm/v1/core/kv_cache_utils.py` (the stage with the fewest
blocks decides for all). What vLLM refuses: `verify_with_parallel_config` of `vllm/config/model.py`, and the divisions of
`QKVParallelLinear` and `gdn_linear_attn.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.documents.model_shape import ModelShape
from builder.util.errors import InputError
from builder.vllm.fit.weights import Part
from builder.vllm.flagvalues import human_int, shown


@dataclass(frozen=True)
class Parallel:
    """Ranks by kind. `experts` says that whole experts are on a GPU, which changes no byte but what is asked of the network."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    experts: bool = False

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data


def parallel_of(flags: Mapping[str, Any]) -> Parallel:
    """The ranks that a profile asks for. Raises `InputError` for a number that is none."""
    numbers = []
    for name in ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"):
        value = human_int(flags[name]) if name in flags else 1
        if value is None or value < 1:
            raise InputError(
                f"--{name} is {shown(flags[name])}, not a whole number above 0",
                hint="`builder profile lint PROFILE` says more",
            )
        numbers.append(value)
    tensor, pipeline, data = numbers
    return Parallel(tensor, pipeline, data, experts=flags.get("enable-expert-parallel") is True)


def refusal(parallel: Parallel, shape: ModelShape) -> tuple[str, str] | None:
    """Why vLLM refuses to divide a model so, and what to write instead; None when it takes it."""
    reason = _undivided(parallel.tensor, shape)
    if reason is not None:
        heads = shape.attention.query_heads
        sizes = [size for size in range(1, heads + 1) if _undivided(size, shape) is None]
        return f"--tensor-parallel-size {parallel.tensor}: {reason}", f"write one of {', '.join(map(str, sizes))}"
    if parallel.experts and shape.experts is None:
        return (
            "--enable-expert-parallel: vLLM refuses it for a model without experts",
            "leave enable-expert-parallel out",
        )
    return None


def _undivided(tensor: int, shape: ModelShape) -> str | None:
    queries, keys = shape.attention.query_heads, shape.attention.kv_heads
    if queries % tensor:
        return f"vLLM cannot divide {queries} attention heads among {tensor} GPUs"
    # Fewer KV heads than GPUs are repeated, each on the same number of GPUs. Latent attention has no KV heads to divide.
    if shape.latent is None and (keys % tensor if tensor < keys else tensor % keys):
        return f"vLLM cannot divide {keys} KV heads among {tensor} GPUs, nor repeat each equally often"
    if shape.gdn is not None:
        for kind, count in (("key", shape.gdn.key_heads), ("value", shape.gdn.value_heads)):
            if count % tensor:
                return f"vLLM cannot divide {count} linear-attention {kind} heads among {tensor} GPUs"
    return None


def stages(layers: int, pipeline: int) -> list[int]:
    """Layers of each pipeline stage, as vLLM divides them without VLLM_PP_LAYER_PARTITION."""
    if pipeline > layers:
        raise InputError(
            f"--pipeline-parallel-size {pipeline} is more than the model's {layers} layers",
            hint=f"write {layers} or less",
        )
    found = [layers // pipeline] * pipeline
    for place in range(2, layers % pipeline + 2):
        found[-place] += 1
    return found


def share(parts: Sequence[Part], parallel: Parallel, stage: int, of: Sequence[int]) -> list[Part]:
    """What one GPU of a stage has of the weights. `of` are the layers of each stage."""
    last = len(of) - 1
    total = sum(of)
    found = []
    for part in parts:
        size = part.bytes
        if part.place == "first" and stage != 0 and not (part.tied and stage == last):
            continue
        if part.place == "last" and stage != last:
            continue
        if part.place in ("layers", "experts"):
            size = size * of[stage] // total
        if part.place == "experts":
            size //= parallel.tensor * parallel.data
        elif part.place != "replicated":
            size //= parallel.tensor
        found.append(Part(part.name, part.dtype, size, part.place, tied=part.tied))
    return found
