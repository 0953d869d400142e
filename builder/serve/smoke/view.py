"""Where a start-up is shown while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from builder.serve.startup_log import StartupLog


class View(Protocol):
    """`show` is called several times a second: seconds since the start, when each phase began, the log so far."""

    def show(self, seconds: float, phases: Mapping[str, float], log: StartupLog | None) -> None: ...
