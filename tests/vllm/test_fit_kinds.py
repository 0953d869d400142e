"""Windowed layers, latent attention, mixtures of experts, drafts and division over GPUs.

The judges: start-up logs that others published, and vLLM 0.20.0's own `kv_cache_utils` (tests/engine/test_kv_layouts.py runs it
and holds these figures to it).
"""

from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version

from builder.documents.model_shape import (
    Attention,
    Experts,
    GatedDeltaNet,
    Latent,
    ModelShape,
    SlidingWindow,
    shape_of_config,
)
from builder.documents.profile import Profile
from builder.util.errors import InputError
from builder.vllm.fit.coverage import EFFECTS, MACHINE, MODELLED, NO_MEMORY
from builder.vllm.fit.estimate import ERROR_GIB, Fit, estimate
from builder.vllm.fit.gpus import find_gpu, gpus, known_gpu, match_gpu
from builder.vllm.fit.kv import capacity, layout
from builder.vllm.fit.parallel import Parallel, refusal, stages
from builder.vllm.fit.weights import GIB, parts_of_headers
from builder.vllm.lint.kept import read_package
from builder.vllm.reader.source import from_files
from tests.support.pytrees import LazyFiles, package_tree

V0_20_0 = Version("0.20.0")

QWEN3_30B = ModelShape(
    hidden=2048, mlp=6144, vocabulary=151936, context=40960, rotary_positions=40960, rotary_size=128,
    attention=Attention(layers=48, query_heads=32, kv_heads=4, head_size=128),
    experts=Experts(layers=48, count=128, per_token=8, mlp=768),
)  # fmt: skip
GLM_4_7 = ModelShape(
    hidden=5120, mlp=12288, vocabulary=151552, attention=Attention(layers=92, query_heads=96, kv_heads=8, head_size=128),
    experts=Experts(layers=89, count=160, per_token=8, mlp=1536, shared_mlp=1536),
)  # fmt: skip
DEEPSEEK_V2_LITE = ModelShape(
    hidden=2048, mlp=10944, vocabulary=102400, attention=Attention(layers=27, query_heads=16, kv_heads=16, head_size=192),
    latent=Latent(kv_rank=512, rope_size=64, nope_size=128, value_size=128),
    experts=Experts(layers=26, count=64, per_token=6, mlp=1408, shared_mlp=2816),
)  # fmt: skip
GEMMA_3_27B = ModelShape(
    hidden=5376, mlp=21504, vocabulary=262208, tied=True, rotary_positions=131072, rotary_size=128,
    vision_parameters=417_000_000, attention=Attention(layers=10, query_heads=32, kv_heads=16, head_size=128),
    sliding=SlidingWindow(layers=52, window=1024),
)  # fmt: skip
STARCODER2_3B = ModelShape(
    hidden=3072, mlp=12288, vocabulary=49152, attention=Attention(layers=0, query_heads=24, kv_heads=2, head_size=128),
    sliding=SlidingWindow(layers=30, window=4096),
)  # fmt: skip
GPT_OSS_20B = ModelShape(
    hidden=2880, mlp=2880, vocabulary=201088, attention=Attention(layers=12, query_heads=64, kv_heads=8, head_size=64),
    sliding=SlidingWindow(layers=12, window=128), experts=Experts(layers=24, count=32, per_token=4, mlp=2880),
)  # fmt: skip
LLAMA_8B = ModelShape(
    hidden=4096, mlp=14336, vocabulary=128256, rotary_positions=131072, rotary_size=128,
    attention=Attention(layers=32, query_heads=32, kv_heads=8, head_size=128),
)  # fmt: skip
QWEN_27B = ModelShape(
    hidden=5120, mlp=17408, vocabulary=248320, quantization="fp8", vision_parameters=460_700_000, draft_layers=1,
    rotary_positions=1048576, rotary_size=64,
    attention=Attention(layers=16, query_heads=24, kv_heads=4, head_size=256, gated=True),
    gdn=GatedDeltaNet(layers=48, key_heads=16, value_heads=48, head_size=128),
)  # fmt: skip


def fit(shape: ModelShape, gpu: str = "h200", version: str = "0.20.0", pool: float | None = None, **flags: Any) -> Fit:
    plain = {name.replace("_", "-"): value for name, value in flags.items()}
    profile = Profile(name="p", flags={"max-model-len": 4096, "max-num-batched-tokens": 8192, **plain})
    return estimate(profile, shape, find_gpu(gpu), Version(version), pool_gib=pool)


# --- published start-up logs ----------------------------------------------------------------------------------------


def test_deepseek_v2_lite_over_two_stages_of_two_gpus() -> None:
    """github.com/vllm-project/vllm/pull/20665: 4x L4, tensor 2, pipeline 2; pools of 12.13 and 11.33 GiB.

    Published: 807,792 tokens, 788.86x at 1,024. Latent attention is whole on both tensor ranks; the first stage has 14 layers.
    """
    found = fit(
        DEEPSEEK_V2_LITE, "l4", "0.9.2", 12.13, tensor_parallel_size=2, pipeline_parallel_size=2, max_model_len=1024
    )
    assert (found.stage, found.cache.group_layers, found.cache.block_bytes) == (0, 14, 14 * 16 * 576 * 2)
    low, high = (found.cache.blocks(int((12.13 + rounding) * GIB)) * 16 for rounding in (-0.005, 0.005))
    assert low <= 807_792 <= high
    assert f"{capacity(found.cache, 807_792 // 16, Version('0.9.2'), 1024).concurrency:.2f}" == "788.86"
    # The second stage's 13 layers have room for more, which is not used.
    assert 11.33 * GIB // (13 * 16 * 576 * 2) * 16 > 807_792
    estimated = fit(
        DEEPSEEK_V2_LITE, "l4", "0.9.2", tensor_parallel_size=2, pipeline_parallel_size=2, max_model_len=1024
    )
    assert abs(estimated.pool_gib - 12.13) <= estimated.error_gib + 0.5


@pytest.mark.parametrize(
    ("shape", "length", "needed", "pool", "longest"),
    [
        # github.com/vllm-project/vllm/issues/15871: MLA, vLLM 0.8.3
        (DEEPSEEK_V2_LITE, 32_768, 0.95, None, None),
        # github.com/vllm-project/vllm/issues/34076: Qwen3-Coder-30B-A3B, vLLM 0.15.2
        (QWEN3_30B, 262_144, 24.0, 3.18, 34_736),
        # github.com/vllm-project/vllm/issues/32105: GLM-4.7 over eight pipeline stages, A100
        (GLM_4_7, 202_752, 71.16, 28.57, 81_392),
    ],
)
def test_what_one_request_needs(
    shape: ModelShape, length: int, needed: float, pool: float | None, longest: int | None
) -> None:
    """`To serve at least one request with the model's max seq len (...), (... GiB KV cache is needed`, over all stages."""
    cache = layout(shape, V0_20_0)
    assert cache.block_bytes * cache.request_blocks(length) / GIB == pytest.approx(needed, abs=0.005)
    if pool is not None and longest is not None:
        low, high = (int((pool + rounding) * GIB) // cache.block_bytes * 16 for rounding in (-0.005, 0.005))
        assert low <= longest <= high


@pytest.mark.parametrize(
    ("shape", "flags", "refused"),
    [
        (QWEN_27B, {"tensor_parallel_size": 5}, "24 attention heads among 5"),
        # 24 can be divided by 3 and 6; the 4 KV heads can neither be divided nor repeated so.
        (QWEN_27B, {"tensor_parallel_size": 3}, "4 KV heads among 3"),
        (QWEN_27B, {"tensor_parallel_size": 6}, "4 KV heads among 6"),
        (LLAMA_8B, {"enable_expert_parallel": True}, "without experts"),
    ],
)
def test_a_division_that_vllm_refuses_is_refused(shape: ModelShape, flags: dict[str, Any], refused: str) -> None:
    with pytest.raises(InputError, match=refused) as raised:
        fit(shape, **flags)
    assert raised.value.hint in ("write one of 1, 2, 4, 8", "leave enable-expert-parallel out")


def test_kv_heads_are_repeated_and_latent_ones_are_not_divided() -> None:
    assert refusal(Parallel(tensor=8), QWEN_27B) is None
    assert refusal(Parallel(tensor=16), DEEPSEEK_V2_LITE) is None


def test_offloaded_layers_leave_the_gpu_up_to_what_the_layers_are() -> None:
    """`UVAOffloader` moves parameters of layers only: tables and the vision tower stay."""
    plain, some, every = (fit(QWEN_27B, cpu_offload_gb=size) for size in (0, 4, 100))
    assert plain.weights_gib - some.weights_gib == pytest.approx(4, abs=1e-6)
    assert some.pool_gib - plain.pool_gib == pytest.approx(4, abs=1e-6)
    assert {part.name for part in every.weights if not part.bytes} == {"linear layers", "scales"}
    assert "4.00 GiB of layers" in " ".join(some.notes)
    # On shared memory nothing is won; what other flags choose is not counted, and named.
    shared = fit(QWEN_27B, "gb10", cpu_offload_gb=4)
    chosen = fit(QWEN_27B, cpu_offload_gb=4, cpu_offload_params="mlp")
    assert shared.weights_gib == chosen.weights_gib == plain.weights_gib
    assert "--cpu-offload-gb" in " ".join(shared.not_modelled)
    assert "--cpu-offload-params" in " ".join(chosen.not_modelled)
    with pytest.raises(InputError, match="not a number of GiB"):
        fit(QWEN_27B, cpu_offload_gb="nan")


@pytest.mark.parametrize("flags", [{"num_gpu_blocks_override": 100_000}, {"kv_cache_memory_bytes": "200G"}])
def test_a_set_cache_that_the_gpu_has_no_memory_for_does_not_fit(flags: dict[str, Any]) -> None:
    found = fit(LLAMA_8B, **flags)
    assert (found.too_large, found.fits, found.held.real_requests > 0) == (True, False, True)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"enable_lora": True, "max_loras": 2}, "weights of adapters (--enable-lora, --max-loras)"),
        ({"compilation_config.mode": 3}, "CUDA graphs and compiled code (--compilation-config.mode)"),
        ({"limit_mm_per_prompt": '{"image": 4}'}, "images, audio and video"), ({"dtype": "float32"}, "not bfloat16"),
        ({"quantization": "fp8"}, "quantized while they are loaded"), ({"frobnicate": 1}, "not known whether it takes memory"),
        ({"decode_context_parallel_size": 2}, "context parallelism"), ({"no_enable_chunked_prefill": True}, "tensors of a step"),
        ({"enable_lora": False, "no_enable_eplb": True, "decode_context_parallel_size": 1, "dtype": "auto", "seed": 1}, None),
    ],
)  # fmt: skip
def test_a_flag_is_modelled_or_named(flags: dict[str, Any], named: str | None) -> None:
    missing = fit(LLAMA_8B, **flags).not_modelled
    assert missing == () if named is None else named in " ".join(missing)


def test_memory_of_the_machine_is_the_gpus_where_it_is_shared() -> None:
    assert "none of the GPU" in " ".join(fit(LLAMA_8B, mm_processor_cache_gb=4).notes)
    assert "--mm-processor-cache-gb" in " ".join(fit(LLAMA_8B, "gb10", mm_processor_cache_gb=4).not_modelled)


@pytest.mark.wheels
def test_every_flag_of_vllm_is_classified_once() -> None:
    classes = (MODELLED, EFFECTS.keys(), MACHINE, NO_MEMORY)
    source = from_files(LazyFiles(package_tree("0.20.0")), version="0.20.0")
    assert read_package(source).catalog.flags.keys() <= set().union(*classes)
    assert sum(map(len, classes)) == len(set().union(*classes))


def test_starcoder2_with_windows_only() -> None:
    """github.com/vllm-project/vllm/pull/19029: 2,198,512 tokens and 178.68x at 16,384, 8,192 batched tokens."""
    cache = layout(STARCODER2_3B, Version("0.9.1"), batched=8192)
    assert cache.request_blocks(16_384) == 769
    found = capacity(cache, 2_198_512 // 16, Version("0.9.1"), 16_384)
    assert (found.tokens, f"{found.concurrency:.2f}") == (2_198_512, "178.68")


def test_qwen3_6_35b_with_another_pool() -> None:
    """github.com/noonghunna/club-3090/issues/652: RTX 5090, vLLM 0.24.0, fp8, 6.01 GiB; 569,878 tokens, 4.35x at 131,072."""
    shape = ModelShape(
        hidden=2048, mlp=512, vocabulary=248320,
        attention=Attention(layers=10, query_heads=16, kv_heads=2, head_size=256, gated=True),
        gdn=GatedDeltaNet(layers=30, key_heads=16, value_heads=32, head_size=128),
    )  # fmt: skip
    cache = layout(shape, Version("0.24.0"), cache_dtype="fp8", prefix_caching=True)
    found = capacity(cache, cache.blocks(int(6.01 * GIB)), Version("0.24.0"), 131_072)
    assert (found.tokens, f"{found.concurrency:.2f}") == (569_878, "4.35")


def test_a_block_of_the_27b_on_one_a6000() -> None:
    """github.com/noonghunna/club-3090/issues/1047: blocks of 1,568 tokens, padded by 0.13 %."""
    cache = layout(QWEN_27B, Version("0.24.0"), cache_dtype="fp8")
    assert cache.block_size == 1_568
    assert f"{(cache.page_bytes / 3_207_168 - 1) * 100:.2f}" == "0.13"


def test_the_27b_on_two_5090() -> None:
    """github.com/vllm-project/recipes/pull/810: tensor 2 at 262,144; 377,456 tokens with 14.28 GiB loaded, 445,875 with 12.02.

    The pools are not published: one number of blocks gives each figure, and the pools differ by what the weights differ by.
    """
    cache = layout(QWEN_27B, Version("0.26.1"), prefix_caching=True, tensor_parallel=2)
    needed = cache.request_blocks(262_144)
    blocks = [
        [each for each in range(1, 3_000) if int(each / needed * 262_144) == tokens] for tokens in (377_456, 445_875)
    ]
    assert blocks == [[491], [580]]
    pools = [each[0] * cache.block_bytes / GIB for each in blocks]
    assert pools[1] - pools[0] == pytest.approx(14.28 - 12.02, abs=0.2)
    assert fit(QWEN_27B, "rtx-5090", "0.26.1", tensor_parallel_size=2).weights_gib == pytest.approx(14.28, abs=0.15)


@pytest.mark.parametrize(
    ("shape", "flags", "published", "error"),
    [
        # github.com/vllm-project/vllm/issues/17469: Qwen3-30B-A3B, BF16, tensor 4
        (QWEN3_30B, {"tensor_parallel_size": 4}, 14.2474, 0.01),
        # github.com/vllm-project/vllm/issues/10517: Llama 3.1 8B
        (LLAMA_8B, {}, 14.9888, 0.01),
        # github.com/vllm-project/vllm/issues/16378: Gemma 3 27B, tensor 4; what its vision part keeps is not modelled
        (GEMMA_3_27B, {"tensor_parallel_size": 4}, 13.1664, 0.4),
    ],
)
def test_loaded_weights(shape: ModelShape, flags: dict[str, Any], published: float, error: float) -> None:
    """`Model loading took ... GiB` of one rank."""
    assert fit(shape, **flags).weights_gib == pytest.approx(published, abs=error)


# --- vLLM's own arithmetic ------------------------------------------------------------------------------------------

POOL = 8 * GIB
# As vLLM 0.20.0's kv_cache_utils gives them: groups, layers of one, blocks, tokens, concurrency.
OWN: dict[str, tuple[ModelShape, dict[str, Any], int, tuple[int, int, int, int, float]]] = {
    "gpt-oss-20b": (GPT_OSS_20B, {"batched": 8192}, 131_072, (2, 12, 21_845, 174_752, 2.5071731894869735)),
    "gpt-oss-20b with EAGLE": (
        GPT_OSS_20B, {"batched": 8192, "draft_layers": 1}, 131_072, (2, 13, 20_164, 161_312, 2.3142430850453346),
    ),
    "gemma-3-27b": (GEMMA_3_27B, {"batched": 2048}, 32_768, (7, 10, 6_553, 14_976, 2.0439800374298194)),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_layout_is_vllms_own(name: str) -> None:
    shape, options, length, (groups, layers, blocks, tokens, concurrency) = OWN[name]
    cache = layout(shape, V0_20_0, **options)
    found = capacity(cache, cache.blocks(POOL), V0_20_0, length)
    assert (cache.groups, cache.group_layers, found.blocks, found.tokens) == (groups, layers, blocks, tokens)
    assert found.concurrency == pytest.approx(concurrency)


def test_a_draft_lengthens_states_and_adds_a_layer() -> None:
    plain, drafted = layout(QWEN_27B, V0_20_0), layout(QWEN_27B, V0_20_0, draft_layers=1, drafted=2)
    assert (plain.block_size, plain.group_layers, plain.groups) == (784, 16, 4)
    # vLLM 0.20.0: 17 attention layers, and states that are two positions longer and kept for every drafted token.
    assert (drafted.block_size, drafted.group_layers, drafted.groups, drafted.states_per_group) == (800, 17, 4, 3)


# --- division over GPUs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "pipeline", "found"),
    [
        (27, 2, [14, 13]),
        (48, 2, [24, 24]),
        (92, 8, [11, 11, 11, 12, 12, 12, 12, 11]),
        (62, 4, [15, 16, 16, 15]),
        (3, 3, [1, 1, 1]),
    ],
)
def test_layers_are_divided_as_vllm_divides_them(layers: int, pipeline: int, found: list[int]) -> None:
    assert stages(layers, pipeline) == found


def test_experts_are_divided_over_data_parallel_ranks_too() -> None:
    whole = {part.name: part.bytes for part in fit(QWEN3_30B).weights}
    ranks = {
        part.name: part.bytes for part in fit(QWEN3_30B, data_parallel_size=4, enable_expert_parallel=True).weights
    }
    assert ranks["experts"] == whole["experts"] // 4
    assert ranks["linear layers"] == whole["linear layers"]
    assert fit(QWEN3_30B, data_parallel_size=2, tensor_parallel_size=2).parallel.gpus == 4


def test_vocabulary_tables_are_on_the_first_and_the_last_stage() -> None:
    both = fit(LLAMA_8B, pipeline_parallel_size=2)
    names = {part.name for part in both.weights}
    assert ("embed_tokens" in names) != ("lm_head" in names)
    assert sum(part.bytes for part in both.weights) < sum(part.bytes for part in fit(LLAMA_8B).weights) * 0.6
    tied = LLAMA_8B.model_copy(update={"tied": True})
    assert "embed_tokens" in {part.name for part in fit(tied, pipeline_parallel_size=2).weights}


@pytest.mark.parametrize(
    ("config", "adds", "note"),
    [
        ('{"method": "mtp", "num_speculative_tokens": 1}', True, None),
        ('{"method": "eagle3", "model": "a/b", "num_speculative_tokens": 3}', True, "own checkpoint"),
        ('{"method": "ngram", "num_speculative_tokens": 4}', False, None),
        ('{"model": "a/b", "num_speculative_tokens": 4}', False, "not modelled"),
    ],
)
def test_drafts(config: str, adds: bool, note: str | None) -> None:
    plain, drafted = fit(QWEN_27B), fit(QWEN_27B, speculative_config=config)
    assert (drafted.weights_gib > plain.weights_gib + 0.2) is adds
    assert drafted.weights_gib < plain.weights_gib + 1.5
    assert note is None or any(note in each for each in drafted.notes)
    assert drafted.error_gib >= ERROR_GIB


@pytest.mark.parametrize("value", ["{", "[]", 3, True, '{"method": "mtp", "num_speculative_tokens": "x"}'])
def test_a_wrong_speculative_config_is_refused(value: Any) -> None:
    with pytest.raises(InputError):
        fit(QWEN_27B, speculative_config=value)


WITH_CONTEXT = QWEN_27B.model_copy(update={"context": 262_144})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"max_num_seqs": "8", "kv_cache_dtype": "turboquant_k8v4"}, {"max_num_seqs": 8, "kv_cache_dtype": "turboquant_k8v4"}),
        ({"quantization": "FP8"}, {"quantization": "fp8"}),
        ({"kv_cache_memory_bytes": "None"}, {}),
        ({"max_model_len": ""}, {"max_model_len": 262_144}),
        ({"disable_prefix_caching": True}, {"enable_prefix_caching": False}),
        (
            {"speculative_config": '{"method": "mtp", "num-speculative-tokens": "2"}'},
            {"speculative_config": '{"method": "mtp", "num_speculative_tokens": 2}'},
        ),
        (
            {"speculative-config.method": "mtp", "speculative-config.num_speculative_tokens": "2"},
            {"spec_method": "mtp", "spec_tokens": 2},
        ),
    ],
)  # fmt: skip
def test_spellings_that_vllm_takes_for_the_same_give_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = fit(WITH_CONTEXT, **one), fit(WITH_CONTEXT, **other)
    assert first == second


def test_a_context_that_is_left_to_vllm_is_what_the_cache_holds() -> None:
    pinned = fit(WITH_CONTEXT, pool=5.0, max_model_len=262_144)
    assert not pinned.fits
    for left in ("auto", -1, "-1"):
        found = fit(WITH_CONTEXT, pool=5.0, max_model_len=left)
        assert found.fits
        needed = found.cache.request_blocks(found.max_model_len)
        assert needed <= found.held.blocks - 1 < found.cache.request_blocks(found.max_model_len + 1)
        assert any("left to vLLM" in each for each in found.notes)
    assert fit(WITH_CONTEXT, max_model_len="auto").max_model_len == 262_144


# --- configs and headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"kv_cache_memory_bytes": "2GB"}, "not a whole number above 0"),
        ({"gpu_memory_utilization": 90}, "write 0.9"),
        ({"gpu_memory_utilization": "x"}, "such as 0.9"),
    ],
)
def test_a_number_that_vllm_would_refuse_is_not_passed_over(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        fit(QWEN_27B, **flags)
    assert words in f"{refused.value.message} {refused.value.hint}"


def test_configs_of_each_kind() -> None:
    plain = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 100,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    }
    experts = shape_of_config({**plain, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 16})  # fmt: skip
    assert experts.experts == Experts(layers=6, count=8, per_token=2, mlp=32, shared_mlp=16)
    latent = shape_of_config(
        {
            **plain, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 2, "moe_intermediate_size": 32,
            "first_k_dense_replace": 1, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
            "q_lora_rank": None, "num_nextn_predict_layers": 1,
        }
    )  # fmt: skip
    assert latent.latent == Latent(kv_rank=16, rope_size=4, nope_size=8, value_size=8)
    assert latent.experts == Experts(layers=5, count=8, per_token=2, mlp=32, shared_mlp=64)
    assert latent.draft_layers == 1
    mixed = shape_of_config({**plain, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"] * 3})
    assert (mixed.attention.layers, mixed.sliding) == (3, SlidingWindow(layers=3, window=32))
    assert shape_of_config({**plain, "sliding_window": 32, "sliding_window_pattern": 6}).attention.layers == 1
    assert shape_of_config({**plain, "sliding_window": 32}).attention.layers == 0
    assert shape_of_config({**plain, "sliding_window": 32, "use_sliding_window": False}).sliding is None
    with pytest.raises(InputError, match="other heads"):
        shape_of_config({**plain, "head_dim": 16, "global_head_dim": 32, "sliding_window": 32})
    with pytest.raises(InputError, match="quantization"):
        shape_of_config({**plain, "quantization_config": {"quant_method": "mxfp4"}})
    assert shape_of_config({**plain, "quantization_config": {"quant_method": "mxfp4"}}, other_weights=True).hidden == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": "x"}, "hidden_size is 'x', not a whole number"), ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"quantization_config": "x"}, "quantization_config is 'x', not an object"), ({"dtype": "int3"}, "dtype: "),
        ({"text_config": {"hidden_size": 1}}, "it has no num_hidden_layers"), ({"layer_types": ["linear_attention"]}, "it has no linear_num"),
        ({"partial_rotary_factor": "x"}, "another type"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused_in_plain_words(change: dict[str, Any], words: str) -> None:
    good = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 30,
        "intermediate_size": 40,
    }
    with pytest.raises(InputError) as refused:
        shape_of_config({**good, **change})
    assert words in refused.value.message
    assert not any(
        word in refused.value.message for word in ("pydantic", "int()", "validation", "NoneType", "Input should")
    )


def test_headers_tell_what_is_divided_how() -> None:
    tensors = [
        ("model.embed_tokens.weight", "BF16", (100, 64)), ("lm_head.weight", "BF16", (100, 64)),
        ("model.layers.0.mlp.experts.0.up_proj.weight", "U8", (32, 16)), ("model.layers.0.mlp.gate.weight", "BF16", (8, 64)),
        ("model.layers.0.mlp.experts.0.up_proj.weight_scale", "U8", (32, 2)),
        ("model.layers.0.self_attn.o_proj.weight", "BF16", (64, 64)), ("model.layers.6.self_attn.o_proj.weight", "BF16", (64, 64)),
    ]  # fmt: skip
    parts = {(part.dtype, part.place): part.bytes for part in parts_of_headers(tensors, draft_from=6)}
    assert parts == {
        ("BF16", "first"): 12_800, ("BF16", "last"): 12_800, ("U8", "experts"): 512, ("BF16", "replicated"): 1_024,
        ("fp32 scales", "experts"): 64, ("BF16", "layers"): 8_192,
    }  # fmt: skip
    assert (
        sum(part.bytes for part in parts_of_headers(tensors, draft_from=6, speculation=True))
        == sum(parts.values()) + 8_192
    )


# --- GPUs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("NVIDIA GB10", "gb10"), ("DGX Spark", "gb10"), ("dgx_spark_gb10", "gb10"),
        ("rtx-pro-6000", "rtx-pro-6000"), ("rtx-6000-pro", "rtx-pro-6000"), ("rtx_pro_6000_2x", "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"), ("NVIDIA_RTX_PRO_6000_Blackwell_Server_Edition", "rtx-pro-6000"),
        ("RTX A6000", "rtx-a6000"), ("a6000", "rtx-a6000"), ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA_H100_80GB_HBM3", "h100-80gb"), ("h100", "h100-80gb"), ("8xH100", "h100-80gb"), ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"), ("b200", "b200"), ("NVIDIA B300 SXM6 AC", "b300"), ("gb300", "gb300"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"), ("4090", "rtx-4090"), ("rtx4090", "rtx-4090"), ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA L4", "l4"), ("L40S", "l40s"), ("NVIDIA L40", "l40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("A100 40 GB", "a100-40gb"), ("NVIDIA_A100-PCIE-40GB", "a100-40gb"),
        ("AMD_Instinct_MI300X", "mi300x"), ("AMD Instinct MI300X OAM", "mi300x"), ("mi325x", "mi325x"),
    ],
)  # fmt: skip
def test_a_gpu_is_found_by_every_spelling(spelled: str, name: str) -> None:
    assert [gpu.name for gpu in match_gpu(spelled)] == [name]


@pytest.mark.parametrize(
    ("spelled", "hint"),
    [
        ("rtx-pro-4000", "did you mean"), ("a100", "a100-40gb or a100-80gb"), ("rtx-5080", "rtx-5090"), ("Quadro RTX 6000", "rtx-pro-6000"),
        ("h1000", "did you mean"), ("", "known: "), ("4090 48GB", "known: "),
    ],
)  # fmt: skip
def test_what_is_none_or_several_is_said(spelled: str, hint: str) -> None:
    assert known_gpu(spelled) is None
    with pytest.raises(InputError) as refused:
        find_gpu(spelled)
    assert hint in (refused.value.hint or "")


def test_every_gpu_is_found_by_its_own_name_in_other_spellings() -> None:
    for name, gpu in gpus().items():
        for spelled in (name, name.upper(), name.replace("-", "_"), name.replace("-", " "), f"NVIDIA {name}"):
            assert [each.name for each in match_gpu(spelled)] == [gpu.name], spelled
