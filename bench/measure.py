"""What all measurements share: whole processes in pairs with their peers, what they took, and the table that comes of it.

A pair is one run of ours and one of each peer, in turn, so that a busy machine is busy for all. Nothing of a pair counts that
comes before the warm-up. A row has medians, and in brackets the least and the most.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.proxy import Counter

ROOT = Path(__file__).parents[1]
OURS = (sys.executable, "-m", "builder")
PAIRS = 5


@dataclass(frozen=True)
class Used:
    """What one run took: seconds, seconds of CPU with its children, peak memory of its largest process, and the wire."""

    seconds: float
    cpu: float = 0.0
    peak: int = 0
    moved: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the table: a name and what it took, run by run, and the first name's ratio to each other one."""

    what: str
    runs: Mapping[str, Sequence[Used]]
    """Name of a program -> its runs; ours first."""
    note: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """The median of the pairs' ratios of time, by peer."""
        return self._ratios(lambda used: used.seconds)

    @property
    def cpu_ratios(self) -> dict[str, float]:
        """The same of CPU, which other programs on the machine change less."""
        return self._ratios(lambda used: used.cpu)

    def _ratios(self, value: Callable[[Used], float]) -> dict[str, float]:
        (_, ours), *peers = self.runs.items()
        return {
            name: statistics.median(
                value(mine) / (value(other) or math.nan) for mine, other in zip(ours, theirs, strict=True)
            )
            for name, theirs in peers
        }

    def lines(self) -> Iterator[list[str]]:
        for number, (name, runs) in enumerate(self.runs.items()):
            yield [
                self.what if not number else "", name, _spread([each.seconds for each in runs]),
                f"{self.ratios[name]:.2f} x; CPU {self.cpu_ratios[name]:.2f} x" if number else "",
                f"{_median(each.cpu for each in runs):.3f} s",
                f"{_median(each.peak for each in runs) / 1e6:.0f} MB" if any(each.peak for each in runs) else "",
                f"{_median(each.requests for each in runs):.0f}" if any(each.requests for each in runs) else "",
                f"{_median(each.moved for each in runs) / 1e6:.2f} MB" if any(each.moved for each in runs) else "",
                f"{len(runs)} runs{f'; {self.note}' if self.note and not number else ''}",
            ]  # fmt: skip

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "note": self.note,
            "ratios": self.ratios,
            "cpu_ratios": self.cpu_ratios,
            "runs": {name: [asdict(each) for each in runs] for name, runs in self.runs.items()},
        }


COLUMNS = ("what", "program", "seconds", "ours to it", "CPU", "peak", "requests", "moved", "")


@dataclass(frozen=True)
class Left:
    """A row that could not be measured, and why."""

    what: str
    why: str

    def lines(self) -> Iterator[list[str]]:
        yield [self.what, "", "left out", "", "", "", "", "", self.why]

    def as_json(self) -> dict[str, object]:
        return {"what": self.what, "left_out": self.why}


Rows = Iterable[Row | Left]


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def markdown(rows: Rows) -> str:
    """The table as Markdown."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *(line for row in rows for line in row.lines())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def run(*argv: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """A program's output. Ends the whole run when it fails."""
    done = subprocess.run(argv, cwd=cwd, env=environment(env), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr[-800:]}")
    return done.stdout


def environment(further: Mapping[str, str] | None = None) -> dict[str, str]:
    """As a user has it: modules are compiled once, and not at each start."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT), **(further or {})}


# A small process of its own starts what is measured: a child inherits the peak memory of the process that forks it.
_LAUNCHER = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
said = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - begun, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime,
                  usage.ru_maxrss * 1024, said.decode(errors="replace")[-800:]]))
"""


def used(
    *argv: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, wire: Counter | None = None, code: int = 0
) -> Used:
    """Run a program and see what it takes. Ends the whole run when it does not end with `code`."""
    before = wire.taken() if wire is not None else (0, 0)
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *argv],
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, ended, cpu, peak, said = json.loads(done.stdout)
    if ended != code:
        raise SystemExit(f"{' '.join(argv)} ended with {ended}: {said}")
    after = wire.taken() if wire is not None else (0, 0)
    return Used(seconds, cpu, peak, after[0] - before[0], after[1] - before[1])


def timed(call: Callable[[], object], *, wire: Counter | None = None) -> Used:
    """A call in this process, with the processes that it starts."""
    before = wire.taken() if wire is not None else (0, 0)

    def cpu() -> float:
        both = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in both)

    spent, begun = cpu(), time.perf_counter()
    call()
    seconds, own = time.perf_counter() - begun, cpu() - spent
    after = wire.taken() if wire is not None else (0, 0)
    return Used(seconds, own, 0, after[0] - before[0], after[1] - before[1])


def pairs(
    what: str, programs: Mapping[str, Callable[[], Used]], *, times: int = PAIRS, warm: bool = True, note: str = ""
) -> Row:
    """Measure programs in turn, ours first."""
    if warm:
        for call in programs.values():
            call()
    runs: dict[str, list[Used]] = {name: [] for name in programs}
    for _ in range(times):
        for name, call in programs.items():
            runs[name].append(call())
    return Row(what, runs, note)


@dataclass
class Table:
    """Rows as they come: each is printed at once, so that a long run shows where it is."""

    rows: list[Row | Left] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        for row in rows:
            self.rows.append(row)
            for line in row.lines():
                print("  ".join(each for each in line if each), flush=True)
