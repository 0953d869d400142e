"""Hunks that people put together: in any order, with context that they share, with blank lines between them."""

from __future__ import annotations

import difflib
from itertools import pairwise

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from builder.patch.diff import parse
from tests.patch.test_diff import git_apply
from tests.patch.test_people import AFTER, BODY, HEAD, NAME, TEXT, applied, refused

FIRST = b"@@ -7,7 +7,7 @@\n" + BODY
LATER = b"@@ -20,3 +20,3 @@\n x20 = 20\n-x21 = 21\n+x21 = 0\n x22 = 22\n"
BOTH = {NAME: AFTER.replace(b"x21 = 21", b"x21 = 0")}


@pytest.mark.parametrize("between", [b"", b"\n", b"\n\n", b" \n", b"\n \n"])
def test_blank_lines_between_hunks_are_nothing(between: bytes) -> None:
    """GNU patch leaves out the second hunk, and exits 0."""
    assert applied(HEAD + FIRST + between + LATER, {NAME: TEXT}) == BOTH


def test_hunks_in_another_order_are_sorted_and_have_the_digest_of_the_sorted_ones() -> None:
    assert applied(HEAD + LATER + FIRST, {NAME: TEXT}) == git_apply({NAME: TEXT}, HEAD + LATER + FIRST) == BOTH
    assert parse(HEAD + LATER + FIRST, "x").digest == parse(HEAD + FIRST + LATER, "x").digest


def test_hunks_that_share_context_are_one() -> None:
    near = b"@@ -12,5 +12,5 @@\n x12 = 12\n x13 = 13\n-x14 = 14\n+x14 = 0\n x15 = 15\n x16 = 16\n"
    touching = b"@@ -14,3 +14,3 @@\n-x14 = 14\n+x14 = 0\n x15 = 15\n x16 = 16\n"
    wanted = {NAME: AFTER.replace(b"x14 = 14", b"x14 = 0")}
    for second in (near, touching):
        for hunks in (FIRST + second, second + FIRST):
            assert applied(HEAD + hunks, {NAME: TEXT}) == wanted
    cut = b"@@ -7,4 +7,4 @@\n x7 = 7\n x8 = 8\n x9 = 9\n-x10 = 10\n+x10 = 100\n"
    rest = b"@@ -11,3 +11,3 @@\n-x11 = 11\n+x11 = 0\n x12 = 12\n x13 = 13\n"
    assert applied(HEAD + cut + rest, {NAME: TEXT}) == {NAME: AFTER.replace(b"x11 = 11", b"x11 = 0")}


@pytest.mark.parametrize(
    "second",
    [
        b"@@ -9,3 +9,3 @@\n x9 = 9\n-x10 = 100\n+x10 = 1\n x11 = 11\n",
        b"@@ -12,3 +12,2 @@\n other\n x13 = 13\n-x14 = 14\n",
        FIRST,
    ],
)
def test_hunks_that_change_the_same_lines_are_refused(second: bytes) -> None:
    error = refused(HEAD + FIRST + second, {NAME: TEXT})
    assert error.exit_code == 2
    assert "its own `---` and `+++` lines" in str(error.hint)
    if b"x10 = 100\n+x10 = 1" in second:
        assert applied(HEAD + FIRST + HEAD + second, {NAME: TEXT}) == {NAME: AFTER.replace(b"x10 = 100", b"x10 = 1")}


@settings(max_examples=80, deadline=None)
@drawn(st.data())
def test_a_diff_whose_hunks_are_shuffled_and_widened_says_the_same(picked: st.DataObject) -> None:
    """Each hunk is made by itself, with so much context that it may reach over others."""
    lines = [f"l{number}" for number in range(40)]
    spots = sorted(picked.draw(st.sets(st.integers(2, 37), min_size=1, max_size=4)))
    changes = {spot: picked.draw(st.sampled_from([[], ["new"], ["new", "more"], None])) for spot in spots}
    hunks: list[str] = []
    for spot, change in changes.items():
        new = [*lines[:spot], *(change if change is not None else [lines[spot], "after"]), *lines[spot + 1 :]]
        made = list(difflib.unified_diff(lines, new, n=picked.draw(st.integers(1, 3)), lineterm=""))[2:]
        hunks.append("".join(f"{line}\n" for line in made))
    wanted = [
        each
        for number, line in enumerate(lines)
        for each in (
            [line] if number not in changes else [line, "after"] if changes[number] is None else changes[number] or []
        )
    ]
    diff = "--- a/vllm/x.txt\n+++ b/vllm/x.txt\n" + "".join(picked.draw(st.permutations(hunks)))
    base = {"vllm/x.txt": "".join(f"{line}\n" for line in lines).encode()}
    try:
        parsed = parse(diff.encode(), "x")
    except Exception as error:  # noqa: BLE001
        # The context of one shows a line that another changes: which of them comes first is not said.
        assert "two hunks change the same lines" in str(error)
        assert any(other - one <= 3 for one, other in pairwise(spots))
        return
    assert parse(parsed.canonical, "x").digest == parsed.digest
    assert applied(diff.encode(), base) == {"vllm/x.txt": "".join(f"{line}\n" for line in wanted).encode()}
