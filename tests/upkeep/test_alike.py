"""Another base, and two blocks with the same lines: the answer is git's, which has seen both bases."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.patch.stack import run_steps
from builder.upkeep.rebase.judge import OverlayJudgement, judge_stack
from builder.util.files import sha256
from tests.support.alike import PATH, Lines, data, diff_of, klass, source
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.trees import DictTree, overlay


def judged(old: Lines, new: Lines, target: Lines) -> tuple[OverlayJudgement, Lines]:
    """The answer for the change from `old` to `new` on another base's `target`, and the file after it."""
    steps = run_steps([overlay("guard", diff_of(old, new))], DictTree({PATH: data(old)}), "vllm")
    answer = judge_stack(steps, DictTree({PATH: data(target)}), base="new")
    return answer.overlays[0], answer.after[PATH].data.decode().splitlines()


@pytest.mark.parametrize("above", [1, 4, 8, 9, 16, 24, 40])
def test_a_block_that_moved_gets_what_was_made_for_it(above: int) -> None:
    one, after = judged(source(), source(b=True), source(above=above))
    assert one.verdict in ("applies", "merges")
    assert after == source(b=True, above=above)


@pytest.mark.parametrize("above", [0, 8, 9, 20])
def test_a_block_that_is_another_now_is_a_conflict_though_its_twin_would_take_it(above: int) -> None:
    one, after = judged(source(), source(b=True), source(go="gone", above=above))
    assert one.verdict == "conflict"
    assert "self.gone(v)" in one.conflicts[0].shown
    assert after == source(go="gone", above=above)


@pytest.mark.parametrize("above", [0, 3, 8, 9, 18, 30])
def test_the_change_in_the_other_block_is_not_this_one(above: int) -> None:
    """A has it in both bases: what was made for B is not in by that."""
    one, after = judged(source(a=True), source(a=True, b=True), source(a=True, above=above))
    assert one.verdict in ("applies", "merges")
    assert after == source(a=True, b=True, above=above)
    one, after = judged(source(a=True), source(a=True, b=True), source(a=True, above=above, go="gone"))
    assert one.verdict == "conflict"


def test_the_line_of_each_conflict_is_the_new_bases() -> None:
    """Also of the second one, and though the overlay adds lines of its own above it."""
    old = [f"line {number}" for number in range(60)]
    mine, theirs = list(old), list(old)
    for number in (10, 40):
        mine[number], theirs[number] = f"mine {number}", f"theirs {number}"
    target = ["above", *theirs]
    one, _ = judged(old, [*mine[:25], "more", "more", *mine[25:]], target)
    assert [target[each.line - 1] for each in one.conflicts] == ["theirs 10", "theirs 40"]


def test_an_executable_bit_is_part_of_the_rebased_diff() -> None:
    old = [f"line {number}" for number in range(20)]
    change = diff_of(old, [*old[:10], "added", *old[10:]])
    marks = b"old mode 100644\nnew mode 100755\n"
    head, end, rest = change.partition(b"\n")
    steps = run_steps([overlay("mode", head + end + marks + rest)], DictTree({PATH: data(old)}), "vllm")
    target = [*old[:8], "theirs", *old[8:]]
    answer = judge_stack(steps, DictTree({PATH: data(target)}), base="new")
    [one] = answer.overlays
    assert one.verdict == "merges"
    assert marks in one.diff
    again = run_steps([overlay("rebased", one.diff)], DictTree({PATH: data(target)}), "vllm")
    assert again[0].after == answer.after


@pytest.mark.parametrize("above", [0, 3, 8, 9])
def test_what_is_in_is_in(above: int) -> None:
    one, _ = judged(source(a=True), source(a=True, b=True), source(a=True, b=True, above=above))
    assert one.verdict == "already in"


@pytest.mark.parametrize("at", ["end", "beginning"])
def test_lines_that_are_taken_away_at_an_end_of_the_file_are_not_in_while_they_are_there(at: str) -> None:
    """What such a hunk leaves is context, and was there before: the base has the lines still, with others before them."""
    lines = [f"line {number}" for number in range(12)]
    gone, kept = (lines[-2:], lines[:-2]) if at == "end" else (lines[:2], lines[2:])
    target = [*kept, "new", *gone, "more"] if at == "end" else ["more", *gone, "new", *kept]
    one, after = judged(lines, kept, target)
    assert (one.verdict, after) == ("conflict", target)
    assert one.present == 0
    one, after = judged(lines, kept, [*kept[:6], "new", *kept[6:]])
    assert one.verdict == "already in"


def test_what_is_written_is_what_was_judged(tmp_path: Path) -> None:
    above = len(klass("A"))
    project = make_project(tmp_path / "project", {"guard.diff": diff_of(source(), source(b=True))})
    make_wheel(project / "vllm-0.0.1-py3-none-any.whl", {**FILES, PATH: data(source())})
    make_wheel(project / "new-0.0.2-py3-none-any.whl", {**FILES, PATH: data(source(above=above))})
    assert builder("lock", "small", cwd=project).code == 0
    done = builder("rebase", "small", "--base", "wheel:new-0.0.2-py3-none-any.whl", "--write", cwd=project)
    assert done.code == 0, done.err
    built = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert built.code == 0, built.err
    [file] = built.document["files"]
    assert file["after"] == sha256(data(source(above=above, b=True)))
