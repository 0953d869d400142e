"""JSON that has one meaning: what Python reads and other readers refuse, or read in another way, is an error.

Both functions are for `json.loads`.
"""

from __future__ import annotations

from typing import Any


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises `ValueError` for a repeated key: readers differ about which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def no_constant(name: str) -> None:
    """Raises `ValueError` for NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is not JSON")
