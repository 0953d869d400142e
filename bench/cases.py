"""Stacks to measure: the files of a package, and diffs that are applied to them in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from builder.patch.diff import parse

Case = tuple[Mapping[str, bytes], Sequence[bytes]]
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


def releases(*versions: str) -> Case:
    """The Python files of the first release, and the change to each further one as git makes a diff of it."""
    from tests.support.realstack import release_diff
    from tests.support.wheels import python_files

    diffs = [release_diff(old, new) for old, new in pairwise(versions)]
    touched = {
        path for diff in diffs for change in parse(diff, "diff").changes for path in (change.old_path, change.path)
    }
    return {path: data for path, data in python_files(versions[0]).items() if path in touched}, diffs
