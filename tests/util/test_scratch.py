"""A private folder is in memory where it fits, is never another run's, and nothing of a killed run stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.util.scratch import scratch

MEMORY = Path("/dev/shm")
needs_memory = pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="needs /dev/shm")
PREFIX = f"builder-test-{os.getpid()}-"


@needs_memory
def test_it_is_in_memory_and_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    with scratch(PREFIX, size=1000, files=1) as name:
        assert Path(name).parent == MEMORY
        assert Path(name).stat().st_mode & 0o777 == 0o700
        Path(name, "a").write_text("x")
        # Another run finds it in use.
        with scratch(PREFIX, size=1000, files=1) as other:
            assert other != name
        assert Path(name, "a").read_text() == "x"
    assert not Path(name).exists()


def test_what_does_not_fit_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    with scratch(PREFIX, size=1 << 60, files=1) as name:
        assert Path(name).parent != MEMORY
    assert not Path(name).exists()


def test_the_place_that_somebody_asks_for_is_taken(tmp_path: Path) -> None:
    code = f"from builder.util.scratch import scratch\nwith scratch('{PREFIX}', size=1, files=1) as name: print(name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).parent == tmp_path


@needs_memory
def test_what_a_killed_run_has_left_is_removed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    code = (
        "import os, signal\nfrom builder.util.scratch import scratch\n"
        f"with scratch('{PREFIX}', size=1, files=1) as name:\n"
        "    open(name + '/a', 'w').write('x')\n    print(name, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    assert (left / "a").read_text() == "x"
    with scratch(PREFIX, size=1, files=1):
        assert not left.exists()
