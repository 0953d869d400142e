"""Values of a profile's flags as the numbers that the server will make of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def plain_name(flag: str) -> str:
    """The flag as vLLM's parser reads it: underscores are dashes, up to the first dot."""
    head, dot, rest = flag.partition(".")
    return head.replace("_", "-") + dot + rest


def plain_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's flags by their plain names."""
    return {plain_name(name): value for name, value in flags.items()}


def human_int(value: object) -> int | None:
    """`4029`, `16k` (thousands) or `16K` (1,024s) as a number; None when it is none. A binary suffix takes no fraction."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    text = str(value).strip()
    match = _HUMAN.fullmatch(text)
    if match is None:
        return _int(text)
    number, suffix = match.groups()
    if suffix in _DECIMAL:
        return int(float(number) * _DECIMAL[suffix])
    return int(number) * _BINARY[suffix] if number.isdigit() else None


def _int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def of_key(text: str) -> Any:
    """The value of `--flag.key TEXT`: JSON, else a number such as `16k`, else the text (`FlexibleArgumentParser.parse_args`)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        number = human_int(text)
        return text if number is None else number


def is_unset(value: object) -> bool:
    """Whether a value stands for "not set", as `optional_type` of vLLM reads it."""
    return value in ("", "None")


def decimal(value: object) -> float | None:
    """A float, or None when it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(str(value))
    except ValueError:
        return None


def shown(value: object) -> str:
    """A profile's value as messages print it; a list without brackets."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(repr(each) for each in value) if isinstance(value, tuple) else repr(value)
