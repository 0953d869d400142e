"""The context of a profile, and whole numbers of its flags."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from builder.documents.model_shape import ModelShape
from builder.util.errors import InputError
from builder.vllm.fit.kv import CacheLayout
from builder.vllm.flagvalues import human_int, is_unset, shown


def whole_number(flags: Mapping[str, Any], name: str) -> int | None:
    """A flag's whole number. Raises `InputError` when it has another value."""
    if name not in flags or is_unset(flags[name]):
        return None
    value = human_int(flags[name])
    if value is None or value < 1:
        raise InputError(
            f"--{name} is {shown(flags[name])}, not a whole number above 0",
            hint="`builder profile lint PROFILE` says more",
        )
    return value


def _is_auto(length: object) -> bool:
    """Whether vLLM chooses the context, at most the model's own, by what the cache holds (`_auto_fit_max_model_len`)."""
    return str(length).strip().lower() in ("-1", "auto")


def _longest(cache: CacheLayout, blocks: int, most: int) -> int:
    """The longest request that a number of blocks holds, up to `most` tokens; 1 when they hold none of any length."""
    return max(1, bisect_right(range(1, most + 1), blocks, key=cache.request_blocks))


def length_of(flags: Mapping[str, Any], shape: ModelShape) -> int:
    given = flags.get("max-model-len")
    length = whole_number(flags, "max-model-len") if not _is_auto(given) else None
    if length is not None:
        return length
    if shape.context is None:
        raise InputError(
            "the profile has no max-model-len, and the model's shape no context",
            hint="pin max-model-len in the profile",
        )
    return shape.context


def fitted(flags: Mapping[str, Any], cache: CacheLayout, blocks: int, length: int, notes: list[str]) -> int:
    """The context that the server starts with: what the cache holds, where the profile leaves it to vLLM. Adds a note then."""
    if not _is_auto(flags.get("max-model-len")):
        return length
    # One block is the null block and holds nothing.
    longest = _longest(cache, blocks - 1, length)
    if longest < length:
        notes.append(f"max-model-len is left to vLLM: it takes what the cache holds, not the model's {length:,} tokens")
    return longest
