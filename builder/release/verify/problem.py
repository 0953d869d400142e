"""What verification finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

MISSING: Final = "(nothing)"
_LONGEST = 200


@dataclass(frozen=True)
class Problem:
    """One thing that differs: where, and what was wanted and found."""

    where: str
    wanted: str
    found: str


def short(value: object) -> str:
    """A value for a message: text as it is, anything else as JSON, at most 200 characters."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError, TypeError):
        text = f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
