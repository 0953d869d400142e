"""What a command prints: one document on standard output, everything else on standard error.

Rich is imported only when something is drawn, so that `builder --help` stays fast.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from builder.cli.progress import bar, stage
from builder.util.context import Progress, SilentProgress
from builder.util.errors import BuilderError

_WIDE = 200
_COLUMN_GAP = 3
"""Columns on a terminal that rich puts between two of a table, at most."""


def _widths(least: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """Widths of columns: at least their longest word each, and of the room that is left what they want, from the narrowest."""
    widths = [max(1, each) for each in least]
    left = room - sum(widths)
    by_need = sorted(range(len(widths)), key=lambda index: wanted[index] - widths[index])
    for position, index in enumerate(by_need):
        share = max(0, left) // (len(by_need) - position)
        more = max(0, min(wanted[index] - widths[index], share))
        widths[index] += more
        left -= more
    return widths


@dataclass
class Console:
    """Messages, tables and progress of one command run.

    `json_mode` keeps standard output for the one document; `verbosity` is -1 (quiet), 0 or 1 and more (`-v`).
    """

    json_mode: bool = False
    verbosity: int = 0
    stdout: IO[str] = field(default_factory=lambda: sys.stdout)
    stderr: IO[str] = field(default_factory=lambda: sys.stderr)
    stage_seconds: float = 15.0
    """How long a step lasts before a log without a bar says that it is running."""

    def say(self, text: str) -> None:
        """A message about what is going on, on standard error, unless `--quiet`."""
        if self.verbosity >= 0:
            print(text, file=self.stderr, flush=True)

    def detail(self, text: str) -> None:
        """A message only for `--verbose`."""
        if self.verbosity >= 1:
            print(text, file=self.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A warning, on standard error, also with `--quiet`."""
        print(f"warning: {text}", file=self.stderr, flush=True)

    def fail(self, text: str) -> None:
        """An error among a command's results: a line of them, and with `--quiet` alone on standard error."""
        if self.verbosity < 0:
            print(f"error: {text}", file=self.stderr, flush=True)
        else:
            self.out(f"error: {text}")

    def out(self, text: str) -> None:
        """A line of the command's result for people; not printed with `--json` or `--quiet`."""
        if self.verbosity >= 0:
            self.data(text)

    def data(self, text: str) -> None:
        """What the command was called for, such as a schema: printed with `--quiet` too, and not with `--json`."""
        if not self.json_mode:
            print(text, file=self.stdout, flush=True)

    def document(self, value: Any) -> None:
        """The command's result as its one JSON document; printed with `--json` only."""
        if self.json_mode:
            json.dump(value, self.stdout, indent=2, ensure_ascii=False)
            self.stdout.write("\n")
            self.stdout.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
        """A table on standard output (not with `--json` or `--quiet`). Columns of numbers are set to the right.

        A column is never narrower than its longest word: on a terminal that has no room for that, lines run on.
        """
        if self.json_mode or self.verbosity < 0:
            return
        from rich.box import SIMPLE_HEAD
        from rich.cells import cell_len
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        # A pipe has no width: a table for a program or a file is never folded to 80 columns.
        room = shutil.get_terminal_size().columns if self.stdout.isatty() else _WIDE
        cells = [[column, *(row[index] for row in rows)] for index, column in enumerate(columns)]
        widths = _widths(
            [max((cell_len(word) for text in column for word in text.split()), default=1) for column in cells],
            [max(cell_len(line) for text in column for line in text.splitlines() or [""]) for column in cells],
            room - _COLUMN_GAP * len(columns),
        )
        for (name, *found), width in zip(cells, widths, strict=True):
            figures = [text.replace(",", "") for text in found]
            numeric = bool(figures) and all(text in {"", "-"} or text.lstrip("+-").isdigit() for text in figures)
            table.add_column(name, justify="right" if numeric else "left", width=width)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        if title is not None:
            print(title, file=self.stdout)
        width = max(room, sum(widths) + _COLUMN_GAP * len(columns))
        RichConsole(file=self.stdout, width=width, highlight=False).print(table)

    def error(self, error: BuilderError) -> None:
        """Print an error with its details and hint, and with `--json` the error document."""
        lines = [f"error: {error.message}"]
        width = max((len(label) for label, _ in error.details), default=4)
        width = max(width, 4)
        for label, text in error.details:
            first, *rest = text.splitlines() or [""]
            lines.append(f"  {label:<{width}}  {first}")
            lines += [f"  {'':<{width}}  {line}" for line in rest]
        if error.hint:
            first, *rest = error.hint.splitlines()
            lines.append(f"  {'next':<{width}}  {first}")
            lines += [f"  {'':<{width}}  {line}" for line in rest]
        print("\n".join(lines), file=self.stderr, flush=True)
        self.document(error.as_json())

    @contextmanager
    def progress(self, label: str, *, total: int | None = None, unit: str = "bytes") -> Iterator[Progress]:
        """A progress bar on a terminal (`unit` is `bytes` or a plural noun), and silence with `--quiet`.

        The bar shows itself only after one second, so that quick steps leave no trace. In a pipe or a log there is one
        line, and only for a step that lasts.
        """
        if self.verbosity < 0:
            yield SilentProgress()
            return
        if not self.stderr.isatty():
            with stage(self.say, label, self.stage_seconds):
                yield SilentProgress()
            return
        with bar(self.stderr, label, total=total, unit=unit) as running:
            yield running
