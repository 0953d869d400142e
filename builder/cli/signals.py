"""SIGTERM and SIGHUP end a command as Ctrl-C does, and what was interrupted is known as that.

Without that, the end of a CI job or of an ssh session would leave a container with its GPU, and temporary folders. A library
may swallow a `KeyboardInterrupt` or make another error of it, as pydantic-core does: so it is noted.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

from builder.util.errors import EXIT_INTERRUPTED

_received: list[int] = []


def end_on_signals() -> None:
    """Take SIGTERM and SIGHUP for Ctrl-C, unless the caller ignores them, as `nohup` does; note all three."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Whether a signal has come, whatever became of the `KeyboardInterrupt`."""
    return bool(_received)


def interrupted_code() -> int:
    """The exit code of an interrupted command, as a shell gives it: 130, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + _received[0] if _received else EXIT_INTERRUPTED
