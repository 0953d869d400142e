"""How a command ends: with output that is closed, full, or left by its reader, its exit code stays its own; and by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.util.holding import holding
from tests.support.smallwheel import make_project

REPOSITORY = Path(__file__).parents[2]
UNKNOWN = "check nothing"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("streams"), {})


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `$B` is the builder; the exit code is that of the builder, also in a pipe."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "B": f"{sys.executable} -m builder"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$B list | true", 0),
        ("$B list --json | true", 0),
        ("$B --help | true", 0),
        (f"$B {UNKNOWN} --json | true", 2),
        (f"$B {UNKNOWN} 2>&1 | true", 2),
        ("$B nosuch --json 2>&1 | true", 2),
        ("$B lock small --check | true", 4),
    ],
)
def test_a_reader_that_goes_away_changes_no_exit_code(project: Path, line: str, code: int) -> None:
    done = shell(line, project)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_not_missed(project: Path, streams: str) -> None:
    for line, code in (("$B list --json", 0), (f"$B {UNKNOWN}", 2)):
        done = shell(f"{line} {streams}", project)
        assert done.returncode == code, done.stderr
        assert "error" not in done.stdout
        assert "Traceback" not in done.stderr


def test_a_full_output_is_an_error_that_names_it(project: Path) -> None:
    for option in ("", "--json"):
        done = shell(f"$B list {option} > /dev/full", project)
        assert done.returncode == 2
        assert "cannot write to standard output" in done.stderr
        assert "Traceback" not in done.stderr
    done = shell(f"$B {UNKNOWN} --json 2> /dev/full", project)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_an_interrupted_command_prints_its_document(project: Path, number: int, code: int) -> None:
    with holding(project):
        # The tests themselves may run under `nohup`, whose children ignore SIGHUP.
        process = subprocess.Popen(
            ["env", "--default-signal=HUP", sys.executable, "-m", "builder", "lock", "small", "--json"], cwd=project,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert process.stderr is not None
        assert b"waiting" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert json.loads(out)["error"] == {"kind": "Interrupted", "message": "interrupted", "exit_code": code}
