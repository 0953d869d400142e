"""What was read from somebody else's recipe or command line: a profile's parts, and what could not be carried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.documents.environment import value_problem, variable_problem
from builder.documents.profile import Hardware, Profile

_NAME = re.compile(r"[^a-z0-9]+")


@dataclass
class Imported:
    """Flags and variables for a profile, in order; `lost` is what they do not hold, each with why or what to do instead."""

    name: str
    description: str = ""
    model: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    hardware: Hardware | None = None
    notes: str = ""
    lost: list[tuple[str, str]] = field(default_factory=list)

    def lose(self, what: str, why: str) -> None:
        if (what, why) not in self.lost:
            self.lost.append((what, why))

    def set_variables(self, variables: Mapping[str, object], source: str) -> None:
        """Take variables over, those that a profile cannot hold excepted; a later one wins."""
        for name, value in variables.items():
            text = ("1" if value else "0") if isinstance(value, bool) else str(value)
            problem = variable_problem(str(name)) or value_problem(text)
            if problem is not None:
                self.lose(f"{source} {name}", problem)
            else:
                self.env[str(name)] = text

    def profile(self) -> Profile:
        """The profile. Raises pydantic's `ValidationError` for a flag that no profile can hold."""
        return Profile(
            name=self.name,
            description=self.description,
            flags=self.flags,
            env=self.env,
            hardware=self.hardware,
            notes=self.notes,
        )


def profile_name(text: str) -> str:
    """A profile's name from any text: `Qwen/Qwen3-8B FP8` is `qwen-qwen3-8b-fp8`."""
    return _NAME.sub("-", text.lower()).strip("-")[:100].strip("-") or "imported"
