"""A merge that two of git's ways to compare lines see in two ways is shown to a person, and is none."""

from __future__ import annotations

from builder.patch.stack import run_steps
from builder.upkeep.rebase.judge import OverlayJudgement, judge_stack
from tests.support.alike import PATH, data, diff_of
from tests.support.trees import DictTree, overlay


def judged(old: str, after: str, new: str) -> OverlayJudgement:
    """What is said of the change from `old` to `after` on `new`; each letter is a line."""
    steps = run_steps([overlay("change", diff_of(old, after))], DictTree({PATH: data(old)}), "vllm")
    judgement = judge_stack(steps, DictTree({PATH: data(new)}), base="new")
    [one] = judgement.overlays
    if one.verdict == "conflict":
        assert judgement.after[PATH].data == data(new)
    return one


def test_two_clean_merges_that_differ_are_a_conflict_that_has_both() -> None:
    """`git merge-file` makes caabb of it, `git merge` caaabbb."""
    one = judged("ab", "caabb", "aabb")
    assert one.verdict == "conflict"
    [conflict] = one.conflicts
    assert "to different places" in conflict.why
    assert "--- git merge-file\n+++ git merge\n" in conflict.shown
    assert "\n+" in conflict.shown
    assert 1 <= conflict.line <= 4


def test_what_only_one_of_them_merges_is_a_conflict_with_its_sides() -> None:
    """Two blocks change their places, and the overlay takes a line out of one of them."""
    one = judged("abcade", "abade", "adebca")
    assert one.verdict == "conflict"
    assert all("git merge does not" in each.why for each in one.conflicts)
    for marker in ("<<<<<<< new", "||||||| before change", ">>>>>>> change"):
        assert marker in one.conflicts[0].shown


def test_what_fits_once_more_beside_its_own_result_is_not_applied_again() -> None:
    """The base has all of the change and one line more. GNU patch and `git merge-file` put it in a second time."""
    one = judged("abcdebc", "abcdebfcdebc", "aabcdebfcdebc")
    assert one.verdict == "conflict"
    assert "to different places" in one.conflicts[0].why


def test_what_both_merge_alike_is_merged() -> None:
    one = judged("abcdefghij", "abXcdefghij", "abcdefghiYj")
    assert one.verdict in ("applies", "merges")
    one = judged("abcdefghij", "abXcdefghij", "aabXcdefghij")
    assert one.verdict == "already in"
