"""Values of flags and of their keys as vLLM's parser converts them, and what it takes instead of those that it refuses."""

from __future__ import annotations

import json
import re
from typing import Any

from builder.documents.profile import key_text
from builder.vllm.flagvalues import decimal, human_int, of_key
from builder.vllm.lint import keyvalues
from builder.vllm.lint.limits import outside
from builder.vllm.reader.flags import NOT_KNOWN, Flag


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
            return json.loads(keyvalues.with_numbers(str(value)) if flag.expands else str(value))
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
    if flag.type == "json" and isinstance(flag.default, list):
        return "a list as JSON"
    return {
        "int": "a whole number", "human_int": "a whole number such as 4029, 16k or 16K",
        "human_int_or_auto": "a whole number such as 4029, 16k or 16K, or auto", "float": "a number",
        "json": "a JSON object", "json_or_str": "a text, or a JSON object", "str": "a text",
    }.get(flag.type, "another value")  # fmt: skip


def wanted(flag: Flag, key: str, value: Any) -> str | None:
    """What a flag, or a key of its JSON object, takes instead of a value that vLLM refuses; None when the value may pass."""
    if key:
        typed = flag.key(key)
        given = of_key(key_text(value))
        return keyvalues.wanted(typed) if typed is not None and keyvalues.takes(typed, given) is False else None
    found = convert(flag, value)
    if flag.choices is not None and found not in flag.choices:
        return f"one of {', '.join(map(str, flag.choices))}"
    if flag.members and str(value).upper() not in flag.members and str(value).lower() != "auto":
        return f"one of {', '.join(flag.members)}"
    if found is NOT_KNOWN or (flag.type == "json" and flag.keys and not isinstance(found, dict)):
        return kind_of(flag)
    missed = outside(flag.limits, found)
    return f"a number {missed}" if missed else None
