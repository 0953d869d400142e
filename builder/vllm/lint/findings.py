"""What the linter reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "not-checked"]
LEVELS: tuple[Level, ...] = ("error", "warning", "not-checked")


@dataclass(frozen=True)
class Finding:
    """One thing about a profile. `flag` is the flag's or variable's key in the profile, None for the profile as a whole."""

    rule: str
    level: Level
    message: str
    flag: str | None = None
    place: str = ""
    """`profiles/NAME.yaml:LINE:COLUMN`."""
    hint: str | None = None
    source: str | None = None
    """The place in the package: `vllm/config/cache.py:51`."""

    def as_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule, "level": self.level, "flag": self.flag, "message": self.message, "hint": self.hint,
            "place": self.place, "source": self.source,
        }  # fmt: skip


def count(findings: Sequence[Finding]) -> dict[str, int]:
    """How many findings there are of each level."""
    return {level: sum(1 for each in findings if each.level == level) for level in LEVELS}
