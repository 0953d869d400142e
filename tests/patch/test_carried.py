"""Where a stack has carried lines of the base: the quick look-up never contradicts looking at each version of the file."""

from __future__ import annotations

import difflib
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.patch.carried import Runs, carried
from builder.patch.follow import follow_each
from builder.patch.model import Hunk
from builder.patch.stack import run_steps
from builder.patch.tree import StackError
from tests.support.trees import DictTree, overlay

PATH = "vllm/a.txt"
NAMES = [PATH, "vllm/b.txt"]
# Few different lines, so that blocks repeat.
LINES = st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=14)


def data(lines: list[str], *, ends: bool) -> bytes:
    return ("\n".join(lines) + ("\n" if ends else "")).encode()


@st.composite
def versions(draw: st.DrawFn) -> list[tuple[str, bytes]]:
    """The base, and up to four versions that come from it by edits of a few lines each, with the file's name."""
    lines, ends = draw(LINES), draw(st.booleans())
    found = [(PATH, data(lines, ends=ends))]
    for _ in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 2))):
            at = draw(st.integers(0, len(lines)))
            lines = [
                *lines[:at],
                *draw(st.lists(st.sampled_from("abcxyz"), max_size=2)),
                *lines[at + draw(st.integers(0, 2)) :],
            ]
        lines = lines or ["a"]
        found.append((draw(st.sampled_from(NAMES)), data(lines, ends=ends)))
    return found


def diff(old: tuple[str, bytes], new: tuple[str, bytes], context: int) -> bytes:
    left, right = ([line.decode() for line in text.splitlines(keepends=True)] for _, text in (old, new))
    parts = [f"diff --git a/{old[0]} b/{new[0]}\n"]
    if old[0] != new[0]:
        parts += [f"rename from {old[0]}\n", f"rename to {new[0]}\n"]
    for line in difflib.unified_diff(left, right, f"a/{old[0]}", f"b/{new[0]}", n=context):
        parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts).encode()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_quick_look_up_never_contradicts_the_versions(picked: st.DataObject) -> None:
    found = picked.draw(versions())
    pairs = [(old, new) for old, new in pairwise(found) if old != new]
    diffs = [diff(old, new, picked.draw(st.integers(1, 3))) for old, new in pairs]
    if not diffs:
        return
    try:
        steps = run_steps(
            [overlay(f"{number}.diff", each) for number, each in enumerate(diffs)],
            DictTree({PATH: found[0][1]}),
            "vllm",
        )
    except StackError:
        return
    base = steps[0].before[PATH].text
    for count in range(1, len(steps) + 1):
        runs = carried(steps[:count], PATH)
        for start in range(len(base.lines)):
            for end in range(start + 1, len(base.lines) + 1):
                block = base.lines[start:end]
                missing = end == len(base.lines) and not base.ends
                hunk = Hunk(
                    start + 1, len(block), start + 1, len(block) + 1, (*(b" " + line for line in block), b"+new"), missing, missing
                )  # fmt: skip
                quick = runs.block(start, len(block)) if runs is not None else None
                assert quick is None or quick == follow_each(hunk, PATH, steps[:count]).index


def test_lines_around_a_change_are_carried_and_those_in_it_are_not() -> None:
    hunk = Hunk(3, 3, 3, 4, (b" c", b"-d", b"+D", b"+E", b" e"))
    runs = Runs.of(8).after([hunk], [2])
    assert [runs.block(at, 1) for at in range(8)] == [0, 1, None, None, 5, 6, 7, 8]
    assert runs.block(4, 3) == 5
    assert runs.block(2, 3) is None
