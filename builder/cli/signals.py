"""SIGTERM and SIGHUP end a command as Ctrl-C does.

Without that, the end of a CI job or of an ssh session would leave a container with its GPU, and temporary folders.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

from builder.util.errors import EXIT_INTERRUPTED

_received: list[int] = []


def end_on_signals() -> None:
    """Take SIGTERM and SIGHUP for Ctrl-C, unless the caller ignores them, as `nohup` does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt


def interrupted_code() -> int:
    """The exit code of an interrupted command: 130, or what a shell gives for the signal: 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + _received[0] if _received else EXIT_INTERRUPTED
