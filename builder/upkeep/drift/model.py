"""What moved upstream since the lock, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Cause = Literal[
    "unchanged", "re-rendered", "new commits", "force-pushed", "rebased", "retargeted", "merge base moved", "merged", "closed", "reopened",
    "gone", "edited", "base tag moved", "base deleted", "checkpoint revision moved", "checkpoint gone", "not compared",
]  # fmt: skip

# A diff that is only rendered differently builds the same image: it is reported, and is not drift.
QUIET: frozenset[Cause] = frozenset({"unchanged", "re-rendered", "not compared"})


@dataclass(frozen=True)
class DriftFinding:
    """One thing that the lock pins, and the one cause of its difference from upstream.

    `what` is `overlay`, `base` or `checkpoint`; `locked` and `upstream` are commits or digests.
    """

    what: Literal["overlay", "base", "checkpoint"]
    name: str
    cause: Cause
    detail: str = ""
    locked: str | None = None
    upstream: str | None = None
    merge_commit: str | None = None
    first_release: str | None = None
    """The first tag that has a merged pull request, where git's tags tell."""
    reverted_as: str | None = None
    """The commit on the base branch that took a merged pull request back."""
    next: str = ""
    about: Mapping[str, str | None] = field(default_factory=dict)
    """An overlay's title, author, state when locked, why it is there, and when it can be dropped."""

    @property
    def drifted(self) -> bool:
        return self.cause not in QUIET

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "drifted": self.drifted}
