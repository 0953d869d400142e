"""What verification finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that differs: where, and what was wanted and found."""

    where: str
    wanted: str
    found: str
