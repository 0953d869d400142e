"""Rules about flags together: what needs another flag, what another flag makes void, what contradicts."""

from __future__ import annotations

from collections.abc import Iterator

from builder.util.errors import InputError
from builder.vllm.fit.gpus import gpus, known_gpu
from builder.vllm.fit.kv import TURBOQUANT, layout
from builder.vllm.fit.parallel import Parallel, refusal
from builder.vllm.flagvalues import decimal
from builder.vllm.lint.context import Context
from builder.vllm.lint.findings import Finding

# Flag -> the flag it does nothing without, and what then happens.
_IDLE_WITHOUT = {
    "tool-call-parser": ("enable-auto-tool-choice", "a request with tool_choice: auto gets 400"),
    "tool-parser-plugin": ("tool-call-parser", "no parser of the plugin is used"),
    "reasoning-parser-plugin": ("reasoning-parser", "no parser of the plugin is used"),
    "kv-offloading-backend": ("kv-offloading-size", "nothing is offloaded"),
    **dict.fromkeys(
        ("max-loras", "max-lora-rank", "max-cpu-loras", "lora-dtype", "fully-sharded-loras", "lora-modules"),
        ("enable-lora", "no adapter is loaded"),
    ),
}  # fmt: skip
# Flag -> the flag that makes it void.
_VOID_WITH = {
    "max-cudagraph-capture-size": "enforce-eager",
    "cudagraph-capture-sizes": "enforce-eager",
    "gpu-memory-utilization": "kv-cache-memory-bytes",
    "host": "uds",
    "port": "uds",
}
# Flag -> the flag without which the server does not start (validate_parsed_serve_args).
_REFUSED_WITHOUT = {
    "enable-auto-tool-choice": "tool-call-parser",
    "enable-log-outputs": "enable-log-requests",
}
# Less than this beside vLLM's share is gone as soon as a desktop, another process or a second context takes some.
_SPARE_GIB = 1.0


def together(context: Context) -> Iterator[Finding]:
    """Flags that need each other."""
    for flag, (needed, outcome) in _IDLE_WITHOUT.items():
        entry = context.get(flag)
        if entry is not None and context.value(flag) is not False and not context.value(needed):
            yield context.say(
                "no-effect", "warning", f"--{flag} does nothing without --{needed}: {outcome}", entry=entry,
                hint=f"add {needed}, or leave {flag} out",
            )  # fmt: skip
    for flag, stronger in _VOID_WITH.items():
        entry = context.get(flag)
        if entry is not None and context.value(stronger):
            yield context.say(
                "no-effect",
                "warning",
                f"--{flag} is not looked at with --{stronger}",
                entry=entry,
                hint=f"leave {flag} out",
            )
    for flag, needed in _REFUSED_WITHOUT.items():
        entry = context.get(flag)
        if entry is not None and context.value(flag) is True and not context.value(needed):
            yield context.say(
                "needs-flag",
                "error",
                f"--{flag} without --{needed} ends the server at start",
                entry=entry,
                hint=f"add {needed}",
            )


def batches(context: Context) -> Iterator[Finding]:
    """Batch sizes that contradict each other."""
    seqs, batched, length = (
        context.number(each) for each in ("max-num-seqs", "max-num-batched-tokens", "max-model-len")
    )
    if seqs is not None and batched is not None and batched < seqs:
        yield context.say(
            "batch", "error", f"--max-num-batched-tokens {batched:,} is below --max-num-seqs {seqs:,}: the server refuses it",
            entry=context.get("max-num-batched-tokens"),
        )  # fmt: skip
    if (
        context.value("enable-chunked-prefill") is False
        and batched is not None
        and length is not None
        and batched < length
    ):
        yield context.say(
            "batch", "error", f"without chunked prefill, --max-num-batched-tokens {batched:,} must hold --max-model-len {length:,}",
            entry=context.get("max-num-batched-tokens"),
        )  # fmt: skip
    captured = context.number("max-cudagraph-capture-size")
    if captured is None or seqs is None or context.value("enforce-eager"):
        return
    entry = context.get("max-cudagraph-capture-size")
    if captured < seqs:
        yield context.say(
            "capture-size", "warning", f"graphs are captured for up to {captured} requests, but up to {seqs} run: larger batches run without",
            entry=entry, hint=f"write {seqs}",
        )  # fmt: skip
    elif captured > seqs and not context.value("speculative-config"):
        yield context.say(
            "capture-size", "warning", f"graphs are captured for up to {captured} requests, but at most {seqs} run at once: that is memory for nothing",
            entry=entry, hint=f"write {seqs}",
        )  # fmt: skip


def hardware(context: Context) -> Iterator[Finding]:
    """The GPU that the profile is for."""
    wanted = context.profile.hardware
    parallel = (context.number("tensor-parallel-size") or 1) * (context.number("pipeline-parallel-size") or 1)
    entry = context.get("tensor-parallel-size")
    tensor = context.number("tensor-parallel-size") or 1
    experts = context.value("enable-expert-parallel") is True
    refused = refusal(Parallel(tensor=tensor, experts=experts), context.shape) if context.shape and tensor > 0 else None
    if refused is not None:
        place = entry if refused[0].startswith("--tensor") else context.get("enable-expert-parallel")
        yield context.say("hardware", "error", refused[0], entry=place, hint=refused[1])
    if wanted is None:
        return
    if parallel > wanted.count:
        yield context.say(
            "hardware", "error", f"the profile runs on {parallel} GPUs, but its hardware has {wanted.count}", entry=entry,
            hint="hardware: {gpu: ..., count: N}",
        )  # fmt: skip
    elif parallel < wanted.count and context.value("data-parallel-size") is None:
        yield context.say(
            "hardware",
            "warning",
            f"the profile's hardware has {wanted.count} GPUs, but it runs on {parallel}",
            entry=entry,
        )
    gpu = known_gpu(wanted.gpu)
    if gpu is None:
        yield context.say(
            "hardware", "not-checked", f"the table has no GPU {wanted.gpu!r}, so memory is not checked",
            hint=f"known: {', '.join(gpus())}",
        )  # fmt: skip
        return
    share = context.get("gpu-memory-utilization")
    value = decimal(share.value) if share is not None and not isinstance(share.value, tuple) else None
    if share is not None and value is not None and 0 < value <= 1 and gpu.gib * (1 - value) < _SPARE_GIB:
        yield context.say(
            "utilization", "warning",
            f"--gpu-memory-utilization {share.value} leaves {gpu.gib * (1 - value):.2f} of the {gpu.name}'s {gpu.gib:.2f} GiB: the server does not start when anything else uses the GPU",
            entry=share, hint="fine on a GPU that drives no display and runs nothing else",
        )  # fmt: skip


def block_size(context: Context) -> Iterator[Finding]:
    """`--block-size` on a hybrid model, where vLLM chooses a larger one."""
    entry, asked = context.get("block-size"), context.number("block-size")
    if entry is None or asked is None or asked < 1:
        return
    version = context.package.version
    if context.shape is None or version is None:
        yield context.say(
            "no-effect",
            "not-checked",
            "whether the block size holds depends on the model, which is not known",
            entry=entry,
        )
        return
    if context.shape.gdn is None:
        return

    try:
        cache = layout(
            context.shape, version, cache_dtype=str(context.value("kv-cache-dtype") or "auto"), block_size=asked,
            tensor_parallel=context.number("tensor-parallel-size") or 1,
        )  # fmt: skip
    except InputError as error:
        yield context.say("no-effect", "not-checked", f"whether the block size holds: {error.message}", entry=entry)
        return
    if cache.block_size != asked:
        yield context.say(
            "no-effect", "warning", f"--block-size {asked} is raised to {cache.block_size:,} for this hybrid model", entry=entry,
            hint="leave it out",
        )  # fmt: skip


def is_turboquant(context: Context) -> bool:
    return context.value("kv-cache-dtype") in TURBOQUANT
