"""The KV cache: bytes per token, block size, groups, blocks, and how many requests they hold.

The rules are those of `vllm/v1/core/kv_cache_utils.py`, `vllm/platforms/interface.py` and
`vllm/model_executor/layers/quantization/turboquant/config.py`; the figures that they were checked against are in
docs/profiles.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from packaging.version import Version

from builder.documents.model_shape import DTYPE_BYTES, Latent, ModelShape, SlidingWindow
from builder.util.errors import InputError

# Until 0.20.0 the start-up log printed blocks per group times block size; since then concurrency times length.
_TOKENS_FROM_CONCURRENCY = Version("0.20.1")
# Since 0.26.0 prefix caching is on by default for hybrid models too, and keeps two states per request and group.
_HYBRID_PREFIX_CACHING = Version("0.26.0")
DEFAULT_BLOCK = 16
_KERNEL_ALIGNMENT = 16

# Bits of a key (8: FP8, no norm) and of a value.
TURBOQUANT = {
    "turboquant_k8v4": (8, 4),
    "turboquant_4bit_nc": (4, 4),
    "turboquant_k3v4_nc": (3, 4),
    "turboquant_3bit_nc": (3, 3),
}
_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "bfloat16": 2, "float16": 2}


def turboquant_slot(cache_dtype: str, head_size: int) -> int:
    """Bytes of one head's key and value at one position: packed, with a 2-byte norm per low-bit key and 4 bytes of
    scale and zero per value, rounded up to an even number."""
    key_bits, value_bits = TURBOQUANT[cache_dtype]
    key = head_size if key_bits == 8 else math.ceil(head_size * key_bits / 8) + 2
    value = math.ceil(head_size * value_bits / 8) + 4
    return key + value + (key + value) % 2


def token_bytes(shape: ModelShape, cache_dtype: str, *, tensor_parallel: int = 1) -> int:
    """Bytes per token and attention layer on one GPU. Raises `InputError` for a cache type that is not modelled."""
    heads = max(1, shape.attention.kv_heads // tensor_parallel)
    size = shape.attention.head_size
    if shape.latent is not None:
        return _latent_bytes(shape, shape.latent, cache_dtype)
    if cache_dtype in TURBOQUANT:
        if not shape.hybrid:
            raise InputError(
                f"--kv-cache-dtype {cache_dtype} is not modelled for a model without linear-attention layers",
                hint="vLLM keeps its first and last two layers at the model's own type there",
            )
        return heads * turboquant_slot(cache_dtype, size)
    width = DTYPE_BYTES[shape.dtype] if cache_dtype == "auto" else _BYTES.get(cache_dtype)
    if width is None:
        raise InputError(
            f"--kv-cache-dtype {cache_dtype} is not modelled",
            hint=f"modelled: auto, {', '.join([*_BYTES, *TURBOQUANT])}",
        )
    return 2 * heads * size * width


def _latent_bytes(shape: ModelShape, latent: Latent, cache_dtype: str) -> int:
    """One latent and one rotary key per token, whole on every tensor parallel rank (`MLAAttentionSpec`)."""
    size = latent.kv_rank + latent.rope_size
    if cache_dtype == "fp8_ds_mla":
        # DeepSeek-V3.2's own layout: the latent in FP8 with four FP32 scales, the rotary key in BF16.
        return latent.kv_rank + 16 + 2 * latent.rope_size
    width = DTYPE_BYTES[shape.dtype] if cache_dtype == "auto" else _BYTES.get(cache_dtype)
    if width is None:
        raise InputError(
            f"--kv-cache-dtype {cache_dtype} is not modelled for latent attention",
            hint=f"modelled: auto, {', '.join(_BYTES)}, fp8_ds_mla",
        )
    return size * width


def state_bytes(
    shape: ModelShape,
    *,
    state_dtype: str = "auto",
    conv_dtype: str = "auto",
    tensor_parallel: int = 1,
    drafted: int = 0,
) -> int:
    """Bytes of one request's state in one linear-attention layer: the convolution's tail and the recurrent state.

    `drafted` tokens of speculative decoding lengthen the tail.
    """
    if shape.gdn is None:
        return 0
    gdn = shape.gdn
    conv = DTYPE_BYTES[shape.dtype if conv_dtype == "auto" else conv_dtype]
    state = DTYPE_BYTES[gdn.state_dtype if state_dtype == "auto" else state_dtype]
    tail = gdn.convolved // tensor_parallel * (gdn.convolution - 1 + drafted) * conv
    return tail + gdn.value_heads // tensor_parallel * gdn.head_size * gdn.head_size * state


@dataclass(frozen=True)
class CacheLayout:
    """How the cache is divided into blocks on one GPU. All groups share one pool of equal pages."""

    block_size: int
    """Tokens per block."""
    page_bytes: int
    """Bytes of one block in one layer."""
    group_layers: int
    attention_groups: int
    state_groups: int
    states_per_group: int
    """Blocks of state that one request holds in each state group."""
    window_groups: int = 0
    window: int = 0
    batched: int = 0
    """Tokens of a step, which a window is longer by while they are computed."""

    @property
    def block_bytes(self) -> int:
        """One block over the layers of a group."""
        return self.page_bytes * self.group_layers

    @property
    def groups(self) -> int:
        return self.attention_groups + self.state_groups + self.window_groups

    @property
    def bytes_per_token(self) -> int:
        """What a token takes as long as every layer looks back to it."""
        layers = self.group_layers * (self.attention_groups + self.window_groups)
        return self.page_bytes // self.block_size * layers

    def blocks(self, pool_bytes: int) -> int:
        """Blocks in a pool of that many bytes."""
        return max(0, pool_bytes // self.page_bytes // self.group_layers)

    def request_blocks(self, tokens: int) -> int:
        """Blocks that one request of `tokens` holds at its longest."""
        whole = math.ceil(tokens / self.block_size) * self.attention_groups + self.state_groups * self.states_per_group
        if not self.window_groups:
            return whole
        # `SlidingWindowSpec`: the window less one, the step's tokens, and a block more, since neither begins with a block.
        seen = min(self.window - 1 + self.batched, tokens)
        return whole + (math.ceil(seen / self.block_size) + 1) * self.window_groups


def layout(
    shape: ModelShape,
    version: Version,
    *,
    cache_dtype: str = "auto",
    block_size: int | None = None,
    prefix_caching: bool | None = None,
    state_dtype: str = "auto",
    conv_dtype: str = "auto",
    tensor_parallel: int = 1,
    draft_layers: int = 0,
    drafted: int = 0,
    batched: int = 0,
) -> CacheLayout:
    """The cache's layout for a model in one vLLM version.

    `draft_layers` are attention layers of a draft, `drafted` the tokens that it drafts per step, `batched` the tokens of a step.
    """
    per_token = token_bytes(shape, cache_dtype, tensor_parallel=tensor_parallel)
    block = block_size or DEFAULT_BLOCK
    full = shape.attention.layers + draft_layers
    if shape.sliding is not None:
        return _windowed(shape, shape.sliding, full, block, per_token, batched)
    if shape.gdn is None:
        return CacheLayout(block, block * per_token, full, 1, 0, 0)
    state = state_bytes(
        shape, state_dtype=state_dtype, conv_dtype=conv_dtype, tensor_parallel=tensor_parallel, drafted=drafted
    )
    # The attention page must hold a state: the block grows to the next multiple of the kernel's alignment.
    alignment = max(_KERNEL_ALIGNMENT, block)
    block = max(block, alignment * math.ceil(state / (alignment * per_token)))
    size = _group_size(full, shape.gdn.layers)
    if prefix_caching is None:
        prefix_caching = version >= _HYBRID_PREFIX_CACHING
    return CacheLayout(
        block_size=block,
        page_bytes=block * per_token,
        group_layers=size,
        attention_groups=math.ceil(full / size),
        state_groups=math.ceil(shape.gdn.layers / size),
        states_per_group=(2 if prefix_caching else 1) + drafted,
    )


def _group_size(one: int, other: int) -> int:
    """Layers of a group, where there are two kinds of layers: the smaller number, unless the larger is not much larger."""
    few, many = sorted((one, other))
    return many if many < few * 1.5 else few


def _windowed(
    shape: ModelShape, sliding: SlidingWindow, full: int, block: int, per_token: int, batched: int
) -> CacheLayout:
    if shape.gdn is not None:
        raise InputError("windowed layers beside linear attention are not modelled")
    size = _group_size(full, sliding.layers) if full else sliding.layers
    return CacheLayout(
        block_size=block,
        page_bytes=block * per_token,
        group_layers=size,
        attention_groups=math.ceil(full / size),
        state_groups=0,
        states_per_group=0,
        window_groups=math.ceil(sliding.layers / size),
        window=sliding.window,
        batched=batched,
    )


@dataclass(frozen=True)
class Capacity:
    """What a number of blocks holds, as the start-up log of one version counts it, and as it is."""

    blocks: int
    tokens: int
    """`GPU KV cache size` of the log."""
    concurrency: float
    """`Maximum concurrency` of the log, at `max_model_len`."""
    real_requests: int
    """Requests of `max_model_len` tokens at once: one block is the null block and holds nothing."""


def capacity(cache: CacheLayout, blocks: int, version: Version, max_model_len: int) -> Capacity:
    """What `blocks` hold."""
    needed = cache.request_blocks(max_model_len)
    concurrency = blocks / needed
    if version >= _TOKENS_FROM_CONCURRENCY:
        tokens = int(concurrency * max_model_len)
    else:
        tokens = blocks // cache.groups * cache.block_size
    return Capacity(blocks, tokens, concurrency, max(0, blocks - 1) // needed)
