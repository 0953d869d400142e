"""Variables that vLLM no longer has, and what to write instead; see `removed` for how the table is read.

Sources: the notes of the releases that deprecated them (`deprecated_env` and the comments in envs.py), pull requests, and the
releases between which a variable left.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.vllm.lint.removed import Removed

_ENVS = "vllm/envs.py of 0.22.1"
_IN_0_13, _IN_0_16, _IN_0_19 = (
    "vLLM 0.13.0 has it, 0.16.0 does not",
    "vLLM 0.16.0 has it, 0.19.1 does not",
    "vLLM 0.19.1 has it, 0.20.0 does not",
)
_IN_0_9, _IN_0_10, _IN_0_11 = (
    "vLLM 0.9.2 has it, 0.10.2 does not",
    "vLLM 0.10.2 has it, 0.11.2 does not",
    "vLLM 0.11.2 has it, 0.13.0 does not",
)
_IN_0_7 = "vLLM 0.7.3 has it, 0.9.2 does not"
_MOE = Removed("the kernels are chosen by `moe-backend`", _ENVS, ("moe-backend: flashinfer_cutlass",))


def _attention(key: str) -> Removed:
    return Removed("", _IN_0_13, (f"attention-config.{key}: {{value}}",), off=(f"attention-config.{key}: false",))


def _profiler(key: str) -> Removed:
    return Removed("", _IN_0_13, (f"profiler-config.{key}: {{value}}",), off=(f"profiler-config.{key}: false",))


REMOVED_VARIABLES: Mapping[str, Removed] = {
    "VLLM_ATTENTION_BACKEND": Removed("", "26315", ("attention-backend: {value}",)),
    "VLLM_ALL2ALL_BACKEND": Removed("", _IN_0_13, ("all2all-backend: {value}",)),
    "VLLM_USE_V1": Removed("the V1 engine is the only one", "25345"),
    "VLLM_MXFP4_USE_MARLIN": Removed("the kernels are chosen by `moe-backend`", _ENVS, ("moe-backend: marlin",)),
    "VLLM_USE_FLASHINFER_MOE_FP16": _MOE,
    "VLLM_USE_FLASHINFER_MOE_FP8": _MOE,
    "VLLM_USE_FLASHINFER_MOE_FP4": _MOE,
    "VLLM_USE_FLASHINFER_MOE_MXFP4_BF16": _MOE,
    "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8": _MOE,
    "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8_CUTLASS": _MOE,
    "VLLM_FLASHINFER_MOE_BACKEND": _MOE,
    "VLLM_TRITON_ATTN_USE_TD": Removed("", "vllm/envs.py of 0.26.0", ("VLLM_TRITON_USE_TD: {value}",)),
    "VLLM_FLASH_ATTN_VERSION": Removed("", _IN_0_13, ("attention-config.flash_attn_version: {value}",)),
    "VLLM_FLASH_ATTN_MAX_NUM_SPLITS_FOR_CUDA_GRAPH": Removed(
        "", _IN_0_13, ("attention-config.flash_attn_max_num_splits_for_cuda_graph: {value}",)
    ),
    "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": _attention("use_prefill_decode_attention"),
    "VLLM_USE_CUDNN_PREFILL": _attention("use_cudnn_prefill"),
    "VLLM_USE_TRTLLM_ATTENTION": _attention("use_trtllm_attention"),
    "VLLM_USE_TRTLLM_RAGGED_DEEPSEEK_PREFILL": _attention("use_trtllm_ragged_deepseek_prefill"),
    "VLLM_DISABLE_FLASHINFER_PREFILL": _attention("disable_flashinfer_prefill"),
    "VLLM_FLASHINFER_DISABLE_Q_QUANTIZATION": _attention("disable_flashinfer_q_quantization"),
    "VLLM_TORCH_PROFILER_DIR": Removed(
        "", _IN_0_13, ("profiler-config.profiler: torch", "profiler-config.torch_profiler_dir: {value}")
    ),
    "VLLM_TORCH_CUDA_PROFILE": Removed("", _IN_0_13, ("profiler-config.profiler: cuda",)),
    "VLLM_TORCH_PROFILER_RECORD_SHAPES": _profiler("torch_profiler_record_shapes"),
    "VLLM_TORCH_PROFILER_USE_GZIP": _profiler("torch_profiler_use_gzip"),
    "VLLM_TORCH_PROFILER_WITH_FLOPS": _profiler("torch_profiler_with_flops"),
    "VLLM_TORCH_PROFILER_WITH_PROFILE_MEMORY": _profiler("torch_profiler_with_memory"),
    "VLLM_TORCH_PROFILER_WITH_STACK": _profiler("torch_profiler_with_stack"),
    "VLLM_TORCH_PROFILER_DUMP_CUDA_TIME_TOTAL": _profiler("torch_profiler_dump_cuda_time_total"),
    "VLLM_PROFILER_DELAY_ITERS": Removed("", _IN_0_13, ("profiler-config.delay_iterations: {value}",)),
    "VLLM_PROFILER_MAX_ITERS": Removed("", _IN_0_13, ("profiler-config.max_iterations: {value}",)),
    "VLLM_MM_INPUT_CACHE_GIB": Removed("", _IN_0_11, ("mm-processor-cache-gb: {value}",)),
    "VLLM_MM_INPUT_CACHE_SIZE": Removed("the cache is sized by memory, `mm-processor-cache-gb`", _IN_0_7),
    "VLLM_SKIP_DEEP_GEMM_WARMUP": Removed("", _IN_0_10, ("VLLM_DEEP_GEMM_WARMUP: skip",)),
    "VLLM_USE_AITER_UNIFIED_ATTENTION": Removed("", _IN_0_10, ("VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION: {value}",)),
    "VLLM_USE_DEEP_GEMM_E8M0_HOPPER": Removed("", _IN_0_10, ("VLLM_USE_DEEP_GEMM_E8M0: {value}",)),
    "VLLM_V0_USE_OUTLINES_CACHE": Removed("", _IN_0_10, ("VLLM_V1_USE_OUTLINES_CACHE: {value}",)),
    "VLLM_USE_TRITON_FLASH_ATTN": Removed("the backend is chosen by `attention-backend`", _IN_0_10),
    "VLLM_FUSED_MOE_CHUNK_SIZE": Removed("activations are not cut into chunks", _IN_0_16),
    "VLLM_ENABLE_FUSED_MOE_ACTIVATION_CHUNKING": Removed("activations are not cut into chunks", _IN_0_16),
    "VLLM_ENABLE_MOE_DP_CHUNK": Removed("experts are not cut into chunks", _IN_0_19),
    "VLLM_MOE_DP_CHUNK_SIZE": Removed("experts are not cut into chunks", _IN_0_19),
    "VLLM_ROCM_CUSTOM_PAGED_ATTN": Removed("the backend is chosen by `attention-backend`", _IN_0_16),
    "VLLM_USE_RAY_COMPILED_DAG": Removed("", _IN_0_10),
    "VLLM_USE_RAY_SPMD_WORKER": Removed("", _IN_0_10),
    "VLLM_OPENVINO_KVCACHE_SPACE": Removed("OpenVINO is served by a plugin", _IN_0_7),
}
