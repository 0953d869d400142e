"""Progress bars, drawn with rich."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich import progress as rich_progress

_QUIET_SECONDS = 1.0


class Bar:
    """One bar that appears once its step has lasted `_QUIET_SECONDS`, whether anything advances or not."""

    def __init__(self, display: rich_progress.Progress, label: str, total: int | None) -> None:
        self._display = display
        self._task = display.add_task(label, total=total)
        self._lock = threading.Lock()
        self._over = False
        self._timer = threading.Timer(_QUIET_SECONDS, self._show)
        self._timer.daemon = True
        self._timer.start()

    def advance(self, amount: int) -> None:
        self._display.update(self._task, advance=amount)

    def note(self, text: str) -> None:
        self._display.update(self._task, description=text)

    def stop(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            self._display.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._over:
                self._display.start()


@contextmanager
def stage(say: Callable[[str], object], label: str, seconds: float) -> Iterator[None]:
    """Say once that a step is still running, when it has lasted `seconds`: for a log, which has no bar."""
    timer = threading.Timer(seconds, say, (f"{label}: this takes a while",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def bar(stream: IO[str], label: str, *, total: int | None, unit: str) -> Iterator[Bar]:
    """A bar for `unit` (`bytes`, or a plural noun that is printed) on `stream`, gone when the block ends.

    Without a total it shows only the time that has passed.
    """
    # Rich is imported only when something may be drawn, so that `builder --help` stays fast.
    from rich import progress as rich_progress
    from rich.console import Console as RichConsole

    counts: list[rich_progress.ProgressColumn]
    if total is None:
        counts = [rich_progress.TimeElapsedColumn()]
    elif unit == "bytes":
        counts = [rich_progress.DownloadColumn(binary_units=True), rich_progress.TransferSpeedColumn()]
    else:
        counts = [rich_progress.MofNCompleteColumn(), rich_progress.TextColumn(unit)]
    if total is not None:
        counts.append(rich_progress.TimeRemainingColumn())
    display = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        *counts,
        console=RichConsole(file=stream),
        transient=True,
    )
    running = Bar(display, label, total)
    try:
        yield running
    finally:
        running.stop()
