"""What all measurements share: times, bytes on the wire, peak memory, and rows of the table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Used:
    """What a program took: seconds, bytes received on all interfaces, and its peak memory in bytes."""

    seconds: float
    moved: int
    peak: int


def median_ms(call: Callable[[], object], *, times: int = 9) -> float:
    """The median time of `call` in milliseconds, after one call that warms the caches."""
    call()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


def run(*argv: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """A program's output. Ends the whole run when it fails."""
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr[-800:]}")
    return done.stdout


def moved_bytes() -> int:
    """Bytes received on all interfaces, loopback included (Linux)."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[0]) for line in lines)


# A small process of its own starts what is measured: a child inherits the peak memory of the process that forks it.
_LAUNCHER = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - begun, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]))
"""


def used(*argv: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> Used:
    """Run a program and see what it takes. Ends the whole run when it fails."""
    before = moved_bytes()
    seconds, code, peak = json.loads(run(sys.executable, "-S", "-c", _LAUNCHER, *argv, cwd=cwd, env=env))
    if code != 0:
        raise SystemExit(f"{' '.join(argv)} ended with {code}")
    return Used(seconds, moved_bytes() - before, peak)
