"""A forked process is what one that was started from nothing is: the tests run most commands forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import forkserver
from tests.support.forkserver import REPOSITORY, Ended
from tests.support.smallwheel import make_project

PROBE = "tests.support.surroundings"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}


def forked(*arguments: str, cwd: Path, module: str = "builder", **env: str) -> Ended:
    return forkserver.run(module, arguments, cwd=cwd, env=environment(**env), timeout=200)


def started(*arguments: str, cwd: Path, module: str = "builder", **env: str) -> Ended:
    words = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(words, cwd=cwd, env=environment(**env), capture_output=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_it_finds_the_same_around_it(tmp_path: Path) -> None:
    """Arguments, folder, environment, open files, signals, umask, limits, streams: all but the modules that are loaded."""
    before = os.umask(0o027)
    try:
        words = ("--x", "a b", "\u017elu\u0165", "\udcff")
        ours, theirs = (run(*words, cwd=tmp_path, module=PROBE, OWN="\udcfe") for run in (forked, started))
        found: list[dict[str, Any]] = [json.loads(each.out) for each in (ours, theirs)]
        assert found[0] == found[1]
        assert found[0]["kept from"][0] == "0027"
        assert (ours.code, ours.err) == (theirs.code, theirs.err) == (7, b"a last line on the other stream\n")
        assert forked("--killed", cwd=tmp_path, module=PROBE).code == -signal.SIGKILL
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "PYTHONOPTIMIZE", "LC_ALL", "TZ"])
def test_what_python_reads_at_its_start_is_read(tmp_path: Path, name: str) -> None:
    value = {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}.get(name, "1")
    found = [json.loads(run(cwd=tmp_path, module=PROBE, **{name: value}).out) for run in (forked, started)]
    assert found[0] == found[1]


@pytest.mark.parametrize("line", ["--version", "lock --help", "nothing", "lock small --json", "check small"])
def test_commands_say_the_same(tmp_path: Path, line: str) -> None:
    make_project(tmp_path, {})
    forked("lock", "small", cwd=tmp_path)
    assert forked(*line.split(), cwd=tmp_path) == started(*line.split(), cwd=tmp_path)


def test_many_at_once_are_not_mixed_up(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: forked(str(number), cwd=tmp_path, module=PROBE), range(40)))
    assert [json.loads(each.out)["argv"] for each in found] == [[str(number)] for number in range(40)]


def test_two_runs_have_different_hash_seeds(tmp_path: Path) -> None:
    """So that what depends on the order of a set differs between the two builds that a test compares."""
    (tmp_path / "seed.py").write_text("print(hash('builder'))\n")
    found = {forked(cwd=tmp_path, module="seed").out for _ in range(4)}
    assert len(found) == 2


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import threading\nprint('begun', flush=True)\nthreading.Event().wait()\n")
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        forkserver.run("endless", [], cwd=tmp_path, env=environment(), timeout=0.5)
    assert raised.value.output in (b"begun\n", b"")
