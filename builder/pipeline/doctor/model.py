"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `problem` stops the work, and `code` is then the exit code of the command that would meet it; `note` is for what only
    some commands need. `next` says what to do.
    """

    name: str
    state: State
    text: str
    next: str = ""
    code: int = 0

    def as_json(self) -> dict[str, str]:
        """The finding without what is empty."""
        parts = {"name": self.name, "state": self.state, "text": self.text, "next": self.next}
        return {key: text for key, text in parts.items() if text}
