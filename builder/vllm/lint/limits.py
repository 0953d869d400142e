"""Limits of numbers, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

COMPARE: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "gt": ("above", lambda value, limit: value > limit),
    "ge": ("at least", lambda value, limit: value >= limit),
    "lt": ("below", lambda value, limit: value < limit),
    "le": ("at most", lambda value, limit: value <= limit),
    "multiple_of": ("a multiple of", lambda value, limit: value % limit == 0),
}


def outside(limits: tuple[tuple[str, float], ...], number: Any) -> str | None:
    """The limits that a number misses, such as `at least 1 and at most 8`; all of them without a number, None for none."""
    if number is not None and (not isinstance(number, int | float) or isinstance(number, bool)):
        return None
    missed = [
        f"{COMPARE[kind][0]} {limit:g}"
        for kind, limit in limits
        if number is None or not COMPARE[kind][1](number, limit)
    ]
    return " and ".join(missed) or None
