"""Overlaps from the command line: who is named, and whether what is advised works when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from builder.patch.model import Overlay
from builder.patch.stack import apply_stack
from builder.patch.tree import StackError
from tests.support.cli import Ran, builder
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.trees import DictTree, git_diff, overlay

Files = dict[str, bytes]
CONFIG = "vllm/config.py"
ARGS = "vllm/engine/args.py"


def files(*numbers: int, more: Mapping[str, bytes | None] | None = None) -> Files:
    """The small package with some options set to another value, and further files (None: deleted)."""
    data = FILES[CONFIG]
    for number in numbers:
        data = data.replace(b"option_%02d = %d\n" % (number, number), b"option_%02d = 'set'\n" % number)
    found = {**FILES, CONFIG: data, **(more or {})}
    return {path: data for path, data in found.items() if data is not None}


class Stack:
    """A project whose overlays are made from pairs of trees."""

    def __init__(self, root: Path, base: Files | None = None) -> None:
        self.root = root
        self.base = base or files()
        self.diffs: dict[str, bytes] = {}

    def add(self, name: str, before: Files, after: Files) -> None:
        self.diffs[f"{name}.diff"] = git_diff(self.root / "git" / name, before, after, "-M")

    def check(self, *names: str) -> Ran:
        """`builder check` of the overlays in this order."""
        project = make_project(self.root / "project", {})
        make_wheel(project / "vllm-0.0.1-py3-none-any.whl", self.base)
        for name in names:
            (project / f"overlays/{name}.diff").write_bytes(self.diffs[f"{name}.diff"])
        path = project / "images/small.yaml"
        recipe = yaml.safe_load(path.read_text())
        recipe["overlays"] = [{"file": f"overlays/{name}.diff", "why": f"because of {name}"} for name in names]
        path.write_text(yaml.safe_dump(recipe))
        (project / "images/small.lock.yaml").unlink(missing_ok=True)
        return builder("check", "small", cwd=project)


def refused(done: Ran) -> str:
    """The error of an overlay that does not apply, with its lines joined."""
    assert done.code == 3, done.out + done.err
    return " ".join(done.err.split())


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def test_one_that_carries_two_others_names_both_and_applies_without_them(stack: Stack) -> None:
    new: Files = {"vllm/new.py": b"new = 1\n"}
    stack.add("a", files(), files(3, 13))
    stack.add("b", files(), files(23, more=new))
    stack.add("all", files(), files(3, 13, 23, 33, more=new))
    said = refused(stack.check("a", "b", "all"))
    assert "overlays/all.diff carries all 2 hunks of overlays/a.diff and all 2 hunks of overlays/b.diff" in said
    assert "remove overlays/a.diff and overlays/b.diff from the recipe" in said
    assert "because of all" in said
    assert stack.check("all").code == 0
    # The other way round each is superfluous.
    assert "2 of 2 hunks of overlays/a.diff are already supplied by overlays/all.diff; drop overlays/a.diff" in refused(
        stack.check("all", "a", "b")
    )


def test_one_that_two_others_make_up_is_dropped(stack: Stack) -> None:
    stack.add("a", files(), files(3))
    stack.add("b", files(), files(23))
    stack.add("both", files(), files(3, 23))
    said = refused(stack.check("a", "b", "both"))
    assert "2 of 2 hunks of overlays/both.diff are there already: 1 by overlays/a.diff and 1 by overlays/b.diff" in said
    assert "drop overlays/both.diff" in said
    assert stack.check("a", "b").code == 0


def test_a_carrier_behind_an_overlay_that_stands_on_the_carried_one(stack: Stack) -> None:
    """`b` needs `a`; the carrier has `a` only. Without `a`, `b` would not apply: the advice does not say so."""
    stack.add("a", files(), files(more={"vllm/new.py": b"new = 1\n"}))
    stack.add("b", files(more={"vllm/new.py": b"new = 1\n"}), files(more={"vllm/new.py": b"new = 2\n"}))
    stack.add("c", files(), files(3, more={"vllm/new.py": b"new = 1\n"}))
    said = refused(stack.check("a", "b", "c"))
    assert "remove overlays/a.diff from" not in said
    assert "vllm/new.py" in said


def test_two_that_overlap_in_part(stack: Stack) -> None:
    stack.add("a", files(), files(3, 13))
    stack.add("b", files(), files(13, 33))
    said = refused(stack.check("a", "b"))
    assert "overlays/b.diff carries 1 of 2 hunks of overlays/a.diff, and applies without it" in said
    assert "if both are needed, take out of one what both have" in said
    stack.add("rest", files(3, 13), files(3, 13, 33))
    assert stack.check("a", "rest").code == 0


def test_a_new_file_that_another_overlay_makes_otherwise(stack: Stack) -> None:
    stack.add("a", files(), files(3, more={"vllm/new.py": b"new = 1\n"}))
    stack.add("b", files(), files(3, more={"vllm/new.py": b"new = 1\nmore = 2\n"}))
    said = refused(stack.check("a", "b"))
    # It has the lines of the first, and its own: it takes the place.
    assert "overlays/b.diff carries all 2 hunks of overlays/a.diff: remove overlays/a.diff from the recipe" in said
    assert stack.check("b").code == 0
    back = refused(stack.check("b", "a"))
    assert "overlays/b.diff has already made another one" in back


def test_a_rename_that_was_made_already(stack: Stack) -> None:
    moved = {"vllm/old.py": None, "vllm/moved.py": FILES["vllm/old.py"]}
    stack.add("a", files(), files(more=moved))
    stack.add("b", files(), files(5, more=moved))
    said = refused(stack.check("a", "b"))
    assert "vllm/old.py is vllm/moved.py already, by overlays/a.diff" in said
    assert "overlays/b.diff carries the one hunk of overlays/a.diff: remove overlays/a.diff" in said
    assert stack.check("b").code == 0
    assert "2 of 2" not in refused(stack.check("b", "a"))
    upstream = Stack(stack.root / "upstream", files(more=moved))
    upstream.diffs = stack.diffs
    assert "merged upstream in this base; drop overlays/a.diff" in refused(upstream.check("a"))


def test_a_deletion_and_a_new_file_that_the_base_has(stack: Stack) -> None:
    after = files(5, more={"vllm/old.py": None, "vllm/new.py": b"new = 1\n"})
    stack.add("a", files(), after)
    whole = Stack(stack.root / "whole", after)
    whole.diffs = stack.diffs
    assert "all of it (3 of 3 hunks) is already in the base: merged upstream in this base; drop" in refused(
        whole.check("a")
    )
    part = Stack(stack.root / "part", files(more={"vllm/new.py": b"new = 1\n"}))
    part.diffs = stack.diffs
    said = refused(part.check("a"))
    assert "some of it (1 of 3 hunks) is already in the base: part of overlays/a.diff was merged upstream" in said
    assert "without the hunks named above the rest applies" in said
    part.add("rest", part.base, after)
    assert part.check("rest").code == 0


BLOCK = b"def one():\n    value = 1\n    return value\n\n\n"


def test_an_addition_that_would_fit_a_second_time_is_told(tmp_path: Path) -> None:
    """Lines that repeat: GNU patch puts the hunk a second time, into the next block that looks the same, and exits 0."""
    base = {**FILES, ARGS: BLOCK * 4}
    added = BLOCK * 2 + b"added = True\n" + BLOCK * 2
    stack = Stack(tmp_path, base)
    stack.add("a", base, {**base, ARGS: added})
    stack.add("same", base, {**base, ARGS: added})
    assert stack.check("a").code == 0
    said = refused(stack.check("a", "same"))
    assert "1 of 1 hunks of overlays/same.diff are already supplied by overlays/a.diff; drop overlays/same.diff" in said
    assert "it would fit a second time" in said
    merged = Stack(tmp_path / "merged", {**base, ARGS: added})
    merged.diffs = stack.diffs
    said = refused(merged.check("same"))
    assert "result is at line 8, where the diff says, and the hunk fits at line" in said
    assert "Drop overlays/same.diff if the change is there" in said


def test_the_wrong_order_is_told_from_an_overlap(stack: Stack) -> None:
    stack.add("a", files(), files(3))
    stack.add("b", files(3), files(4, 3))
    said = refused(stack.check("b", "a"))
    assert "wrong order" in said
    assert stack.check("a", "b").code == 0


def test_a_file_that_an_earlier_overlay_takes_away_is_not_one_of_another_version(tmp_path: Path) -> None:
    lines = b"".join(b"x%d = %d\n" % (n, n) for n in range(1, 31))
    base = {"vllm/p.py": lines, "vllm/q.py": b"q = 1\n"}
    after = {
        "edit": {**base, "vllm/p.py": lines.replace(b"x10 = 10", b"x10 = 0")},
        "delete": {"vllm/q.py": b"q = 1\n"},
        "move": {"vllm/q.py": b"q = 1\n", "vllm/r.py": lines},
    }
    made = {name: overlay(name, git_diff(tmp_path / name, base, tree, "-M")) for name, tree in after.items()}

    def advised(first: str, second: str) -> tuple[str, str]:
        with pytest.raises(StackError) as caught:
            apply_stack([made[first], made[second]], DictTree(base))
        return caught.value.failures[0].explanation, str(caught.value.hint)

    why, hint = advised("move", "edit")
    assert why.endswith("which move moved to vllm/r.py")
    assert "put edit before move in the recipe" in hint
    applied = apply_stack([made["edit"], made["move"]], DictTree(base))
    assert {file.path for file in applied.files} == {"vllm/p.py", "vllm/r.py"}
    assert "drop one of them" in advised("delete", "edit")[1]
    # The file is elsewhere: that is no deletion.
    assert "drop one of them" in advised("move", "delete")[1]
    assert "drop delete" in apply_twice(made["delete"], base)


def apply_twice(one: Overlay, base: dict[str, bytes]) -> str:
    with pytest.raises(StackError) as caught:
        apply_stack([one, one], DictTree(base))
    return str(caught.value.hint)
