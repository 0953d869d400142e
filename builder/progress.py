"""Progress bars, drawn with rich."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich import progress as rich_progress
from rich.console import Console as RichConsole

_QUIET_SECONDS = 1.0


class Bar:
    """One bar that appears once its step has lasted `_QUIET_SECONDS`."""

    def __init__(self, display: rich_progress.Progress, label: str, total: int | None) -> None:
        self._display = display
        self._begun = time.monotonic()
        self._task = display.add_task(label, total=total)
        self._shown = False

    def advance(self, amount: int) -> None:
        self._display.update(self._task, advance=amount)
        if not self._shown and time.monotonic() - self._begun > _QUIET_SECONDS:
            self._shown = True
            self._display.start()

    def note(self, text: str) -> None:
        self._display.update(self._task, description=text)
        self.advance(0)


@contextmanager
def bar(stream: IO[str], label: str, *, total: int | None, unit: str) -> Iterator[Bar]:
    """A bar for `unit` (`bytes`, or a plural noun that is printed) on `stream`, gone when the block ends."""
    counts: list[rich_progress.ProgressColumn]
    if unit == "bytes":
        counts = [rich_progress.DownloadColumn(binary_units=True), rich_progress.TransferSpeedColumn()]
    else:
        counts = [rich_progress.MofNCompleteColumn(), rich_progress.TextColumn(unit)]
    display = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        *counts,
        rich_progress.TimeRemainingColumn(),
        console=RichConsole(file=stream),
        transient=True,
    )
    try:
        yield Bar(display, label, total)
    finally:
        display.stop()
