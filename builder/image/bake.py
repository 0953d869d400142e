"""`docker-bake.json`: many rendered contexts as one matrix for BuildKit.

Source: Docker's Bake file reference (JSON form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """One context: its folder relative to the bake file, the names of its image, and its platform."""

    name: str
    context: str
    tags: tuple[str, ...]
    platform: str


def bake_file(targets: Sequence[Target]) -> dict[str, Any]:
    """The file's content; the default group builds every target."""
    return {
        "group": {"default": {"targets": [target.name for target in targets]}},
        "target": {
            target.name: {
                "context": target.context,
                "dockerfile": "Dockerfile",
                "tags": list(target.tags),
                "platforms": [target.platform],
            }
            for target in targets
        },
    }
