"""Work for the other core: bytes that a forked copy of this process computes while it goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from weakref import finalize


def aside(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Begin `make` in a copy of this process; what is returned waits for its result, and is called once.

    Nothing depends on the copy: where a fork is not sound or of no use (another system than Linux, another thread, a single
    core), and where it ends without a whole result, `make` is called when the result is asked for. `make` reads and writes
    nothing but memory.
    """
    if not _alone() or len(os.sched_getaffinity(0)) < 2:
        return make
    try:
        return _Copy(make)
    except OSError:
        return make


def _alone() -> bool:
    """Whether this process is one thread: a lock that another thread held would stay locked in a copy."""
    if sys.platform != "linux":
        return False
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


class _Copy:
    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._reader, writer = os.pipe()
        try:
            self._child = os.fork()
        except OSError:
            os.close(self._reader)
            raise
        else:
            if not self._child:
                _compute(make, writer)
        finally:
            os.close(writer)
        self._dropped = finalize(self, _drop, self._reader, self._child)

    def __call__(self) -> bytes:
        with open(self._reader, "rb", closefd=False) as pipe:
            data = pipe.read()
        self._dropped.detach()
        os.close(self._reader)
        return data if _ended(self._child) == 0 else self._make()


def _drop(reader: int, child: int) -> None:
    """End a copy whose result nobody asks for."""
    os.close(reader)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _ended(child)


def _ended(child: int) -> int:
    """Wait for the copy; how it ended. Where the system reaps children (SIGCHLD is ignored), nobody can say."""
    try:
        return os.waitpid(child, 0)[1]
    except ChildProcessError:
        return -1


def _compute(make: Callable[[], bytes], writer: int) -> NoReturn:
    """In the copy: never return, and run nothing of what the process does at its end."""
    code = 1
    with suppress(BaseException):
        data = memoryview(make())
        while data:
            data = data[os.write(writer, data) :]
        code = 0
    os._exit(code)
