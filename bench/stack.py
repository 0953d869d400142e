"""How a stack's time grows, against bare GNU patch on the same files and diffs: hunks in a file, and overlays on the same files."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.measure import Left, Row, pairs, timed

Case = tuple[Mapping[str, bytes], Sequence[bytes]]
_PATCH = ("patch", "--forward", "--batch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "--get=0", "-s")
_SPACING = 20


def one_file(hunks: int, size: int = 1) -> Case:
    """One overlay with `hunks` hunks of `size` changed lines in one file of as many times 20 lines and more."""
    step = _SPACING + size
    lines = [b"value_%d = %d\n" % (number, number) for number in range(hunks * step)]
    parts = [b"diff --git a/vllm/a.py b/vllm/a.py\n--- a/vllm/a.py\n+++ b/vllm/a.py\n"]
    for number in range(hunks):
        at = number * step + 5
        old, new = lines[at : at + size], [b"changed_%d = 1\n" % (at + each) for each in range(size)]
        count = size + 6
        parts.append(b"@@ -%d,%d +%d,%d @@\n" % (at - 2, count, at - 2, count))
        parts += [b" " + line for line in lines[at - 3 : at]]
        parts += [b"-" + line for line in old] + [b"+" + line for line in new]
        parts += [b" " + line for line in lines[at + size : at + size + 3]]
    return {"vllm/a.py": b"".join(lines)}, [b"".join(parts)]


def overlays_on(files: int, overlays: int) -> Case:
    """Overlays that each add a line to each of the same files, all of them made for the bare base."""
    lines = [b"value_%d = %d\n" % (number, number) for number in range((overlays + 1) * _SPACING)]
    diffs = []
    for number in range(overlays):
        at = number * _SPACING + 5
        hunk = b"@@ -%d,6 +%d,7 @@\n" % (at - 2, at - 2)
        hunk += b"".join(b" " + line for line in lines[at - 3 : at]) + b"+added_%d = 1\n" % number
        hunk += b"".join(b" " + line for line in lines[at : at + 3])
        names = [b"vllm/m%d.py" % each for each in range(files)]
        diffs.append(b"".join(b"--- a/%b\n+++ b/%b\n%b" % (name, name, hunk) for name in names))
    return {f"vllm/m{each}.py": b"".join(lines) for each in range(files)}, diffs


def many_files(files: int, overlays: int = 1, hunks: int = 2) -> Case:
    """Overlays that each change files of their own, `files` in all, in folders of 50 files."""
    lines = [b"value_%d = %d\n" % (number, number) for number in range(hunks * _SPACING + 20)]
    names = [f"vllm/part{number // 50}/m{number}.py" for number in range(files)]
    body = []
    for number in range(hunks):
        at = number * _SPACING + 5
        body.append(b"@@ -%d,7 +%d,7 @@\n" % (at - 2, at - 2) + b"".join(b" " + line for line in lines[at - 3 : at]))
        body += [b"-" + lines[at], b"+changed_%d = 1\n" % at, *(b" " + line for line in lines[at + 1 : at + 4])]
    hunk = b"".join(body)
    diffs = [
        b"".join(
            b"diff --git a/%b b/%b\n--- a/%b\n+++ b/%b\n%b" % (*[name.encode()] * 4, hunk)
            for name in names[at::overlays]
        )
        for at in range(overlays)
    ]
    return dict.fromkeys(names, b"".join(lines)), diffs


def _bare(case: Case) -> None:
    files, diffs = case
    with tempfile.TemporaryDirectory() as name:
        for path, data in files.items():
            target = Path(name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for diff in diffs:
            subprocess.run([*_PATCH, "-d", name], input=diff, check=True, capture_output=True)


def _ours(case: Case) -> None:
    from builder.patch.stack import apply_stack
    from tests.support.trees import DictTree, overlay

    files, diffs = case
    apply_stack([overlay(f"{number}.diff", diff) for number, diff in enumerate(diffs)], DictTree(files))


def _compared(what: str, case: Case, *, times: int = 5) -> Row:
    return pairs(
        what,
        {"builder": lambda: timed(lambda: _ours(case)), "GNU patch": lambda: timed(lambda: _bare(case))},
        times=times,
        note="ours in this process, parsing included; one process of GNU patch for each diff",
    )


def _seconds(row: Row) -> tuple[float, ...]:
    return tuple(statistics.median(each.seconds for each in runs) for runs in row.runs.values())


@contextmanager
def _own_cache() -> Iterator[None]:
    """A cache of its own: what an earlier run has remembered must not count."""
    with tempfile.TemporaryDirectory() as name:
        before, os.environ["BUILDER_CACHE_DIR"] = os.environ.get("BUILDER_CACHE_DIR"), name
        try:
            yield
        finally:
            if before is None:
                del os.environ["BUILDER_CACHE_DIR"]
            else:
                os.environ["BUILDER_CACHE_DIR"] = before


def growth() -> Iterator[Row]:
    """How the time grows with hunks in a file, overlays on the same files, and files."""
    kinds: list[tuple[str, list[tuple[str, Case]]]] = [
        ("hunks in one file", [(f"{count:,}", one_file(count)) for count in (10, 100, 1_000)]),
        ("overlays on the same 20 files", [(f"{count:,}", overlays_on(20, count)) for count in (1, 10, 100)]),
        ("files", [(f"{count:,}", many_files(count)) for count in (10, 100, 1_000, 10_000)]),
    ]
    with _own_cache():
        for kind, cases in kinds:
            last: tuple[float, ...] = ()
            for label, case in cases:
                row = _compared(f"stack: {label} {kind}", case, times=5 if len(case[0]) < 5_000 else 3)
                now = _seconds(row)
                if last:
                    grown = " and ".join(f"{mine / before:.1f}" for mine, before in zip(now, last, strict=True))
                    row = replace(row, note=f"grew {grown} times since the row before")
                last = now
                yield row
        yield _compared("stack: 100 hunks in a diff of 1 MB", one_file(100, 250))
        yield _compared("stack: 400 hunks in one file", one_file(400))
        yield _compared("stack: 1,600 hunks in one file", one_file(1_600))


def stack() -> Iterator[Row | Left]:
    """Real changes of vLLM, and stacks as large as people's largest."""
    from tests.support.realstack import overlay_diffs
    from tests.support.wheels import python_files

    diffs = overlay_diffs()
    base = python_files("0.20.0")
    with _own_cache():
        real = _cut(base, diffs)
        first = timed(lambda: _ours(real))
        yield Row("stack: real 46 files, grammar not judged before", {"builder": [first]}, "one run")
        yield _compared("stack: real 46 files, 148 hunks", real, times=9)
        yield _compared("stack: 50 overlays, 1,000 files, 2,000 hunks", many_files(1_000, 50))
        yield _compared("stack: 40 overlays on the same 20 files, 800 hunks", overlays_on(20, 40))


def _cut(base: Mapping[str, bytes], diffs: Sequence[bytes]) -> Case:
    from tests.support.trees import overlay

    touched = {change.path for diff in diffs for change in overlay("x", diff).diff.changes}
    return {path: data for path, data in base.items() if path in touched}, diffs
