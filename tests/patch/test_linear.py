"""A stack's work grows with what it is given: counted in function calls, so that a busy machine changes nothing."""

from __future__ import annotations

import pytest

from bench.cases import Case, many_files, one_file, overlays_on
from builder.patch.stack import apply_stack
from tests.support.counting import calls as counted
from tests.support.trees import DictTree, overlay


def calls(case: Case) -> int:
    """How many functions, of Python and of C, are called to parse the diffs and to apply them."""
    files, diffs = case
    return counted(
        lambda: apply_stack([overlay(f"{number}.diff", diff) for number, diff in enumerate(diffs)], DictTree(files))
    )


@pytest.mark.parametrize(
    ("smaller", "larger", "times"),
    [
        (one_file(200), one_file(800), 4),
        (one_file(20, 50), one_file(20, 400), 8),
        (overlays_on(4, 15), overlays_on(4, 60), 4),
        (many_files(100), many_files(400), 4),
    ],
    ids=["hunks", "lines of a hunk", "overlays", "files"],
)
def test_the_work_grows_no_faster_than_what_is_given(smaller: Case, larger: Case, times: int) -> None:
    calls(smaller)
    assert calls(larger) <= 1.15 * times * calls(smaller)
