"""A build that is cut short leaves what was there before, or what it was to make: never something in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.util.holding import holding
from tests.support.cli import builder
from tests.support.services import require_root
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    diff = git_diff(tmp_path / "g", FILES, {**FILES, "vllm/big.py": b"x = 1\n" * 60_000})
    return make_project(tmp_path / "project", {"one.diff": diff})


def start(project: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "builder", *arguments], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})},
    )  # fmt: skip


def is_whole(project: Path) -> None:
    """What is in dist, if anything, passes verification."""
    if (project / "dist/small/index.json").exists():
        done = builder("verify", "oci:dist/small", "--recipe", "small", cwd=project)
        assert done.code == 0, done.err


def test_killed_at_any_moment_the_next_run_succeeds(project: Path) -> None:
    begun = time.monotonic()
    assert builder("lock", "small", cwd=project).code == 0
    usual = time.monotonic() - begun
    for twelfth in range(12):
        process = start(project, "build", "small", "--engine", "oci")
        time.sleep(usual * twelfth / 12)
        process.kill()
        process.communicate()
        is_whole(project)
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    is_whole(project)
    assert builder("lock", "small", "--check", cwd=project).code == 0


def test_ctrl_c_ends_in_130_and_leaves_no_temporary_files(project: Path) -> None:
    with holding(project):
        process = start(project, "lock", "small", "--json")
        assert process.stderr is not None
        told = process.stderr.readline()
        assert f"waiting for process {os.getpid()}".encode() in told, told
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    assert not (project / "images/small.lock.yaml").exists()
    assert [path.name for path in (project / "images").iterdir()] == ["small.yaml"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_leaves_no_half_image(project: Path, small_disk: Path) -> None:
    done = builder("build", "small", "--engine", "oci", "--output", f"oci:{small_disk}/out", "--json", cwd=project)
    assert done.code == 2
    error = json.loads(done.out)["error"]
    assert "No space left" in error["message"]
    assert not (small_disk / "out/index.json").exists()
    assert [path for path in small_disk.rglob("*") if path.name.endswith(".tmp")] == []


def test_an_interruption_stays_one_whatever_a_library_makes_of_it(tmp_path: Path) -> None:
    """pydantic-core gives an error of its own for a KeyboardInterrupt that ends a validator."""
    script = """
import os, signal, sys
import builder.cli.commands.list as command
from builder.cli.app import main
def interrupted(*_arguments, **_options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("another error") from None
command.command.callback = interrupted
sys.argv = ["builder", "list"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing is left half done\n")
