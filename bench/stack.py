"""How a stack's time grows, against bare GNU patch on the same files and diffs: hunks in a file, and overlays on the same files."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.measure import Row

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


def _pairs(case: Case, times: int) -> tuple[float, float]:
    """Median seconds of both, measured in turn, after one run of each that warms the caches."""
    calls: list[Callable[[Case], None]] = [_ours, _bare]
    taken: list[list[float]] = [[], []]
    for number in range(times + 1):
        for call, each in zip(calls, taken, strict=True):
            begun = time.perf_counter()
            call(case)
            if number:
                each.append(time.perf_counter() - begun)
    return statistics.median(taken[0]), statistics.median(taken[1])


def growth() -> list[Row]:
    """The rows, ratios only: ours to GNU patch, and how both grew since the row before."""
    kinds: list[tuple[str, list[tuple[str, Case]]]] = [
        ("hunks in one file", [(f"{count}", one_file(count)) for count in (10, 100, 400, 1_000, 1_600)]),
        ("overlays on the same 20 files", [(f"{count}", overlays_on(20, count)) for count in (1, 10, 40, 100)]),
        ("100 hunks in a diff of 1 MB", [("", one_file(100, 250))]),
        ("4,000 hunks in a file of 120,000 lines", [("", one_file(4_000, 10))]),
    ]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        before, os.environ["BUILDER_CACHE_DIR"] = os.environ.get("BUILDER_CACHE_DIR"), name
        for kind, cases in kinds:
            last: tuple[float, float] | None = None
            for label, case in cases:
                mine, peer = _pairs(case, 5)
                grew = f"{mine / last[0]:.1f} x" if last else "-"
                peer_grew = f"GNU patch grew {peer / last[1]:.1f} x" if last else "GNU patch"
                rows.append((f"stack: {label} {kind}".replace("  ", " "), grew, peer_grew, f"{mine / peer:.2f} x"))
                last = mine, peer
        if before is None:
            del os.environ["BUILDER_CACHE_DIR"]
        else:
            os.environ["BUILDER_CACHE_DIR"] = before
    return rows
