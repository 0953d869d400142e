"""Programs that work while something else is done: waited for later, and ended with the block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.util.process import TimeLimitError, run, starting


def test_a_program_works_while_something_else_is_done(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with starting(["sh", "-c", "cat; cat pipe"], cwd=tmp_path, stdin=b"input ") as finish:
        # It ends only when this process has written.
        (tmp_path / "pipe").write_text("written")
        done = finish()
    assert (done.returncode, done.stdout) == (0, b"input written")


def test_a_program_that_still_runs_is_ended_with_the_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with starting(["sh", "-c", "echo $$ > pid; mv pid named; exec cat pipe"], cwd=tmp_path):
        while not (tmp_path / "named").exists():
            pass
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "named").read_text()), 0)


def test_the_time_limit_counts_from_the_start() -> None:
    with starting(["sleep", "60"], timeout=0) as finish, pytest.raises(TimeLimitError, match="sleep did not end"):
        finish()


@pytest.mark.parametrize("size", [1, 100_000, (32 << 20) + 1])
def test_input_of_any_size_is_a_file_that_is_read_from_its_beginning(size: int) -> None:
    data = os.urandom(1000) * (size // 1000 + 1)
    done = run(["sh", "-c", "test -f /dev/stdin && wc -c"], stdin=data)
    assert int(done.stdout) == len(data)
