"""Progress on a terminal: there after a second, whether anything advances or not, gone at the end, and never in a pipe."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Callable
from io import StringIO

import pytest

from builder.cli.console import Console
from builder.util.context import Progress


def on_a_terminal(work: Callable[[Progress], None], *, total: int | None, unit: str, verbosity: int = 0) -> str:
    """What a terminal gets to see while `work` runs under a bar."""
    master, slave = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:
                return
            if not data:
                return
            seen.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(slave, "w") as stream:
        console = Console(stderr=stream, verbosity=verbosity)
        with console.progress("fetching the diff", total=total, unit=unit) as bar:
            work(bar)
    reader.join(5)
    os.close(master)
    return seen.decode("utf-8", "replace")


def waits(bar: Progress) -> None:
    threading.Event().wait(1.6)


def advances(bar: Progress) -> None:
    for _ in range(4):
        threading.Event().wait(0.4)
        bar.advance(1 << 20)


@pytest.fixture(autouse=True)
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_a_step_without_a_count_is_seen_too() -> None:
    seen = on_a_terminal(waits, total=None, unit="bytes")
    assert "fetching the diff" in seen
    assert "0:00:01" in seen


def test_bytes_are_counted_with_their_rate() -> None:
    seen = on_a_terminal(advances, total=8 << 20, unit="bytes")
    assert "/8.0 MiB" in seen
    assert "MB/s" in seen


def test_a_quick_step_a_quiet_one_and_a_pipe_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert on_a_terminal(lambda bar: bar.advance(1), total=None, unit="bytes") == ""
    assert on_a_terminal(waits, total=None, unit="bytes", verbosity=-1) == ""
    with Console().progress("fetching") as bar:
        waits(bar)
    assert capsys.readouterr().err == ""


class Told(StringIO):
    """A log that tells when something is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count


def test_a_log_has_one_line_for_a_step_that_lasts() -> None:
    log = Told()
    with Console(stderr=log, stage_seconds=0.0).progress("checking the wheel", total=9) as bar:
        assert log.written.wait(60)
        bar.advance(3)
    assert log.getvalue() == "checking the wheel: this takes a while\n"
    quiet = Told()
    with Console(stderr=quiet, stage_seconds=0.0, verbosity=-1).progress("checking the wheel"):
        pass
    assert quiet.getvalue() == ""
