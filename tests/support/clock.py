"""A clock that a test owns: pauses end at once, and a deadline passes when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from builder.util.context import Context
from builder.util.limits import Clock, Limits


class ManualClock(Clock):
    """`ring` lets every deadline pass that is running; `on_sleep` is called with the seconds of each pause."""

    def __init__(self, on_sleep: Callable[[float], None] = lambda _seconds: None) -> None:
        self.pauses: list[float] = []
        self.alarms: dict[int, tuple[float, Callable[[], None]]] = {}
        self.rung = 0
        self._on_sleep = on_sleep
        self._now = 1_767_225_600.0  # the first second of 2026
        self._lock = threading.Lock()
        self._count = 0

    def wall(self) -> float:
        return self._now

    def elapsed(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.pauses.append(seconds)
            self._now += seconds
        self._on_sleep(seconds)

    def alarm(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._count += 1
            key = self._count
            self.alarms[key] = (seconds, action)
        return lambda: self.alarms.pop(key, None) and None

    def ring(self) -> None:
        """Let all running deadlines pass."""
        with self._lock:
            due = list(self.alarms.values())
            self.alarms.clear()
        self.rung += len(due)
        for _, action in due:
            action()


@dataclass(frozen=True)
class Owned:
    """A context whose limits a test owns."""

    clock: ManualClock = field(default_factory=ManualClock)
    size: int = 64 << 20
    kind: type[Limits] = Limits

    @property
    def limits(self) -> Limits:
        return self.kind(silence=60.0, size=self.size, clock=self.clock)

    @property
    def context(self) -> Context:
        return Context(limits=self.limits)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make these the limits of every context of this process, whatever the environment says."""
        monkeypatch.setattr(Limits, "from_environment", lambda: self.limits)
