"""A stack as a whole process, beside the same diffs applied by GNU patch and by git, one process for each diff.

Ours reads the files and the diffs, and writes what has changed (`bench.applying`). The others change a copy of the files
that is made before their time begins: the copy that ours makes, to leave the base as it is, counts against ours. Ours makes it
in memory; GNU patch is measured there too, where nobody would run it, to tell what the disk takes from what it takes itself.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.applying import contents
from bench.cases import Case, many_files, one_file, overlays_on, releases
from bench.measure import Left, Row, Used, pairs, used
from tests.support.trees import write_tree

_PATCH = "patch --forward --batch -p1 --fuzz=0 --no-backup-if-mismatch --get=0 -s <"
_GIT = "git apply -p1"
# git passes over files below another repository's folder, and over none without a repository.
_ENVIRONMENT = {"GIT_DIR": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
_MEMORY = "/dev/shm"
_TIMES = 7


class _Scene:
    """A case on disk, and the programs that can be run on it."""

    def __init__(self, folder: Path, case: Case) -> None:
        self._folder = folder
        files, diffs = case
        write_tree(folder / "base", files)
        write_tree(folder / "diffs", {f"{number:04}.diff": diff for number, diff in enumerate(diffs)})
        self._expected: dict[str, bytes] = {}

    def ours(self, *, forgetting: bool = False) -> Used:
        """With `forgetting`, the grammar of no file has been judged before."""
        if forgetting:
            shutil.rmtree(self._folder / "cache", ignore_errors=True)
        result = self._folder / "result"
        result.unlink(missing_ok=True)
        found = used(
            sys.executable, "-m", "bench.applying", str(self._folder), str(result),
            env={"BUILDER_CACHE_DIR": str(self._folder / "cache")},
        )  # fmt: skip
        if not self._expected:
            changed = contents(result)
            kept = {path: data for path, data in _tree(self._folder / "base").items() if path not in changed}
            self._expected = kept | {path: data for path, data in changed.items() if data is not None}
        return found

    def peer(self, command: str, memory: str = "") -> Callable[[], Used]:
        """A shell that applies one diff after another, and nothing else; in the folder `memory` when there is one."""
        compared = False

        def call() -> Used:
            nonlocal compared
            with self._copied(memory) as place:
                script = f'cd "$1" && for each in "$2"/*; do {command} "$each" || exit 1; done'
                found = used("sh", "-c", script, "sh", str(place), str(self._folder / "diffs"), env=_ENVIRONMENT)
                if not compared:
                    compared = True
                    _compare(command, _tree(place), self._expected)
            return found

        return call

    @contextmanager
    def _copied(self, memory: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=memory or self._folder, prefix="bench-stack-") as name:
            place = Path(name, "copy")
            shutil.copytree(self._folder / "base", place)
            yield place


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _compare(command: str, found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    other = [path for path in sorted(found.keys() | expected.keys()) if found.get(path) != expected.get(path)]
    if other:
        raise SystemExit(f"{command} gives another {other[0]} than ours")


def _compared(what: str, case: Case, *, times: int = _TIMES, forgetting: bool = False, start: float = 0.0) -> Row:
    with tempfile.TemporaryDirectory() as name:
        scene = _Scene(Path(name), case)
        row = pairs(
            what,
            {
                "builder": lambda: scene.ours(forgetting=forgetting),
                "GNU patch": scene.peer(_PATCH),
                **({"GNU patch in memory": scene.peer(_PATCH, _MEMORY)} if os.access(_MEMORY, os.W_OK) else {}),
                "git apply": scene.peer(_GIT),
            },
            times=times,
        )
    return replace(row, note=_without_start(row, start))


def _without_start(row: Row, start: float) -> str:
    """The ratio to GNU patch when the CPU of our process's start is taken off."""
    ours, other = row.runs["builder"], row.runs["GNU patch"]
    ratio = statistics.median((a.cpu - start) / (b.cpu or math.nan) for a, b in zip(ours, other, strict=True))
    return f"without our start CPU {ratio:.2f} x GNU patch"


def _started() -> Row:
    """Our process with nothing to do, beside GNU patch with nothing to do."""
    with tempfile.TemporaryDirectory() as name:
        scene = _Scene(Path(name), ({"vllm/a.py": b"one\n"}, []))
        (Path(name) / "diffs").mkdir(exist_ok=True)
        return pairs(
            "stack: start, no overlay",
            {"builder": scene.ours, "GNU patch": lambda: used("patch", "--version")},
            times=11,
        )


def _median(row: Row, program: str) -> float:
    """The CPU of a program: other programs on the machine change it less than its seconds."""
    return statistics.median(each.cpu for each in row.runs[program])


def stack() -> Iterator[Row | Left]:
    """Real changes of vLLM, and stacks as large as people's largest."""
    row = _started()
    start = _median(row, "builder")
    yield row
    real = releases("0.20.0", "0.20.1", "0.20.2")
    large = releases("0.20.2", "0.21.0")
    for case in (real, large):
        files, hunks = _size(case)
        name = f"stack: real {files} files, {hunks:,} hunks"
        yield _compared(f"{name}, grammar not judged before", case, forgetting=True, start=start)
        yield _compared(name, case, times=9, start=start)
    yield _compared("stack: 50 overlays, 1,000 files, 2,000 hunks", many_files(1_000, 50), start=start)
    yield _compared("stack: 40 overlays on the same 20 files, 800 hunks", overlays_on(20, 40), start=start)


def _size(case: Case) -> tuple[int, int]:
    """How many files the diffs of a case change, file sections counted, and by how many hunks."""
    return sum(each.count(b"\ndiff --git ") + 1 for each in case[1]), sum(each.count(b"\n@@ -") for each in case[1])


def growth() -> Iterator[Row]:
    """How the time grows with hunks in a file, overlays on the same files, and files."""
    kinds: list[tuple[str, list[tuple[str, Case]]]] = [
        ("overlays on the same 20 files", [(f"{count:,}", overlays_on(20, count)) for count in (1, 10, 100)]),
        ("hunks in one file", [(f"{count:,}", one_file(count)) for count in (10, 100, 400, 1_000, 1_600)]),
        ("files", [(f"{count:,}", many_files(count)) for count in (10, 100, 1_000, 10_000)]),
    ]
    start = _median(_started(), "builder")
    for kind, cases in kinds:
        last: tuple[float, float] | None = None
        for label, case in cases:
            row = _compared(f"stack: {label} {kind}", case, times=_TIMES if len(case[0]) < 5_000 else 5, start=start)
            now = _median(row, "builder") - start, _median(row, "GNU patch")
            if last:
                grown = " and ".join(f"{mine / before:.1f}" for mine, before in zip(now, last, strict=True))
                row = replace(row, note=f"{row.note}; their CPU grew {grown} times since the row before")
            last = now
            yield row
    yield _compared("stack: 100 hunks in a diff of 1 MB", one_file(100, 250), start=start)
