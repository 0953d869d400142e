"""Values that JSON text can hold and that cannot be written again, or copied without end."""

from __future__ import annotations

from typing import Any

# Python reads deeper values than it copies and writes; no checkpoint's config comes near.
DEPTH_LIMIT = 100


def refuse_unwritable(document: Any) -> None:
    """Raises `ValueError` for values that lie too deep, and for texts with half a surrogate pair, keys included."""
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            # UnicodeEncodeError is a ValueError, but quotes the whole text.
            if any("\ud800" <= each <= "\udfff" for each in value):
                raise ValueError(f"half a surrogate pair in {value[:80]!a}")
        elif isinstance(value, dict | list):
            if depth == DEPTH_LIMIT:
                raise ValueError(f"values lie deeper than {DEPTH_LIMIT} levels")
            inside = (*value.keys(), *value.values()) if isinstance(value, dict) else value
            waiting += [(each, depth + 1) for each in inside]
