"""What a start-up looks like while it runs: a table on a terminal, a line per phase in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.cli.console import Console
from builder.serve.smoke.view import View
from builder.serve.startup_log import PHASES, StartupLog

if TYPE_CHECKING:
    from rich.table import Table


class _Lines:
    """A line when a phase begins."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()

    def show(self, seconds: float, phases: Mapping[str, float], log: StartupLog | None) -> None:  # noqa: ARG002
        for phase, begun in phases.items():
            if phase not in self._said:
                self._said.add(phase)
                self._console.say(f"{begun:8.1f} s  {phase}")


@contextmanager
def startup_view(console: Console, limit: float) -> Iterator[View]:
    """A table that redraws itself and is gone when the block ends, or lines where standard error is not a terminal."""
    if console.verbosity < 0 or not console.stderr.isatty():
        yield _Lines(console)
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    with Live(console=RichConsole(file=console.stderr), transient=True, refresh_per_second=8) as live:

        class _Table:
            def show(self, seconds: float, phases: Mapping[str, float], log: StartupLog | None) -> None:
                live.update(table(seconds, limit, phases, log))

        yield _Table()


def table(seconds: float, limit: float, phases: Mapping[str, float], log: StartupLog | None) -> Table:
    """Phases with how long each took, what is going on, and how much of the limit is left."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, show_header=False)
    begun = list(phases.items())
    for index, (phase, at) in enumerate(begun):
        last = index == len(begun) - 1
        end = seconds if last else begun[index + 1][1]
        ready = phase == PHASES[-1]
        mark = "✓" if not last or ready else "…"
        drawn.add_row(
            mark, phase, "" if ready else f"{end - at:6.1f} s", _note(phase, log), style="bold" if last else ""
        )
    for phase in PHASES[PHASES.index(begun[-1][0]) + 1 :] if begun else PHASES:
        drawn.add_row(" ", phase, "", "", style="dim")
    drawn.add_row("", "", f"{seconds:6.1f} s", f"of {limit:.0f} s", style="dim")
    return drawn


def _note(phase: str, log: StartupLog | None) -> str:
    """What the log says about a phase."""
    if log is None:
        return ""
    if phase == "loading weights":
        if log.loaded_gib is not None:
            return f"{log.loaded_gib:.2f} GiB"
        return "{} of {} shards".format(*log.shards) if log.shards else ""
    if phase == "sizing the KV cache" and log.kv_cache_tokens is not None:
        concurrency = f", {log.max_concurrency:.2f}x" if log.max_concurrency is not None else ""
        return f"{log.kv_cache_tokens:,} tokens{concurrency}"
    return ""
