"""Flags that vLLM no longer has, and what to write instead.

Each source is a pull request or an issue of vllm-project/vllm, but for two that name their own repository. The table is asked
only about a flag that the vLLM at hand does not have, so that a flag which comes back is not called removed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_NOTHING = "leave it out"


@dataclass(frozen=True)
class Removed:
    """`instead` is what to do, for a profile; `source` is where vLLM's developers say so."""

    instead: str
    source: str


_STRUCTURED = "22772"
_SPECULATIVE = "15466"
_MULTI_STEP = "22779"

REMOVED: Mapping[str, Removed] = {
    "disable-log-requests": Removed(
        f"requests are not logged by default: {_NOTHING}, or write `enable-log-requests: false`", "21739"
    ),
    "enable-reasoning": Removed(f"`reasoning-parser` alone is enough: {_NOTHING}", "17452"),
    "guided-decoding-backend": Removed("write `structured-outputs-config.backend`", _STRUCTURED),
    "guided-decoding-disable-fallback": Removed(
        "write `structured-outputs-config.disable_fallback: true`", _STRUCTURED
    ),
    "guided-decoding-disable-any-whitespace": Removed(
        "write `structured-outputs-config.disable_any_whitespace: true`", _STRUCTURED
    ),
    "guided-decoding-disable-additional-properties": Removed(
        "write `structured-outputs-config.disable_additional_properties: true`", _STRUCTURED
    ),
    "cuda-graph-sizes": Removed(
        "write `cudagraph-capture-sizes` for a list of sizes, or `max-cudagraph-capture-size` for the largest one",
        "26016",
    ),
    "max-seq-len-to-capture": Removed(
        f"{_NOTHING}: CUDA graphs are limited by batch size, `max-cudagraph-capture-size`", "25543"
    ),
    "speculative-model": Removed("write `speculative-config: '{\"model\": ...}'`", _SPECULATIVE),
    "num-speculative-tokens": Removed("write `speculative-config: '{\"num_speculative_tokens\": ...}'`", _SPECULATIVE),
    "ngram-prompt-lookup-max": Removed("write `speculative-config: '{\"prompt_lookup_max\": ...}'`", _SPECULATIVE),
    "ngram-prompt-lookup-min": Removed("write `speculative-config: '{\"prompt_lookup_min\": ...}'`", _SPECULATIVE),
    "num-scheduler-steps": Removed(f"{_NOTHING}: the V1 engine has no multi-step scheduling", _MULTI_STEP),
    "multi-step-stream-outputs": Removed(f"{_NOTHING}: the V1 engine has no multi-step scheduling", _MULTI_STEP),
    "use-v2-block-manager": Removed(f"{_NOTHING}: there is only one block manager", "8704"),
    "preemption-mode": Removed(f"{_NOTHING}: the V1 engine always recomputes", "18571"),
    "swap-space": Removed(
        f"{_NOTHING}: the V1 engine does not swap; the flag left in 0.18.0", "unslothai/unsloth-zoo#1210"
    ),
    "task": Removed("write `runner` and, for a pooling model, `convert`", "21470"),
    "rope-scaling": Removed("write `hf-overrides: '{\"rope_scaling\": ...}'`", "29026"),
    "rope-theta": Removed("write `hf-overrides: '{\"rope_theta\": ...}'`", "29026"),
}

# Two words for yes and two for no: a flag is never suggested for one that means the opposite.
_ON, _OFF = ("enable", "use", "with"), ("disable", "no", "without", "skip")


_MOE = "write the flag `moe-backend`, such as `moe-backend: flashinfer_cutlass`, or leave it out"
_ENVS = "vllm/envs.py of 0.22.1"

# Variables that vllm/envs.py of some release had and that of another one lacks. Sources: the notes of the releases that
# deprecated them (`deprecated_env` and the comments in envs.py), and pull requests.
REMOVED_VARIABLES: Mapping[str, Removed] = {
    "VLLM_ATTENTION_BACKEND": Removed("write the flag `attention-backend`", "26315"),
    "VLLM_USE_V1": Removed(f"the V1 engine is the only one: {_NOTHING}", "25345"),
    "VLLM_MXFP4_USE_MARLIN": Removed("write `moe-backend: marlin` or `linear-backend: marlin`", _ENVS),
    "VLLM_USE_FLASHINFER_MOE_FP16": Removed(_MOE, _ENVS),
    "VLLM_USE_FLASHINFER_MOE_FP8": Removed(_MOE, _ENVS),
    "VLLM_USE_FLASHINFER_MOE_FP4": Removed(_MOE, _ENVS),
    "VLLM_USE_FLASHINFER_MOE_MXFP4_BF16": Removed(_MOE, _ENVS),
    "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8": Removed(_MOE, _ENVS),
    "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8_CUTLASS": Removed(_MOE, _ENVS),
    "VLLM_FLASHINFER_MOE_BACKEND": Removed(_MOE, _ENVS),
    "VLLM_TRITON_ATTN_USE_TD": Removed("write VLLM_TRITON_USE_TD", "vllm/envs.py of 0.26.0"),
}


def replacement(name: str) -> Removed | None:
    """What the table knows of a flag; `name` is without dashes, and without `no-` in front of it."""
    return REMOVED.get(name) or REMOVED.get(name.removeprefix("no-"))


def source_of(removed: Removed) -> str:
    """The source as messages print it."""
    return removed.source if "#" in removed.source else f"vllm-project/vllm#{removed.source}"


def sense(name: str) -> int:
    """1 for a flag that switches something on by its first word, -1 for one that switches it off, else 0."""
    first = name.partition("-")[0]
    return (first in _ON) - (first in _OFF)


def near_name(name: str, names: Collection[str]) -> str | None:
    """The existing flag that a wrong one may mean: most words in common, then fewest edits, never the opposite.

    A name that shares its first word alone (`enable-...`) is not near.
    """
    words = set(_content(name))
    allowed = [each for each in names if sense(each) * sense(name) >= 0]
    by_letters = difflib.get_close_matches(name, allowed, n=5, cutoff=0.7)
    for each in by_letters:
        shared = words & set(_content(each))
        if shared or difflib.SequenceMatcher(None, "-".join(_content(name)), "-".join(_content(each))).ratio() >= 0.75:
            return each
    return None


def _content(name: str) -> list[str]:
    """The words of a flag without the one that switches on or off."""
    first, *rest = name.split("-")
    return rest if first in (*_ON, *_OFF) and rest else [first, *rest]
