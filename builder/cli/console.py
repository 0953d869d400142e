"""What a command prints: one document on standard output, everything else on standard error.

Rich is imported only when something is drawn, so that `builder --help` stays fast.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from typing import IO, Any

from builder.cli.progress import bar, stage
from builder.util.context import Progress, SilentProgress
from builder.util.errors import BuilderError, InputError

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


class OutputError(InputError):
    """Standard output takes no more: its disk is full, for example."""


def _discard(stream: IO[str]) -> None:
    """Send what is still in the stream's buffer, and what comes, nowhere: the interpreter would report it again at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


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
            self.tell(text)

    def tell(self, text: str) -> None:
        """A line on standard error, whatever the verbosity. Where nobody can read it, the command goes on without."""
        try:
            print(text, file=self.stderr, flush=True)
        except OSError:
            _discard(self.stderr)

    def _write(self, text: str) -> None:
        """Write to standard output. When its reader has gone away (`builder ... | head`), the command goes on to its end.

        So its exit code is its own, and nothing is left half done. Raises `OutputError` when the text cannot be written.
        """
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except BrokenPipeError:
            _discard(self.stdout)
        except OSError as error:
            _discard(self.stdout)
            raise OutputError(
                f"cannot write to standard output: {error.strerror}",
                hint="make room where it goes to, then run it again",
            ) from error

    def detail(self, text: str) -> None:
        """A message only for `--verbose`."""
        if self.verbosity >= 1:
            self.tell(text)

    def warn(self, text: str) -> None:
        """A warning, on standard error, also with `--quiet`."""
        self.tell(f"warning: {text}")

    def fail(self, text: str) -> None:
        """An error among a command's results: a line of them, and with `--quiet` alone on standard error."""
        if self.verbosity < 0:
            self.tell(f"error: {text}")
        else:
            self.out(f"error: {text}")

    def out(self, text: str) -> None:
        """A line of the command's result for people; not printed with `--json` or `--quiet`."""
        if self.verbosity >= 0:
            self.data(text)

    def data(self, text: str) -> None:
        """What the command was called for, such as a schema: printed with `--quiet` too, and not with `--json`."""
        if not self.json_mode:
            self._write(f"{text}\n")

    def document(self, value: Any) -> None:
        """The command's result as its one JSON document; printed with `--json` only."""
        if self.json_mode:
            text = json.dumps(value, indent=2, ensure_ascii=False)
            try:
                text.encode(getattr(self.stdout, "encoding", None) or "utf-8")
            except UnicodeEncodeError:
                # A locale without these characters, or a file name that is not UTF-8.
                text = json.dumps(value, indent=2)
            self._write(f"{text}\n")

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
            self._write(f"{title}\n")
        width = max(room, sum(widths) + _COLUMN_GAP * len(columns))
        # Rich ends the process itself when the reader went away: it draws, and does not write.
        drawn = StringIO()
        RichConsole(file=drawn, force_terminal=self.stdout.isatty(), width=width, highlight=False).print(table)
        self._write(drawn.getvalue())

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
        self.tell("\n".join(lines))
        # The error that is reported decides the exit code, also where its document cannot be written.
        with suppress(OutputError):
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
