"""How long, how often and how much: one value for every server that is asked, GitHub, the Hub and registries alike.

A command makes it once from the environment and `Context` carries it. The clock inside is the only one that limits are
measured with, so that a test can own it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from builder.util.errors import InputError

_A_DAY = 86_400
_EXCHANGE = 15


class Clock:
    """The real time."""

    def wall(self) -> float:
        """Seconds since 1970, for dates that a server names."""
        return time.time()

    def elapsed(self) -> float:
        """Seconds from an arbitrary start, for durations."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait between two attempts."""
        time.sleep(seconds)

    def alarm(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` from another thread after `seconds`; the result cancels that."""
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()
        return timer.cancel


@dataclass(frozen=True)
class Limits:
    """The limits of one run.

    `silence` is the longest silence of a server in seconds, `attempts` how often one request is sent, `size` how many
    bytes of one response are read into memory, and `longest_wait` the longest pause in seconds that a server may ask for.
    """

    silence: float = 60.0
    attempts: int = 4
    size: int = 64 << 20
    longest_wait: float = 30.0
    slowest: int = 16 << 10
    """Bytes per second that a download must keep, on average, once it has used up `exchange`."""
    clock: Clock = Clock()  # noqa: RUF009  it has no state

    @classmethod
    def from_environment(cls) -> Limits:
        """`BUILDER_HTTP_TIMEOUT` sets the longest silence. Raises `InputError` when it is not a number of seconds."""
        text = os.environ.get("BUILDER_HTTP_TIMEOUT") or "60"
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= _A_DAY:
            raise InputError(f"BUILDER_HTTP_TIMEOUT is {text!r}", hint="give seconds, such as 60")
        return cls(silence=seconds)

    @property
    def connect(self) -> float:
        """Seconds that a connection may take to be made."""
        return min(15.0, self.silence)

    @property
    def exchange(self) -> float:
        """Seconds that one whole response may take, headers and redirects included.

        A server that sends a byte now and then is never silent: only a deadline ends that.
        """
        return _EXCHANGE * self.silence

    def pause(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`, from 1: growing, and always shorter than a silence."""
        return min(0.15 * float(1 << attempt), self.longest_wait, self.silence / 4)
