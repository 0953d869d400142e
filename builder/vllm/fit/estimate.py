"""The estimate: a profile, a model's shape and a GPU -> blocks, tokens, concurrency and what is left free.

What it knows beside the arithmetic is one start-up on one RTX 5090 (the model card's smoke profile, vLLM 0.20.0, 26.19
GiB loaded, 35 blocks, about 2.59 GiB free). Fixed memory between 0.94 and 0.98 GiB is what explains both its figures;
activation per batched token is what the MLP and the residual stream hold at once, 132 KiB for this model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from packaging.version import InvalidVersion, Version

from builder.documents.model_shape import DTYPE_BYTES, ModelShape
from builder.documents.profile import Profile
from builder.util.errors import InputError
from builder.vllm.fit.coverage import ONLY_MORE, not_modelled, on_the_machine
from builder.vllm.fit.drafts import Draft, draft_of
from builder.vllm.fit.gpus import Gpu
from builder.vllm.fit.kv import CacheLayout, Capacity, capacity, layout
from builder.vllm.fit.length import fitted, length_of, whole_number
from builder.vllm.fit.parallel import Parallel, parallel_of, refusal, share, stages
from builder.vllm.fit.weights import GIB, Part, offloaded, parts_of_run, parts_of_shape
from builder.vllm.flagvalues import decimal, human_int, plain_flags, shown

FIXED_GIB = 0.95
# The estimate's own error in GiB of pool. The one published start-up elsewhere that can be compared (two RTX 3090, vLLM
# of 2026-08, docs/profiles.md) had 0.8 GiB less per GPU than the estimate gives.
ERROR_GIB = 1.0
ERROR_CALIBRATED_GIB = 0.1
_ROUNDING_GIB = 0.005
_CALIBRATED_GPU = "rtx-5090"
_LARGE_GPU_GIB = 70
_UTILIZATION = ((Version("0.20.0"), 0.92), (Version("0"), 0.9))

NOT_MODELLED = (
    "memory that other programs hold on the GPU",
    "CUDA graphs (0.10 GiB in the one log at hand)",
    "TurboQuant on a model that is not hybrid, padding of quantized experts",
    "what images, audio and video take while they are encoded",
    "fragmentation, and kernels that allocate workspaces when a request comes",
)


@dataclass(frozen=True)
class Fit:
    """An estimate. Sizes are for one GPU; tokens and requests are for the whole server."""

    profile: str
    gpu: Gpu
    vllm: str
    cache: CacheLayout
    held: Capacity
    weights: tuple[Part, ...]
    max_model_len: int
    max_num_seqs: int | None
    budget_gib: float
    """What `--gpu-memory-utilization` lets vLLM use."""
    activation_gib: float
    pool_gib: float
    """`Available KV cache memory` of the log."""
    free_gib: float
    error_gib: float
    given_pool: bool
    notes: tuple[str, ...]
    parallel: Parallel = field(default_factory=Parallel)
    stage: int = 0
    """The pipeline stage that decides, from 0."""
    not_modelled: tuple[str, ...] = ()
    """What the profile's own flags and variables may change, and the estimate does not know."""
    set_blocks: bool = False
    """Whether flags set the size of the KV cache, whatever memory there is."""

    @property
    def weights_gib(self) -> float:
        return sum(part.bytes for part in self.weights) / GIB

    @property
    def kv_gib(self) -> float:
        """What the blocks take."""
        return self.held.blocks * self.cache.block_bytes / GIB

    @property
    def fits(self) -> bool:
        """Whether the server can start: one request of `max_model_len` can be held, and the GPU has the memory."""
        return self.held.real_requests >= 1 and not self.too_large

    @property
    def too_large(self) -> bool:
        """Whether flags ask for a KV cache that the GPU has no memory for."""
        return self.set_blocks and self.free_gib < 0

    @property
    def may_take_less(self) -> bool:
        """Whether something that is not modelled may make the profile fit all the same."""
        return any(each.partition(" (")[0] not in ONLY_MORE for each in self.not_modelled)

    @property
    def blocks_range(self) -> tuple[int, int]:
        """Blocks at either end of the estimate's error."""
        if self.given_pool:
            return self.held.blocks, self.held.blocks
        low, high = ((self.pool_gib + sign * self.error_gib) * GIB for sign in (-1, 1))
        return self.cache.blocks(max(0, int(low))), self.cache.blocks(max(0, int(high)))

    def at_once(self, tokens: int) -> int:
        """Requests of `tokens` tokens that run at once: what the blocks hold, and `--max-num-seqs` lets in."""
        held = max(0, self.held.blocks - 1) // self.cache.request_blocks(tokens)
        return min(held, self.max_num_seqs) if self.max_num_seqs is not None else held

    def as_json(self) -> dict[str, Any]:
        low, high = self.blocks_range
        return {
            "profile": self.profile,
            "gpu": {"name": self.gpu.name, "gib": self.gpu.gib, "measured": self.gpu.measured},
            "vllm": self.vllm,
            "fits": self.fits,
            "block_size": self.cache.block_size,
            "page_bytes": self.cache.page_bytes,
            "block_bytes": self.cache.block_bytes,
            "bytes_per_token": self.cache.bytes_per_token,
            "gpus": self.parallel.gpus,
            "tensor_parallel": self.parallel.tensor,
            "pipeline_parallel": self.parallel.pipeline,
            "data_parallel": self.parallel.data,
            "expert_parallel": self.parallel.experts,
            "stage": self.stage,
            "groups": self.cache.groups,
            "blocks": self.held.blocks,
            "blocks_range": [low, high],
            "blocks_per_request": self.cache.request_blocks(self.max_model_len),
            "kv_cache_tokens": self.held.tokens,
            "max_model_len": self.max_model_len,
            "max_concurrency": round(self.held.concurrency, 2),
            "real_requests": self.held.real_requests,
            "weights_gib": round(self.weights_gib, 3),
            "weights": [{"part": part.name, "dtype": part.dtype, "gib": round(part.bytes / GIB, 4)} for part in self.weights],
            "budget_gib": round(self.budget_gib, 3),
            "activation_gib": round(self.activation_gib, 3),
            "fixed_gib": FIXED_GIB,
            "kv_pool_gib": round(self.pool_gib, 3),
            "kv_cache_gib": round(self.kv_gib, 3),
            "free_gib": round(self.free_gib, 2),
            "error_gib": 0.0 if self.given_pool else self.error_gib,
            "notes": list(self.notes),
            "not_modelled": [*self.not_modelled, *NOT_MODELLED],
        }  # fmt: skip


def parse_version(text: str) -> Version:
    """A vLLM version as people write it, `v0.20.0` included. Raises `InputError`."""
    try:
        return Version(text.removeprefix("v"))
    except InvalidVersion as error:
        raise InputError(f"{text!r} is not a vLLM version", hint="write it as 0.20.0") from error


def estimate(
    profile: Profile,
    shape: ModelShape,
    gpu: Gpu,
    version: Version,
    *,
    weights: Sequence[Part] | None = None,
    pool_gib: float | None = None,
) -> Fit:
    """Estimate what `profile` needs and gives.

    `weights` replaces those that the shape gives (from a checkpoint's headers); `pool_gib` replaces the pool that the
    estimate would give (from a log's `Available KV cache memory`). Raises `InputError` for what vLLM refuses, and for what
    is so far from the model that no figure can be given.
    """
    flags = plain_flags(profile.flags)
    notes: list[str] = []
    parallel = parallel_of(flags)
    refused = refusal(parallel, shape)
    if refused is not None:
        raise InputError(refused[0], hint=refused[1])
    draft = draft_of(flags, shape, from_headers=weights is not None)
    if draft.note is not None:
        notes.append(draft.note)
    length = length_of(flags, shape)
    seqs = whole_number(flags, "max-num-seqs")
    batched = _batched(flags, gpu, notes)
    whole = _layout(flags, shape, version, parallel.tensor, draft, batched)
    budget = gpu.gib * _utilization(flags, version)
    activation = _activation(batched, shape, parallel.tensor)
    every = [*(weights or parts_of_shape(shape)), *draft.parts, *parts_of_run(shape, version, flags)]
    # Every stage gets the number of blocks that the fullest one can have.
    stage, cache, loaded, away = _fullest(
        every,
        whole,
        shape,
        parallel,
        budget - activation - FIXED_GIB,
        known=pool_gib is not None,
        offload=_offload(flags, gpu),
    )
    if parallel.pipeline > 1:
        notes.append(f"stage {stage + 1} of {parallel.pipeline} decides; its GPU is shown")
    if away:
        notes.append(f"--cpu-offload-gb: {away / GIB:.2f} GiB of layers per GPU are in the machine's memory")
    if not gpu.unified:
        notes += [f"--{flag} takes memory of the machine, none of the GPU" for flag in on_the_machine(flags)]
    if gpu.unified:
        notes.append("the GPU shares the machine's memory; what the system and other programs hold is not counted")
    total_weights = sum(part.bytes for part in loaded) / GIB
    given = pool_gib is not None
    set_bytes = whole_number(flags, "kv-cache-memory-bytes")
    given_bytes = pool_gib is None
    if pool_gib is None and set_bytes is not None:
        pool_gib, given = set_bytes / GIB, True
        notes.append("--kv-cache-memory-bytes sets the pool; --gpu-memory-utilization has no effect")
    pool = pool_gib if pool_gib is not None else max(0.0, budget - total_weights - activation - FIXED_GIB)
    blocks = cache.blocks(int(pool * GIB))
    if given and set_bytes is None:
        low, high = (cache.blocks(int((pool + rounding) * GIB)) for rounding in (-_ROUNDING_GIB, _ROUNDING_GIB))
        if low != high:
            notes.append(f"a log prints two decimals: a pool of {pool:.2f} GiB is {low} to {high} blocks")
    override = whole_number(flags, "num-gpu-blocks-override")
    if override is not None:
        blocks, given = override, True
    length = fitted(flags, cache, blocks, length, notes)
    if shape.vision_parameters and flags.get("language-model-only"):
        notes.append(
            "the vision tower is counted in spite of --language-model-only: the one published log shows that it is loaded"
        )
    calibrated = (
        gpu.name == _CALIBRATED_GPU
        and parallel.gpus == 1
        and shape.hybrid
        and not draft.method
        and version < Version("0.21.0")
    )
    if not calibrated and not given:
        notes.append(f"calibrated on one {_CALIBRATED_GPU} with vLLM 0.20.0 only: expect {ERROR_GIB} GiB either way")
    return Fit(
        profile=profile.name,
        gpu=gpu,
        vllm=str(version),
        cache=cache,
        held=capacity(cache, blocks, version, length),
        weights=tuple(loaded),
        max_model_len=length,
        max_num_seqs=seqs,
        budget_gib=budget,
        activation_gib=activation,
        pool_gib=pool,
        free_gib=gpu.gib - total_weights - blocks * cache.block_bytes / GIB - FIXED_GIB,
        error_gib=ERROR_CALIBRATED_GIB if calibrated else ERROR_GIB + draft.error_gib,
        given_pool=given,
        notes=tuple(notes),
        parallel=parallel,
        stage=stage,
        not_modelled=tuple(not_modelled(flags, profile.env, shape, gpu, from_headers=weights is not None)),
        set_blocks=override is not None or (set_bytes is not None and given_bytes),
    )


def _offload(flags: Mapping[str, Any], gpu: Gpu) -> int:
    """Bytes of the weights that may leave each GPU. None where the memory is shared, or other flags choose what leaves."""
    value = decimal(flags.get("cpu-offload-gb", 0))
    if value is None or not 0 <= value < 1 << 20:
        raise InputError(
            f"--cpu-offload-gb is {shown(flags['cpu-offload-gb'])}, not a number of GiB",
            hint="write 0 or more, such as 4, or leave the line out",
        )
    prefetch = flags.get("offload-backend") == "prefetch" or (
        flags.get("offload-backend", "auto") == "auto" and human_int(flags.get("offload-group-size", 0))
    )
    return 0 if gpu.unified or prefetch or flags.get("cpu-offload-params") else int(value * GIB)


def _utilization(flags: Mapping[str, Any], version: Version) -> float:
    name = "gpu-memory-utilization" if "gpu-memory-utilization" in flags else "device-memory-utilization"
    if name in flags:
        value = decimal(flags[name])
        if value is None or not 0 < value <= 1:
            percent = value is not None and 1 < value <= 100
            raise InputError(
                f"--{name} is {shown(flags[name])}, not between 0 and 1",
                hint=f"write {value / 100:g}" if percent and value else "it is a part of the GPU's memory, such as 0.9",
            )
        return value
    return next(default for since, default in _UTILIZATION if version >= since)


def _layout(
    flags: Mapping[str, Any],
    shape: ModelShape,
    version: Version,
    parallel: int,
    draft: Draft,
    batched: int,
) -> CacheLayout:
    caching = flags.get("enable-prefix-caching")
    if any(flags.get(name) is True for name in ("no-enable-prefix-caching", "disable-prefix-caching")):
        caching = False
    names = ("mamba-ssm-cache-dtype", "mamba-cache-dtype")
    dtypes = [str(flags.get(name, "auto")) for name in names]
    for name, dtype in zip(names, dtypes, strict=True):
        if dtype != "auto" and dtype not in DTYPE_BYTES:
            raise InputError(f"--{name} {dtype} is not modelled", hint=f"modelled: auto, {', '.join(DTYPE_BYTES)}")
    return layout(
        shape,
        version,
        cache_dtype=str(flags.get("kv-cache-dtype", "auto")),
        block_size=whole_number(flags, "block-size"),
        prefix_caching=caching if isinstance(caching, bool) else None,
        state_dtype=dtypes[0],
        conv_dtype=dtypes[1],
        tensor_parallel=parallel,
        draft_layers=draft.layers,
        drafted=draft.tokens if draft.method else 0,
        batched=batched,
    )


def _fullest(
    parts: Sequence[Part],
    cache: CacheLayout,
    shape: ModelShape,
    parallel: Parallel,
    room_gib: float,
    *,
    known: bool,
    offload: int,
) -> tuple[int, CacheLayout, list[Part], int]:
    """The pipeline stage with the fewest blocks: its place, its part of the cache, what it has of the weights, and the bytes
    of them that are in the machine's memory instead, at most `offload`.

    With a pool that is `known` (of one GPU, from a log) the stage with the most layers decides.
    """
    layers = stages(shape.layers, parallel.pipeline)
    found = []
    for stage, count in enumerate(layers):
        loaded, away = offloaded(share(parts, parallel, stage, layers), offload)
        own = replace(cache, group_layers=-(-cache.group_layers * count // sum(layers)))
        room = int((room_gib - sum(part.bytes for part in loaded) / GIB) * GIB)
        found.append((-count if known else own.blocks(max(0, room)), stage, own, loaded, away))
    _, stage, own, loaded, away = min(found, key=lambda each: each[:2])
    return stage, own, loaded, away


def _batched(flags: Mapping[str, Any], gpu: Gpu, notes: list[str]) -> int:
    """Tokens of a step: `--max-num-batched-tokens`, else what vLLM takes for the GPU."""
    batched = whole_number(flags, "max-num-batched-tokens")
    if batched is None:
        batched = 8192 if gpu.gib >= _LARGE_GPU_GIB and "a100" not in gpu.name else 2048
        notes.append(f"no --max-num-batched-tokens: vLLM's own {batched:,} for this GPU is assumed")
    return batched


def _activation(batched: int, shape: ModelShape, parallel: int) -> float:
    """Peak activation in GiB: three times the MLP's width and three times the residual stream, per batched token."""
    width = shape.mlp
    if shape.experts is not None:
        width = max(width, shape.experts.per_token * shape.experts.mlp + shape.experts.shared_mlp)
    per_token = DTYPE_BYTES[shape.dtype] * 3 * (width // parallel + shape.hidden)
    return batched * per_token / GIB
