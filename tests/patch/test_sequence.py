"""A series of commits as one overlay: it gives what the squashed diff gives, whatever the commits rename."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from builder.patch.diff import parse
from builder.patch.stack import apply_stack
from tests.patch.test_people import applied, refused
from tests.support.trees import DictTree, git, git_diff, overlay, write_tree

LINES = b"".join(b"line %d\n" % number for number in range(60))
OTHER = b"".join(b"other %d\n" % number for number in range(60))
A, B, T, Z = (f"vllm/{name}.txt" for name in "abtz")
Tree = Mapping[str, bytes]


def edited(*numbers: int, data: bytes = LINES) -> bytes:
    for number in numbers:
        data = data.replace(b"line %d\n" % number, b"LINE %d\n" % number)
    return data


def mails(folder: Path, trees: Sequence[Tree], *options: str) -> bytes:
    """What `git format-patch` makes of the commits between these trees."""
    git(folder, "init", "-q")
    for number, tree in enumerate(trees):
        git(folder, "rm", "-rfq", "--ignore-unmatch", ".")
        write_tree(folder, tree)
        git(folder, "add", "-A", "-f")
        git(folder, "commit", "-q", "-m", f"commit {number}")
    return git(folder, "format-patch", "--stdout", *options, f"HEAD~{len(trees) - 1}")


SERIES: dict[str, Sequence[Tree]] = {
    "rename, edit": [{A: LINES}, {Z: edited(3)}, {Z: edited(3, 9)}, {Z: edited(3, 9, 30)}],
    "edit, rename": [{A: LINES}, {A: edited(5)}, {Z: edited(5, 7)}],
    "rename twice": [{A: LINES}, {T: LINES}, {Z: edited(3)}],
    "there and back": [{A: LINES}, {Z: LINES}, {A: edited(3)}],
    "a new file with the old name": [{A: LINES}, {Z: LINES}, {Z: LINES, A: b"new\n"}],
    "a name that was another's": [{A: LINES, B: OTHER}, {A: LINES}, {B: edited(3)}, {B: edited(3, 4)}],
    "swapped": [{A: LINES, B: OTHER}, {T: LINES, B: OTHER}, {T: LINES, A: OTHER}, {B: LINES, A: OTHER}],
    "new, rename, edit": [{B: OTHER}, {B: OTHER, A: LINES}, {B: OTHER, Z: LINES}, {B: OTHER, Z: edited(1, 59)}],
    "without a newline at the end": [{A: LINES[:-1]}, {Z: LINES[:-1]}, {Z: edited(5, data=LINES[:-1])}],
    "edit, copy, edit": [{A: LINES}, {A: edited(5)}, {A: edited(5), Z: edited(5)}, {A: edited(5), Z: edited(5, 8)}],
    "out of the package": [{A: LINES, B: OTHER}, {A: edited(2), B: OTHER}, {"tests/a.txt": edited(2), B: OTHER}],
    "into the package": [{"other/a.txt": LINES, B: OTHER}, {A: LINES, B: OTHER}, {A: edited(4), B: OTHER}],
}


@pytest.mark.parametrize("name", SERIES)
def test_a_series_gives_what_its_last_commit_has(name: str, tmp_path: Path) -> None:
    trees = SERIES[name]
    for number, options in enumerate((("-M",), ("-C", "--find-copies-harder"))):
        (tmp_path / str(number)).mkdir()
        diff = mails(tmp_path / str(number), trees, *options)
        assert number == 0 or b"rename to " in diff or b"copy to " in diff
        result = {path: data for path, data in applied(diff, trees[0]).items() if path.startswith("vllm/")}
        assert result == {path: data for path, data in trees[-1].items() if path.startswith("vllm/")}


def test_without_the_commits_a_file_that_was_there_before_is_a_tie(tmp_path: Path) -> None:
    """A copy of a file that the same commit changes is git's of the file as it was."""
    diff = mails(tmp_path, SERIES["edit, rename"])
    joined = parse(diff, "x").canonical
    assert parse(joined, "x").digest == parse(diff, "x").digest
    assert "before or after that is not said" in dict(refused(joined, {A: LINES}).details)["why"]


def test_the_places_of_hunks_behind_a_rename_are_reported(tmp_path: Path) -> None:
    diff = mails(tmp_path, [{A: LINES, B: OTHER}, {Z: LINES, B: OTHER}, {Z: edited(50), B: OTHER + b"end\n"}])
    moved = {A: b"# one\n" + LINES, B: b"# one\n# two\n" + OTHER}
    result = apply_stack([overlay("x.diff", diff)], DictTree(moved))
    assert [(each.path, each.offset) for each in result.overlays[0].hunks] == [(B, 2), (Z, 1)]


def test_a_copy_that_fits_only_the_file_as_it_was_is_gits(tmp_path: Path) -> None:
    """Where it fits both, before and after the change of its source, it stays a tie."""
    near, far = edited(8), edited(40)
    for copied, wanted in ((near, True), (far, False)):
        after = {A: edited(6), Z: copied}
        (tmp_path / str(wanted)).mkdir()
        diff = git_diff(tmp_path / str(wanted), {A: LINES}, after, "-C")
        assert b"copy from" in diff
        if wanted:
            assert applied(diff, {A: LINES}) == after
            moved = {A: b"# one\n" + LINES}
            assert applied(diff, moved) == {path: b"# one\n" + data for path, data in after.items()}
        else:
            assert "before or after that is not said" in dict(refused(diff, {A: LINES}).details)["why"]


@pytest.mark.parametrize("last", ["delete", "rename", "move out"])
def test_an_empty_file_that_a_series_fills_and_takes_away_is_gone(last: str, tmp_path: Path) -> None:
    """GNU patch takes it for empty still, and skips the part that deletes it."""
    name, target = "vllm/x/__init__.py", {"rename": "vllm/x/y.py", "move out": "tests/y.py"}.get(last)
    before = {name: b"", "vllm/b.py": b"b = 1\n"}
    git_diff(tmp_path, before, {**before, name: b"x = 1\n"})
    folder = tmp_path / "repository"
    git(folder, "commit", "-qm", "fill")
    if target is None:
        git(folder, "rm", "-q", name)
    else:
        (folder / target).parent.mkdir(exist_ok=True)
        git(folder, "mv", name, target)
    (folder / "vllm/b.py").write_bytes(b"b = 2\n")
    git(folder, "commit", "-qam", "take away")
    series = git(folder, "format-patch", "-2", "--stdout", "--find-renames")
    result = apply_stack([overlay("x.patch", series)], DictTree(before))
    after: dict[str, bytes | None] = {"vllm/b.py": b"b = 2\n", name: None}
    if last == "rename":
        after["vllm/x/y.py"] = b"x = 1\n"
    assert {file.path: file.after for file in result.files} == after
