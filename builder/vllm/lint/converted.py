"""Values of flags and of their keys as vLLM's parser converts them, and what it takes instead of those that it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from builder.vllm.flagvalues import decimal, human_int
from builder.vllm.reader.flags import NOT_KNOWN, Flag

COMPARE: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "gt": ("above", lambda value, limit: value > limit),
    "ge": ("at least", lambda value, limit: value >= limit),
    "lt": ("below", lambda value, limit: value < limit),
    "le": ("at most", lambda value, limit: value <= limit),
    "multiple_of": ("a multiple of", lambda value, limit: value % limit == 0),
}


def convert(flag: Flag, value: Any) -> Any:
    """A value as the parser converts it, or `NOT_KNOWN` when it refuses it."""
    if isinstance(value, bool):
        return NOT_KNOWN if flag.type not in ("str", "json_or_str") else str(value)
    if flag.type == "int":
        try:
            return int(str(value))
        except ValueError:
            return NOT_KNOWN
    if flag.type in ("human_int", "human_int_or_auto"):
        if flag.type == "human_int_or_auto" and str(value).strip().lower() in ("-1", "auto"):
            return -1
        number = human_int(value)
        return NOT_KNOWN if number is None else number
    if flag.type == "float":
        number_or_none = decimal(value)
        return NOT_KNOWN if number_or_none is None else number_or_none
    if flag.type == "json":
        try:
            return json.loads(str(value))
        except ValueError:
            return NOT_KNOWN
    if flag.type == "json_or_str" and re.fullmatch(r"(?s)\s*\{.*\}\s*", str(value)):
        try:
            return json.loads(str(value))
        except ValueError:
            return NOT_KNOWN
    return str(value).lower().replace("-", "_") if flag.folds_case else str(value)


def kind_of(flag: Flag) -> str:
    """What a flag takes, in words."""
    return {
        "int": "a whole number", "human_int": "a whole number such as 4029, 16k or 16K",
        "human_int_or_auto": "a whole number such as 4029, 16k or 16K, or auto", "float": "a number",
        "json": "a JSON object", "json_or_str": "a text, or a JSON object", "str": "a text",
    }.get(flag.type, "another value")  # fmt: skip


def wanted(flag: Flag, key: str, value: Any) -> str | None:
    """What a flag, or a key of its JSON object, takes instead of a value that vLLM refuses; None when the value may pass."""
    if key:
        typed = next((each for each in flag.typed if each[0] == key), None)
        return _wanted_key(typed[1], typed[2], typed[3], value) if typed is not None else None
    found = convert(flag, value)
    if flag.choices is not None and found not in flag.choices:
        return f"one of {', '.join(map(str, flag.choices))}"
    if flag.members and str(value).upper() not in flag.members and str(value).lower() != "auto":
        return f"one of {', '.join(flag.members)}"
    if found is NOT_KNOWN or (flag.type == "json" and flag.keys and not isinstance(found, dict)):
        return kind_of(flag)
    return _outside(flag.limits, found)


def _wanted_key(kind: str, values: tuple[object, ...], limits: tuple[tuple[str, float], ...], value: Any) -> str | None:
    if kind == "literal":
        words = [str(each) for each in values if each is not None]
        return None if str(value) in words else f"one of {', '.join(words)}"
    if kind == "bool":
        return None if str(value).lower() in ("true", "false") else "true or false"
    number = human_int(value) if kind == "int" and str(value).lstrip("-").isdigit() else decimal(value)
    if number is None or (kind == "int" and not isinstance(number, int)):
        return "a whole number" if kind == "int" else "a number"
    return _outside(limits, number)


def _outside(limits: tuple[tuple[str, float], ...], number: Any) -> str | None:
    if not isinstance(number, int | float) or isinstance(number, bool):
        return None
    missed = [f"{COMPARE[kind][0]} {limit:g}" for kind, limit in limits if not COMPARE[kind][1](number, limit)]
    return f"a number {' and '.join(missed)}" if missed else None
