"""Work in a forked copy: the same bytes as here, whatever becomes of the copy. Each test is a process of one thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BEGIN = """
import os, signal, threading
from builder.util.aside import aside
os.sched_getaffinity = lambda _: {0, 1}
here = os.getpid()
def whose() -> bytes:
    return b"here" if os.getpid() == here else b"copy"
def nobody() -> bool:
    try:
        return os.waitpid(-1, 0) is None
    except ChildProcessError:
        return True
"""


def ran(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _BEGIN + script], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux only")


def test_a_copy_gives_the_bytes() -> None:
    assert ran("print(aside(whose)(), nobody())") == "b'copy' True\n"
    # More than a pipe holds.
    assert ran("print(len(aside(lambda: bytes(3_000_000))()))") == "3000000\n"


@pytest.mark.parametrize(
    "ending",
    ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)", "raise KeyboardInterrupt", "raise ValueError"],
)
def test_what_a_copy_does_not_finish_is_done_here(ending: str) -> None:
    script = f"""
def make() -> bytes:
    if os.getpid() != here:
        {ending}
    return whose()
print(aside(make)(), nobody())
"""
    assert ran(script) == "b'here' True\n"


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    script = """
def make() -> bytes:
    raise ValueError("no")
result = aside(make)
try:
    result()
except ValueError as error:
    print(error)
"""
    assert ran(script) == "no\n"


def test_beside_another_thread_or_on_one_core_nothing_is_forked() -> None:
    script = """
event = threading.Event()
thread = threading.Thread(target=event.wait)
thread.start()
print(aside(whose)())
event.set()
thread.join()
os.sched_getaffinity = lambda _: {0}
print(aside(whose)())
"""
    assert ran(script) == "b'here'\nb'here'\n"


def test_a_result_that_nobody_asks_for_leaves_nothing_behind() -> None:
    script = """
before = len(os.listdir("/proc/self/fd"))
results = [aside(lambda: bytes(3_000_000)) for _ in range(3)]
del results
print(nobody(), len(os.listdir("/proc/self/fd")) - before)
"""
    assert ran(script) == "True 0\n"


def test_the_copy_runs_nothing_of_the_end_of_the_process() -> None:
    assert ran('import atexit; atexit.register(print, "end"); print("text"); print(aside(whose)())') == (
        "text\nb'copy'\nend\n"
    )
