"""The stack on real vLLM files: two patch releases as two overlays, with a known answer."""

from __future__ import annotations

import pytest

from builder.patch.stack import apply_stack
from builder.patch.tree import StackError
from builder.patch.unified import rows, unified_diff
from tests.support.realstack import overlay_diffs
from tests.support.trees import DictTree, overlay
from tests.support.wheels import python_files


@pytest.mark.wheels
def test_two_releases_in_order_give_exactly_the_third() -> None:
    first, second = overlay_diffs()
    base, wanted = python_files("0.20.0"), python_files("0.20.2")
    result = apply_stack([overlay("first", first), overlay("second", second)], DictTree(base))
    tree = dict(base)
    for file in result.files:
        if file.after is None:
            del tree[file.path]
        else:
            tree[file.path] = file.after
    assert tree == wanted
    assert sum(len(each.files) for each in result.overlays) == 46
    assert [row[1] for row in rows(result)] == ["38", "8"]
    assert not result.disjoint
    # The change that `check --diff` prints gives the same tree when it is applied as an overlay of its own.
    once = apply_stack([overlay("all", unified_diff(result).encode("utf-8", "surrogateescape"))], DictTree(base))
    assert {file.path: file.after for file in once.files} == {file.path: file.after for file in result.files}


@pytest.mark.wheels
def test_the_wrong_order_names_the_hunks() -> None:
    first, second = overlay_diffs()
    with pytest.raises(StackError) as caught:
        apply_stack([overlay("second", second), overlay("first", first)], DictTree(python_files("0.20.0")))
    assert caught.value.exit_code == 3
    assert caught.value.overlay == "second"
    assert caught.value.failures
    assert {failure.cause for failure in caught.value.failures} <= {"blocked", "context", "missing-file"}
    assert "blocked" in {failure.cause for failure in caught.value.failures}
    lines = second.split(b"\n")
    for failure in caught.value.failures:
        assert failure.explanation
        # The report names lines of the diff that was given: each is a hunk's header, or its file's.
        assert lines[failure.diff_line - 1].startswith((b"@@ ", b"diff --git "))


@pytest.mark.wheels
def test_what_the_base_has_already_is_called_merged() -> None:
    first, _ = overlay_diffs()
    with pytest.raises(StackError) as caught:
        apply_stack([overlay("first", first)], DictTree(python_files("0.20.1")))
    assert {failure.cause for failure in caught.value.failures} == {"already-in-base"}
    assert "merged upstream in this base; drop first" in str(caught.value.hint)
