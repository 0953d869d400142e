"""Progress on a terminal: there after a second, whether anything advances or not, gone at the end, and never in a pipe."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Callable

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
