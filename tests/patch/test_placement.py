"""Where lines repeat: a hunk goes where it belongs, or nowhere. Never silently into the block that looks the same."""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.patch import gnupatch
from builder.patch.diff import parse, patch_input
from builder.patch.hunks import Text, old_index
from builder.patch.locate import locate_all
from builder.patch.stack import apply_stack
from builder.patch.tree import StackError
from tests.support.alike import FILLER, PATH, TAIL, Lines, data, diff_of, klass, source
from tests.support.trees import DictTree, overlay


def stacked(base: Sequence[str], *diffs: tuple[str, bytes]) -> Lines:
    """The file after the stack. Raises `StackError`."""
    tree = DictTree({PATH: data(base)})
    result = apply_stack([overlay(name, diff) for name, diff in diffs], tree)
    [file] = result.files
    assert file.after is not None
    return file.after.decode().splitlines()


def refused(base: Sequence[str], *diffs: tuple[str, bytes]) -> StackError:
    with pytest.raises(StackError) as caught:
        stacked(base, *diffs)
    return caught.value


ABOVE = ("above", diff_of(source(), source(above=40)))
IN_A = ("in-a", diff_of(source(), source(a=True)))
IN_B = ("in-b", diff_of(source(), source(b=True)))


def test_overlays_on_blocks_that_are_alike_apply_where_they_belong() -> None:
    wanted = source(above=40, a=True, b=True)
    for order in ([ABOVE, IN_A, IN_B], [IN_A, ABOVE, IN_B], [IN_B, IN_A, ABOVE], [IN_A, IN_B, ABOVE]):
        assert stacked(source(), *order) == wanted, [name for name, _ in order]
    # GNU patch would take A's block for B's, which is nearer to the line that the diff names.
    error = refused(source(), ABOVE, IN_B, IN_A)
    assert error.overlay == "in-b"
    assert "put in-b before above in the recipe" in str(error.hint)
    assert stacked(source(), IN_B, ABOVE, IN_A) == wanted


def test_a_block_that_moved_to_where_the_other_was_is_not_taken_for_it() -> None:
    """The lines that come before are so many that B's block stands where A's is said to be, or A's where B's was."""
    period = len(klass("A"))
    for above in (period, 2 * period):
        shift = ("shift", diff_of(source(), source(above=above)))
        error = refused(source(), shift, IN_B)
        assert {each.cause for each in error.failures} == {"ambiguous"}
        assert "put in-b before shift in the recipe" in str(error.hint)
        assert stacked(source(), IN_B, shift) == source(above=above, b=True)
    gone = ("gone", diff_of(source(above=period), source()))
    error = refused(source(above=period), gone, ("in-a", diff_of(source(above=period), source(above=period, a=True))))
    assert "put in-a before gone in the recipe" in str(error.hint)


def test_the_same_addition_twice_is_refused_though_it_fits_again() -> None:
    block = ["def one():", "    value = 1", "    return value", "", ""]
    base = [*block * 4, *TAIL]
    added = [*block * 2, "added = True", *block * 2, *TAIL]
    more = [*added[:-10], "t20 = 20", *added[-9:]]
    first, second = ("a", diff_of(base, added)), ("c", diff_of(base, more))
    error = refused(base, first, second)
    assert [(each.cause, each.supplied_by) for each in error.failures] == [("already-supplied", "a")]
    assert "1 of 2 hunks" in error.message
    assert "it would fit a second time" in error.failures[0].explanation
    # In a base that has it, at the very line: merged there, or a block that is alike and moved there.
    error = refused(added, second)
    assert [each.cause for each in error.failures] == ["ambiguous"]
    assert "result is at line" in error.failures[0].explanation
    assert "Drop c if the change is\nthere" in str(error.hint)
    assert stacked(base, first) == added


def test_on_another_base_two_places_that_fit_are_named_and_a_line_number_settles_it() -> None:
    """Both blocks moved, and the other one has the change already: nothing tells it from a base that has this one."""
    for above in (5, len(klass("A")) + 1, 40):
        base = source(a=True, above=above)
        made_for = source(a=True)
        change = diff_of(made_for, source(a=True, b=True))
        error = refused(base, ("fix", change))
        [failure] = error.failures
        assert failure.cause == "ambiguous"
        assert len(re.findall(r"line \d+", failure.explanation)) == 2
        assert "`@@ -LINE` names" in str(error.hint)
        number = int(re.search(rb"@@ -(\d+)", change)[1]) + above  # type: ignore[index]
        settled = re.sub(rb"@@ -\d+,(\d+) \+\d+,", b"@@ -%d,\\1 +%d," % (number, number), change)
        assert stacked(base, ("fix", settled)) == source(a=True, b=True, above=above)


def test_a_hunk_that_goes_as_far_as_its_neighbour_is_sure() -> None:
    new = [*source(a=True, b=True)]
    new[-10] = "t20 = 20"
    change = ("both", diff_of(source(a=True), new))
    moved = stacked(source(a=True, above=40), change)
    assert moved == [*(f"x{n}" for n in range(40)), *new]


def test_two_that_go_on_behind_the_same_end_are_told_why() -> None:
    base = FILLER
    one, two = ("one", diff_of(base, [*base, "a = 1"])), ("two", diff_of(base, [*base, "b = 1"]))
    error = refused(base, one, two)
    assert "(1 of 1 hunks)" in error.message
    [failure] = error.failures
    assert "belongs to the file's end" in failure.explanation
    assert "one" in failure.explanation
    first, second = ("one", diff_of(base, ["import a", *base])), ("two", diff_of(base, ["import b", *base]))
    error = refused(base, first, second)
    assert "belongs to the file's beginning" in error.failures[0].explanation


def inserted(base: Sequence[str], spot: int, lines: Sequence[str]) -> bytes:
    """The diff that puts `lines` before the line `spot`, and no other that gives the same text."""
    head, tail = base[max(0, spot - 3) : spot], base[spot : spot + 3]
    start, count = spot - len(head) + 1, len(head) + len(tail)
    body = [*(f" {line}" for line in head), *(f"+{line}" for line in lines), *(f" {line}" for line in tail)]
    marks = [
        f"diff --git a/{PATH} b/{PATH}",
        f"--- a/{PATH}",
        f"+++ b/{PATH}",
        f"@@ -{start},{count} +{start},{count + len(lines)} @@",
    ]
    return data([*marks, *body])


ALPHABET = "abcd"


def edited(dice: random.Random, lines: Sequence[str], *, fresh: str = "XY") -> Lines:
    found = list(lines)
    for _ in range(dice.randint(1, 3)):
        place = dice.randint(0, len(found))
        if dice.random() < 0.5:
            found[place:place] = [dice.choice(ALPHABET + fresh) for _ in range(dice.randint(1, 2))]
        elif place < len(found):
            found[place : place + 1] = [] if dice.random() < 0.5 else [dice.choice(fresh)]
    return found


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_places_are_found_as_gnu_patch_finds_them(seed: int) -> None:
    """Texts of four letters: everything repeats. Reports and advice stand on this."""
    dice = random.Random(seed)
    base = [dice.choice(ALPHABET) for _ in range(dice.randint(1, 14))]
    new = edited(dice, base)
    above = [dice.choice(ALPHABET) for _ in range(dice.choice([0, 0, 3, 6]))]
    target = [*above, *(edited(dice, base) if dice.random() < 0.8 else base)]
    if new in ([], base) or not target:
        return
    [change] = parse(diff_of(base, new, context=dice.choice([1, 2, 3])), "diff").changes
    ours = locate_all(Text.of(data(target)), change.hunks)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / PATH
        place.parent.mkdir(parents=True)
        place.write_bytes(data(target))
        with gnupatch.applying(patch_input([change]), name, fuzz=0) as finish:
            done = finish()
    moved = {each.number: each.offset for each in gnupatch.read_placed(done.stdout)}
    theirs = [old_index(hunk) + moved.get(number, 0) for number, hunk in enumerate(change.hunks, 1)]
    assert (None in ours) == (done.returncode != 0)
    if done.returncode == 0:
        assert ours == theirs


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_stack_on_lines_that_repeat_is_right_or_refused(seed: int) -> None:
    """Every line has an identity that the diffs do not show; edits are made by identity, and that is the truth."""
    dice = random.Random(seed)
    period = dice.randint(3, 8)
    count = period * dice.randint(4, 8)
    base = [f"line {number % period}" for number in range(count)]
    for _ in range(dice.randint(0, 4)):
        base[dice.randrange(count)] = f"odd {dice.randint(0, 9)}"
    # Far enough apart that no hunk has another's line in its context.
    spots = sorted(dice.sample(range(count), min(count, 12)))
    chosen = [spot for index, spot in enumerate(spots) if index == 0 or spot - spots[index - 1] > 7][:4]
    added = {
        spot: [f"line {dice.randrange(period)}" for _ in range(dice.choice([0, period, period, 2]))] + ["same"]
        for spot in chosen
    }

    def made(which: Sequence[int]) -> Lines:
        return [each for index, line in enumerate(base) for each in (*(added[index] if index in which else ()), line)]

    order = dice.sample(chosen, len(chosen))
    diffs = [(f"at-{spot}", inserted(base, spot, added[spot])) for spot in order]
    try:
        found = stacked(base, *diffs)
    except StackError as error:
        assert error.failures
        return
    assert found == made(chosen)


@pytest.mark.parametrize("above", [5, len(klass("A")), 40])
@pytest.mark.parametrize("which", ["a", "b"])
def test_a_diff_on_top_of_an_earlier_overlay_goes_where_that_overlay_left_its_lines(above: int, which: str) -> None:
    """Its lines are in both blocks, and in the base; that it was made for the files after one overlay tells which is meant."""
    made_on, wanted = source(above=above), source(above=above, a=which == "a", b=which == "b")
    other = [f"o{number}" for number in range(30)]
    first, second = [*other[:10], "first", *other[11:]], [*other[:10], "first", "second", *other[12:]]
    place = "vllm/other.txt"
    below = diff_of(source(), made_on) + diff_of(other, first, path=place)
    between = diff_of(made_on, ["# one", "# two", "# three", *made_on])
    on_top = diff_of(made_on, wanted) + diff_of(first, second, path=place)
    base = DictTree({PATH: data(source()), place: data(other)})
    for diffs, lines in (((below, on_top), wanted), ((below, between, on_top), ["# one", "# two", "# three", *wanted])):
        result = apply_stack([overlay(f"{number}.diff", diff) for number, diff in enumerate(diffs)], base)
        assert {file.path: file.after for file in result.files} == {PATH: data(lines), place: data(second)}


def test_a_diff_that_is_as_stated_in_two_versions_with_other_places_is_refused() -> None:
    period = len(klass("A"))
    shifts = [diff_of(source(above=period * n), source(above=period * (n + 1))) for n in range(3)]
    # Made for the second version: there it is B's block, and in the third A's.
    fix = diff_of(source(above=period), source(above=period, b=True))
    overlays = [(f"shift-{number}", diff) for number, diff in enumerate(shifts)]
    assert stacked(source(), overlays[0], ("fix", fix), *overlays[1:])
    error = refused(source(), *overlays, ("fix", fix))
    assert {each.cause for each in error.failures} == {"ambiguous"}
