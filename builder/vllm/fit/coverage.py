"""Which flags the estimate takes into account, and what it says of those that it does not.

Every flag of vLLM 0.20.0 is in one of the tables; a flag that is in none is reported as not known. Sources: the docstrings
of `vllm/config/*.py` and `vllm/v1/worker/gpu_worker.py` (`determine_available_memory`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.documents.model_shape import DTYPE_BYTES, ModelShape
from builder.vllm.fit.drafts import SINGLE
from builder.vllm.fit.gpus import Gpu

MODELLED = frozenset(
    [
        "block-size",
        "cpu-offload-gb",
        "data-parallel-size",
        "device-memory-utilization",
        "dtype",
        "enable-expert-parallel",
        "enable-prefix-caching",
        "gpu-memory-utilization",
        "kv-cache-dtype",
        "kv-cache-memory-bytes",
        "language-model-only",
        "mamba-cache-dtype",
        "mamba-ssm-cache-dtype",
        "max-model-len",
        "max-num-batched-tokens",
        "max-num-seqs",
        "num-gpu-blocks-override",
        "pipeline-parallel-size",
        "quantization",
        "speculative-config",
        *SINGLE,
        "tensor-parallel-size",
    ]
)

# What a flag changes on the GPU -> the flags.
_GPU = {
    "weights of adapters": "enable-lora fully-sharded-loras lora-dtype lora-modules default-mm-loras max-loras max-lora-rank "
    "enable-tower-connector-lora specialize-active-lora lora-target-modules",
    "context parallelism": "decode-context-parallel-size prefill-context-parallel-size dcp-comm-backend "
    "dcp-kv-cache-interleave-size cp-kv-cache-interleave-size",
    "which weights are offloaded": "cpu-offload-params offload-backend offload-group-size offload-num-in-group offload-params "
    "offload-prefetch-step",
    "the layout of the KV cache": "calculate-kv-scales kv-cache-dtype-skip-layers kv-sharing-fast-prefill "
    "disable-hybrid-kv-cache-manager disable-sliding-window mamba-block-size mamba-cache-mode "
    "enable-mamba-cache-stochastic-rounding attention-backend attention-config",
    "buffers that move the KV cache": "kv-transfer-config kv-offloading-backend ec-transfer-config",
    "CUDA graphs and compiled code": "enforce-eager compilation-config cudagraph-capture-sizes max-cudagraph-capture-size "
    "optimization-level performance-mode",
    "images, audio and video": "limit-mm-per-prompt mm-processor-kwargs mm-encoder-tp-mode mm-encoder-attn-backend "
    "mm-encoder-only skip-mm-profiling enable-mm-embeds video-pruning-rate mm-tensor-ipc media-io-kwargs",
    "placement and buffers of experts": "all2all-backend enable-eplb eplb-config enable-elastic-ep enable-ep-weight-filter "
    "expert-placement-strategy moe-backend enable-dbo ubatch-size dbo-decode-token-threshold dbo-prefill-token-threshold",
    "what kernels allocate": "disable-custom-all-reduce kernel-config ir-op-priority enable-flashinfer-autotune mamba-backend "
    "gdn-prefill-backend override-attention-dtype disable-cascade-attn async-scheduling enable-sleep-mode",
    "what is loaded, and how": "hf-overrides hf-config-path load-format model-loader-extra-config model-impl runner convert "
    "pooler-config config-format additional-config weight-transfer-config",
    "tensors of a step": "enable-prompt-embeds enable-return-routed-experts max-logprobs logprobs-mode logits-processors "
    "enable-chunked-prefill",
    "code that is not vLLM's": "worker-cls worker-extension-cls scheduler-cls",
}  # fmt: skip
# What can only take more than the estimate says: what does not fit without it does not fit with it.
ONLY_MORE = frozenset(
    {
        "weights of adapters",
        "buffers that move the KV cache",
        "CUDA graphs and compiled code",
        "what kernels allocate",
        "tensors of a step",
        "how memory is allocated",
    }
)
# Memory of the machine. On a GPU that shares it, that is memory of the GPU.
MACHINE = frozenset(
    [
        "kv-offloading-size",
        "max-cpu-loras",
        "mm-processor-cache-gb",
        "mm-processor-cache-type",
        "mm-shm-cache-max-object-size-mb",
        "swap-space",
    ]
)
# Addresses, names, tokens, logs, metrics, scheduling and files: nothing that stays on the GPU.
NO_MEMORY = frozenset(
    [
        "aggregate-engine-logging",
        "allow-credentials",
        "allow-deprecated-quantization",
        "allowed-headers",
        "allowed-local-media-path",
        "allowed-media-domains",
        "allowed-methods",
        "allowed-origins",
        "api-key",
        "api-server-count",
        "chat-template",
        "chat-template-content-format",
        "code-revision",
        "collect-detailed-traces",
        "config",
        "cudagraph-metrics",
        "data-parallel-address",
        "data-parallel-backend",
        "data-parallel-external-lb",
        "data-parallel-hybrid-lb",
        "data-parallel-rank",
        "data-parallel-rpc-port",
        "data-parallel-size-local",
        "data-parallel-start-rank",
        "default-chat-template-kwargs",
        "disable-access-log-for-endpoints",
        "disable-chunked-mm-input",
        "disable-fastapi-docs",
        "disable-log-stats",
        "disable-nccl-for-dp-synchronization",
        "disable-uvicorn-access-log",
        "distributed-executor-backend",
        "distributed-timeout-seconds",
        "download-dir",
        "enable-auto-tool-choice",
        "enable-flash-late-interaction",
        "enable-force-include-usage",
        "enable-layerwise-nvtx-tracing",
        "enable-log-deltas",
        "enable-log-outputs",
        "enable-log-requests",
        "enable-logging-iteration-details",
        "enable-mfu-metrics",
        "enable-offline-docs",
        "enable-prompt-tokens-details",
        "enable-request-id-headers",
        "enable-server-load-tracking",
        "enable-ssl-refresh",
        "enable-tokenizer-info-endpoint",
        "exclude-tools-when-tool-choice-none",
        "fail-on-environ-validation",
        "generation-config",
        "grpc",
        "h11-max-header-count",
        "h11-max-incomplete-event-size",
        "headless",
        "hf-token",
        "host",
        "ignore-patterns",
        "interleave-mm-strings",
        "io-processor-plugin",
        "kv-cache-metrics",
        "kv-cache-metrics-sample",
        "kv-events-config",
        "log-config-file",
        "log-error-stack",
        "long-prefill-token-threshold",
        "mamba-cache-philox-rounds",
        "master-addr",
        "master-port",
        "max-log-len",
        "max-long-partial-prefills",
        "max-num-partial-prefills",
        "max-parallel-loading-workers",
        "middleware",
        "model",
        "nnodes",
        "node-rank",
        "numa-bind",
        "numa-bind-cpus",
        "numa-bind-nodes",
        "otlp-traces-endpoint",
        "override-generation-config",
        "port",
        "prefix-caching-hash-algo",
        "profiler-config",
        "pt-load-map-location",
        "ray-workers-use-nsight",
        "reasoning-config",
        "reasoning-parser",
        "reasoning-parser-plugin",
        "renderer-num-workers",
        "response-role",
        "return-tokens-as-token-ids",
        "revision",
        "root-path",
        "safetensors-load-strategy",
        "scheduler-reserve-full-isl",
        "scheduling-policy",
        "seed",
        "served-model-name",
        "show-hidden-metrics-for-version",
        "shutdown-timeout",
        "skip-tokenizer-init",
        "ssl-ca-certs",
        "ssl-cert-reqs",
        "ssl-certfile",
        "ssl-ciphers",
        "ssl-keyfile",
        "stream-interval",
        "structured-outputs-config",
        "tokenizer",
        "tokenizer-mode",
        "tokenizer-revision",
        "tokens-only",
        "tool-call-parser",
        "tool-parser-plugin",
        "tool-server",
        "trust-remote-code",
        "trust-request-chat-template",
        "uds",
        "use-tqdm-on-load",
        "uvicorn-log-level",
    ]
)
EFFECTS: Mapping[str, str] = {flag: effect for effect, names in _GPU.items() for flag in names.split()}
_KNOWN = MODELLED | EFFECTS.keys() | MACHINE | NO_MEMORY
_VARIABLES = {
    "VLLM_PP_LAYER_PARTITION": "how layers are divided among pipeline stages",
    "VLLM_MLA_DISABLE": "the layout of the KV cache",
    "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "CUDA graphs and compiled code",
    "VLLM_WEIGHT_OFFLOADING_DISABLE_UVA": "which weights are offloaded",
    "PYTORCH_CUDA_ALLOC_CONF": "how memory is allocated",
    "PYTORCH_ALLOC_CONF": "how memory is allocated",
}
# Values with which a flag does nothing.
_IDLE = ("", "0", "0.0", "none", "null")
_ON_BY_DEFAULT = frozenset({"enable-chunked-prefill", "async-scheduling"})
_IDLE_AT_ONE = frozenset({"decode-context-parallel-size", "prefill-context-parallel-size"})


def not_modelled(
    flags: Mapping[str, Any], env: Mapping[str, str], shape: ModelShape, gpu: Gpu, *, from_headers: bool
) -> list[str]:
    """What of a profile may change memory and is not in its estimate, by effect. `flags` are by their plain names."""
    found: dict[str, list[str]] = {}
    for name, effect in _effects(flags, shape, gpu, from_headers=from_headers):
        found.setdefault(effect, []).append(f"--{name}")
    for variable, effect in _VARIABLES.items():
        if variable in env:
            found.setdefault(effect, []).append(variable)
    return [f"{effect} ({', '.join(dict.fromkeys(names))})" for effect, names in found.items()]


def _effects(flags: Mapping[str, Any], shape: ModelShape, gpu: Gpu, *, from_headers: bool) -> Iterator[tuple[str, str]]:
    for key, given in flags.items():
        name, value = _switch(key.partition(".")[0], given)
        if name not in _KNOWN:
            yield key, "not known whether it takes memory"
        elif _idle(name, value):
            continue
        elif name in EFFECTS:
            yield key, EFFECTS[name]
        elif gpu.unified and (name in MACHINE or name == "cpu-offload-gb"):
            yield key, "memory of the machine, which is the GPU's here"
        elif name == "quantization" and str(value).lower() != shape.quantization and not from_headers:
            yield key, "weights that are quantized while they are loaded"
        elif name == "dtype" and DTYPE_BYTES.get(str(value), DTYPE_BYTES[shape.dtype]) != DTYPE_BYTES[shape.dtype]:
            yield key, f"weights that are not {shape.dtype}"


def on_the_machine(flags: Mapping[str, Any]) -> list[str]:
    """Flags of a profile that take memory of the machine and none of a GPU that has its own."""
    return [name for name in flags if name in MACHINE and not _idle(name, flags[name])]


def _switch(name: str, value: Any) -> tuple[str, Any]:
    """`no-x: true` as `x: false`, and `disable-x` as later releases take it for `no-enable-x`."""
    positive = name.removeprefix("no-")
    if name not in _KNOWN and name.startswith("disable-"):
        positive = f"enable-{name.removeprefix('disable-')}"
    if positive != name and positive in _KNOWN:
        return positive, not value if isinstance(value, bool) else value
    return name, value


def _idle(name: str, value: Any) -> bool:
    """Whether a value changes nothing. What is on by default changes something when it is off."""
    if isinstance(value, bool):
        return value is (name in _ON_BY_DEFAULT)
    text = str(value).strip().lower()
    return text in _IDLE or (text == "1" and name in _IDLE_AT_ONE) or (name == "mamba-cache-mode" and text != "all")
