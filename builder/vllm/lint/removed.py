"""Flags that vLLM no longer has, and what to write instead.

Each source is a pull request or an issue of vllm-project/vllm, two that name their own repository, or the releases between which
a flag left, as their wheels show. The table is asked only about a flag that the vLLM at hand does not have, so that a flag
which comes back is not called removed; and what it names is offered only when that vLLM has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

_NOTHING = "leave it out"
_PLACE = "{value}"


@dataclass(frozen=True)
class Removed:
    """What became of a flag, and `source`, where vLLM's developers say so.

    `lines` are what a profile has instead, `several` when the flag has a list of values, and `off` when it is switched off;
    `{value}` stands for the flag's value. Without lines the flag is left out, and `why` says why it is not needed.
    """

    why: str
    source: str
    lines: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    by_value: Mapping[str, tuple[str, ...]] | None = None
    """For a flag with names as its values: the lines of each; others have none."""
    takes: str = ""
    """`a number` or `a JSON object`, where vLLM takes any value under the new name, and fails on a wrong one later."""
    also: str = ""
    """What else may be written instead of leaving it out."""


def _gone(why: str, source: str) -> Removed:
    return Removed(why, source)


def _moved(source: str, *lines: str, why: str = "") -> Removed:
    return Removed(why, source, lines)


_STRUCTURED = "22772"
_SPECULATIVE = "15466"
_MULTI_STEP = "22779"
_IN_0_7, _IN_0_9, _IN_0_10 = (
    "vLLM 0.7.3 has it, 0.9.2 does not",
    "vLLM 0.9.2 has it, 0.10.2 does not",
    "vLLM 0.10.2 has it, 0.11.2 does not",
)
_IN_0_5, _IN_0_11, _IN_0_16 = (
    "vLLM 0.5.5 has it, 0.7.3 does not",
    "vLLM 0.11.2 has it, 0.13.0 does not",
    "vLLM 0.16.0 has it, 0.19.1 does not",
)
_IN_0_24 = "vLLM 0.24.0 has it, 0.33.0 does not"
_ACCEPTANCE = _gone("drafts are accepted by rejection sampling", _IN_0_7)
_ADAPTERS = _gone("prompt adapters left vLLM", _IN_0_9)
_POOL = _gone("there is no pool of tokenizers", _IN_0_9)
_PARTIAL = _gone("how many long prompts are prefilled at once is not limited", _IN_0_24)

REMOVED: Mapping[str, Removed] = {
    "disable-log-requests": Removed(
        "requests are not logged by default",
        "21739",
        off=("enable-log-requests: true",),
        also=", or write `enable-log-requests: false`",
    ),
    "enable-reasoning": _gone("`reasoning-parser` alone is enough", "17452"),
    "guided-decoding-backend": _moved(_STRUCTURED, "structured-outputs-config.backend: {value}"),
    "guided-decoding-disable-fallback": _moved(
        _STRUCTURED,
        "structured-outputs-config.disable_fallback: true",
        why="there is no fall-back unless the backend is auto",
    ),
    "guided-decoding-disable-any-whitespace": _moved(
        _STRUCTURED,
        "structured-outputs-config.disable_any_whitespace: true",
        "structured-outputs-config.backend: xgrammar",
    ),
    "guided-decoding-disable-additional-properties": _moved(
        _STRUCTURED,
        "structured-outputs-config.disable_additional_properties: true",
        "structured-outputs-config.backend: guidance",
    ),
    "cuda-graph-sizes": Removed(
        "", "26016", ("max-cudagraph-capture-size: {value}",), several=("cudagraph-capture-sizes: {value}",)
    ),
    "max-seq-len-to-capture": _gone("CUDA graphs are limited by batch size, `max-cudagraph-capture-size`", "25543"),
    "max-context-len-to-capture": _gone("CUDA graphs are limited by batch size, `max-cudagraph-capture-size`", _IN_0_5),
    "speculative-model": _moved(_SPECULATIVE, "speculative-config.model: {value}"),
    "num-speculative-tokens": _moved(_SPECULATIVE, "speculative-config.num_speculative_tokens: {value}"),
    "ngram-prompt-lookup-max": _moved(_SPECULATIVE, "speculative-config.prompt_lookup_max: {value}"),
    "ngram-prompt-lookup-min": _moved(_SPECULATIVE, "speculative-config.prompt_lookup_min: {value}"),
    "speculative-draft-tensor-parallel-size": _moved(
        _SPECULATIVE, "speculative-config.draft_tensor_parallel_size: {value}"
    ),
    "speculative-max-model-len": _moved(_SPECULATIVE, "speculative-config.max_model_len: {value}"),
    "speculative-model-quantization": _moved(_SPECULATIVE, "speculative-config.quantization: {value}"),
    "speculative-disable-by-batch-size": _moved(
        _SPECULATIVE, "speculative-config.disable_by_batch_size: {value}", why="drafts are made whatever the batch"
    ),
    "speculative-disable-mqa-scorer": _gone("there is only one scorer", _IN_0_7),
    "spec-decoding-acceptance-method": _ACCEPTANCE,
    "typical-acceptance-sampler-posterior-alpha": _ACCEPTANCE,
    "typical-acceptance-sampler-posterior-threshold": _ACCEPTANCE,
    "disable-logprobs-during-spec-decoding": _gone("log probabilities are made when a request asks for them", _IN_0_7),
    "num-lookahead-slots": _gone("the scheduler takes it from `speculative-config`", _IN_0_11),
    "num-scheduler-steps": _gone("the V1 engine has no multi-step scheduling", _MULTI_STEP),
    "multi-step-stream-outputs": _gone("the V1 engine has no multi-step scheduling", _MULTI_STEP),
    "scheduler-delay-factor": _gone("the V1 engine schedules without a delay", _IN_0_10),
    "disable-async-output-proc": _gone("the V1 engine has no such step", _IN_0_10),
    "use-v2-block-manager": _gone("there is only one block manager", "8704"),
    "preemption-mode": _gone("the V1 engine always recomputes", "18571"),
    "swap-space": _gone("the V1 engine does not swap; the flag left in 0.18.0", "unslothai/unsloth-zoo#1210"),
    "task": Removed(
        "vLLM tells the task by the model",
        "21470",
        by_value={
            "generate": ("runner: generate",),
            "transcription": ("runner: generate",),
            "draft": ("runner: draft",),
            **dict.fromkeys(("embed", "embedding"), ("runner: pooling", "convert: embed")),
            **dict.fromkeys(("classify", "score"), ("runner: pooling", "convert: classify")),
            "reward": ("runner: pooling",),
        },
    ),
    "rope-scaling": Removed("", "29026", ("hf-overrides.rope_scaling: {value}",), takes="a JSON object"),
    "rope-theta": Removed("", "29026", ("hf-overrides.rope_theta: {value}",), takes="a number"),
    "num-redundant-experts": _moved(_IN_0_11, "eplb-config.num_redundant_experts: {value}"),
    "eplb-window-size": _moved(_IN_0_11, "eplb-config.window_size: {value}"),
    "eplb-step-interval": _moved(_IN_0_11, "eplb-config.step_interval: {value}"),
    "eplb-log-balancedness": _moved(_IN_0_11, "eplb-config.log_balancedness: true"),
    "disable-mm-preprocessor-cache": _moved(_IN_0_11, "mm-processor-cache-gb: 0"),
    "enable-multimodal-encoder-data-parallel": _moved(_IN_0_11, "mm-encoder-tp-mode: data"),
    "override-pooler-config": _moved(_IN_0_11, "pooler-config: {value}"),
    "override-neuron-config": _gone("Neuron is served by a plugin", _IN_0_9),
    "expand-tools-even-if-tool-choice-none": Removed(
        "tools are expanded by default", _IN_0_9, off=("exclude-tools-when-tool-choice-none: true",)
    ),
    "worker-use-ray": _moved(_IN_0_5, "distributed-executor-backend: ray"),
    "engine-use-ray": _gone("the engine has a process of its own", _IN_0_5),
    "disable-frontend-multiprocessing": _gone("the engine always has a process of its own", _IN_0_16),
    "device": _gone("vLLM finds the device itself", _IN_0_9),
    "tokenizer-pool-size": _POOL,
    "tokenizer-pool-type": _POOL,
    "tokenizer-pool-extra-config": _POOL,
    "enable-prompt-adapter": _ADAPTERS,
    "prompt-adapters": _ADAPTERS,
    "max-prompt-adapters": _ADAPTERS,
    "max-prompt-adapter-token": _ADAPTERS,
    "enable-lora-bias": _gone("adapters with biases are not served", _IN_0_10),
    "long-lora-scaling-factors": _gone("long LoRA is not served", _IN_0_9),
    "lora-extra-vocab-size": _gone("adapters do not extend the vocabulary", _IN_0_11),
    "qlora-adapter-name-or-path": _gone("QLoRA adapters are given as others are, by `lora-modules`", _IN_0_9),
    "quantization-param-path": _gone("scales of the KV cache are in the checkpoint", _IN_0_5),
    "logits-processor-pattern": _gone("a request does not name logits processors", _IN_0_16),
    "calculate-kv-scales": _gone("scales of the KV cache are in the checkpoint", _IN_0_24),
    "max-num-partial-prefills": _PARTIAL,
    "max-long-partial-prefills": _PARTIAL,
    "override-attention-dtype": _gone("attention has the model's type", _IN_0_24),
}


def replacement(name: str) -> Removed | None:
    """What the table knows of a flag; `name` is without dashes, and may have `no-` in front of it."""
    return REMOVED.get(name) or REMOVED.get(name.removeprefix("no-"))


def advice(
    name: str,
    value: object,
    removed: Removed,
    has: Callable[[str], bool],
    given: Collection[str],
    wanted: Callable[[str, object], str | None],
) -> str:
    """What to do about a removed flag that a profile has with this value; each line in it works as it is printed.

    `has` tells whether the vLLM at hand has a flag, or a key of one (`eplb-config.window_size`); `given` are the flags that
    the profile has; `wanted` tells what a flag takes instead of a value that it refuses.
    """
    off = value is False or (name not in REMOVED and name.startswith("no-"))
    lines = removed.off if off else _lines(removed, value)
    known = [_filled(line, value) for line in lines if has(line.partition(":")[0])]
    if len(known) < len(lines) or not lines:
        why = removed.why or ("" if off else "nothing takes its place")
        return (f"{why}: {_NOTHING}" if why else _NOTHING) + removed.also
    for line in lines:
        head = line.partition(":")[0]
        takes = None
        if _PLACE in line and head not in given:
            takes = wanted(head, value) if _is_a(removed.takes, value) else removed.takes
        if takes is not None:
            return f"`{head}` has taken its place; its value is {takes}"
    new = [line for line in known if line.partition(":")[0] not in given]
    if not new:
        return f"{_NOTHING}: `{known[0].partition(':')[0]}` has taken its place"
    # A line of its own would replace a JSON that the profile has.
    whole = [line for line in new if line.partition(".")[0] in given]
    written = [f"`{line}`" for line in new if line not in whole]
    parts = [f"write {' and '.join(written)}"] if written else []
    parts += [f"add `{_member(line)}` to the JSON of `{line.partition('.')[0]}`" for line in whole]
    return " and ".join(parts)


def _is_a(kind: str, value: object) -> bool:
    try:
        found = json.loads(str(value)) if kind else None
    except (ValueError, RecursionError):
        return False
    return not kind or isinstance(found, dict if kind == "a JSON object" else int | float)


def _lines(removed: Removed, value: object) -> tuple[str, ...]:
    if removed.by_value is not None:
        return removed.by_value.get(str(value), ())
    return removed.several if removed.several and isinstance(value, tuple) and len(value) > 1 else removed.lines


def _filled(line: str, value: object) -> str:
    # A variable is text, and most programs read 1 as yes.
    text = "'1'" if value is True and line.partition(":")[0].isupper() else _yaml(value)
    return line.replace(_PLACE, text)


def _member(line: str) -> str:
    """A line for a key (`speculative-config.model: x`) as a member of a JSON object."""
    name, _, text = line.partition(": ")
    text = text.strip("'")
    try:
        json.loads(text)
    except ValueError:
        text = json.dumps(text)
    return f"{json.dumps(name.partition('.')[2])}: {text}"


def _yaml(value: object) -> str:
    """A flag's value as a profile has it, on one line."""
    if isinstance(value, tuple):
        return _yaml(value[0]) if len(value) == 1 else f"[{', '.join(_yaml(each) for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if _is_plain(text):
        return text
    return json.dumps(text, ensure_ascii=False) if "'" in text else f"'{text}'"


def _is_plain(text: str) -> bool:
    return bool(text) and text[0].isalnum() and all(each.isalnum() or each in "._/-+" for each in text)


def source_of(removed: Removed) -> str:
    """The source as messages print it."""
    return f"vllm-project/vllm#{removed.source}" if removed.source.isdigit() else removed.source
