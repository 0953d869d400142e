"""Plain diffs, of GNU diff, Subversion and the like: what the names and times of their two sides say."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from builder.patch import stamps
from builder.patch.stack import apply_stack
from tests.patch.test_people import AFTER, BODY, NAME, STAMP, TEXT, applied, given, refused
from tests.support.trees import DictTree, write_tree

ONE = "vllm/one.txt"
BASE = {NAME: TEXT, ONE: b"only\n", "vllm/empty.txt": b""}
HUNK = b"@@ -7,7 +7,7 @@\n" + BODY


def sides(old: bytes, new: bytes, hunk: bytes) -> bytes:
    return b"--- " + old + b"\n+++ " + new + b"\n" + hunk


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns"])
def test_gnu_diff_tells_what_is_emptied_from_what_is_deleted(zone: str, tmp_path: Path) -> None:
    after = {NAME: AFTER, ONE: b"", "vllm/empty.txt": b"filled\n", "vllm/new.txt": b"new\n"}
    before = {**BASE, "vllm/gone.txt": b"gone\n"}
    write_tree(tmp_path / "a", before)
    write_tree(tmp_path / "b", after)
    done = subprocess.run(
        ["diff", "-ruN", "a", "b"], cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "TZ": zone}
    )
    assert b"1970-01-01" in done.stdout or b"1969-12-31" in done.stdout
    assert applied(done.stdout, before) == after


def test_what_no_time_says_is_refused_and_both_ways_out_work() -> None:
    emptied = sides(b"a/vllm/one.txt", b"b/vllm/one.txt", b"@@ -1 +0,0 @@\n-only\n")
    error = refused(emptied, BASE)
    assert error.exit_code == 2
    assert "deleted or left empty" in error.message
    assert "`+++ /dev/null`" in str(error.hint)
    line = str(error.hint).partition("put the line\n`")[2].partition("`")[0].encode()
    rest = {path: data for path, data in BASE.items() if path != ONE}
    assert applied(emptied.replace(b"+++ b/vllm/one.txt", b"+++ /dev/null"), BASE) == rest
    assert applied(line + b"\n" + emptied, BASE) == {**BASE, ONE: b""}


@pytest.mark.parametrize(
    ("old", "new", "tree"),
    [
        (b"(revision 12)", b"(nonexistent)", {}),
        (b"(revision 12)", b"(revision 13)", {ONE: b""}),
    ],
)
def test_subversion_writes_out_what_does_not_exist(old: bytes, new: bytes, tree: dict[str, bytes]) -> None:
    rest = {path: data for path, data in BASE.items() if path != ONE}
    for tab in (b"\t", b"  "):
        diff = sides(b"vllm/one.txt" + tab + old, b"vllm/one.txt" + tab + new, b"@@ -1 +0,0 @@\n-only\n")
        assert applied(diff, BASE, strip=0) == {**rest, **tree}
    made = sides(b"vllm/n.txt\t(nonexistent)", b"vllm/n.txt\t(working copy)", b"@@ -0,0 +1 @@\n+x\n")
    assert applied(made, BASE, strip=0) == {**BASE, "vllm/n.txt": b"x\n"}


def test_blanks_in_place_of_the_tab_end_the_name_before_a_time_only() -> None:
    for stamp in (STAMP.strip(), b"2026-01-02 03:04:05", b"Thu Jan  1 00:00:00 2026 +0100", b"(revision 1)"):
        for blanks in (b" ", b"        "):
            diff = sides(b"a/vllm/a.py" + blanks + stamp, b"b/vllm/a.py" + blanks + stamp, HUNK)
            assert applied(diff, BASE)[NAME] == AFTER
    spaced = {"vllm/a b.txt": TEXT}
    assert applied(sides(b"a/vllm/a b.txt", b"b/vllm/a b.txt", HUNK), spaced) == {"vllm/a b.txt": AFTER}


@drawn(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1)), st.integers(-14 * 4, 14 * 4))
def test_a_time_is_read_with_its_zone(moment: datetime, quarters: int) -> None:
    zone = timezone(timedelta(minutes=15 * quarters))
    for time in (moment.replace(microsecond=0, tzinfo=UTC), datetime.fromtimestamp(0, UTC)):
        local = time.astimezone(zone)
        gone = "gone" if time.timestamp() == 0 else "there"
        assert stamps.says(f"{local:%Y-%m-%d %H:%M:%S}.000000000 {local:%z}".encode()) == gone
        assert stamps.says(f"{local:%a %b %d %H:%M:%S %Y %z}".encode()) == gone
    assert stamps.says(b"1970-01-01 00:00:00.000000001 +0000") == "there"
    assert stamps.says(b"2026-99-01 00:00:00") == stamps.says(b"") == stamps.says(b"1970-01-01 01:00:00") == ""


def test_of_a_name_and_a_longer_one_the_shorter_is_the_file() -> None:
    for ending in (b".orig", b"~", b".fixed", b"_new", b".1"):
        for names in ((NAME.encode(), NAME.encode() + ending), (NAME.encode() + ending, NAME.encode())):
            git = b"diff --git a/" + names[0] + b" b/" + names[1] + b"\nindex 1..2 100644\n"
            plain = sides(b"a/" + names[0], b"b/" + names[1], HUNK)
            assert applied(plain, BASE) == applied(git + plain, BASE) == {**BASE, NAME: AFTER}


def test_two_copies_of_a_tree_are_told_which_key_makes_them_one() -> None:
    diff = b"diff --git a/old/vllm/a.py b/new/vllm/a.py\nindex 1..2 100644\n" + sides(
        b"a/old/vllm/a.py", b"b/new/vllm/a.py", HUNK
    )
    assert "`strip: 2`" in str(refused(diff, BASE).hint)
    assert applied(diff, BASE, strip=2)[NAME] == AFTER
    assert "strip" not in str(refused(diff.replace(b"new/vllm/a.py", b"new/vllm/c.py"), BASE).hint)


@pytest.mark.parametrize(
    ("old", "new", "options"),
    [
        (b"", b"", {"strip": 0}),
        (b"", b"", {"strip": 1, "under": "vllm"}),
        (b"old/x/", b"new/x/", {"strip": 2}),
        (b"a/", b"b/", {}),
    ],
)
def test_a_renames_marks_have_no_prefix_whatever_the_other_names_have(
    old: bytes, new: bytes, options: dict[str, object]
) -> None:
    names = (old + b"vllm/a.py", new + b"vllm/c d.py")
    head = (
        b"diff --git "
        + names[0]
        + b" "
        + names[1]
        + b"\nsimilarity index 90%\nrename from vllm/a.py\nrename to vllm/c d.py\n"
    )
    rest = {path: data for path, data in BASE.items() if path != NAME}
    whole = head.replace(b" 90%", b" 100%")
    assert applied(whole, BASE, **options) == {**rest, "vllm/c d.py": TEXT}
    assert applied(head + sides(*names, HUNK), BASE, **options) == {**rest, "vllm/c d.py": AFTER}


def test_marks_that_are_left_out_are_read_from_dev_null() -> None:
    new = b"diff --git a/vllm/n.txt b/vllm/n.txt\n" + sides(b"/dev/null", b"b/vllm/n.txt", b"@@ -0,0 +1 @@\n+x\n")
    gone = b"diff --git a/vllm/one.txt b/vllm/one.txt\n" + sides(
        b"a/vllm/one.txt", b"/dev/null", b"@@ -1 +0,0 @@\n-only\n"
    )
    assert applied(new + gone, BASE) == {NAME: TEXT, "vllm/empty.txt": b"", "vllm/n.txt": b"x\n"}


def test_a_copy_out_of_the_package_is_no_reason_to_read_the_names_otherwise() -> None:
    copy = b"diff --git a/vllm/a.py b/tests/a.py\nsimilarity index 100%\ncopy from vllm/a.py\ncopy to tests/a.py\n"
    error = refused(copy, BASE)
    assert "strip" not in str(error.hint)
    result = apply_stack([given(copy + sides(b"a/vllm/a.py", b"b/vllm/a.py", HUNK))], DictTree(BASE))
    assert [file.path for file in result.files] == [NAME]


@pytest.mark.parametrize(
    ("file", "diff", "says"),
    [
        (TEXT.replace(b"\n", b"\r\n"), HUNK, "line endings of CRLF: the diff has LF"),
        (TEXT, HUNK.replace(b"\n", b"\r\n").replace(b"@@\r", b"@@"), "line endings of LF: the diff has CRLF"),
        (TEXT.replace(b" = ", b"\t=\t"), HUNK, "but for blanks or tabs"),
        (TEXT.replace(b"x9 = 9\n", b"x9 = 9 \n"), HUNK, "but for blanks at the ends of lines"),
        (TEXT.replace(b"x9 = 9", b"x9 = 8 < 9"), HUNK.replace(b"x9 = 9", b"x9 = 8 &lt; 9"), "that a page has as `&lt;`"),
        (TEXT[:-1], b"@@ -28,3 +28,3 @@\n x28 = 28\n-x29 = 29\n+x29 = 0\n x30 = 30\n", "it ends without a newline"),
        (TEXT, b"@@ -28,3 +28,3 @@\n x28 = 28\n-x29 = 29\n+x29 = 0\n x30 = 30\n\\ No newline at end of file\n", "it ends in a newline"),
    ],
)  # fmt: skip
def test_what_differs_in_blanks_only_is_said_to(file: bytes, diff: bytes, says: str) -> None:
    error = refused(sides(b"a/vllm/a.txt", b"b/vllm/a.txt", diff), {"vllm/a.txt": file})
    assert error.exit_code == 3
    assert says in dict(error.details)["found"]
    assert "take it again from where it was made" in str(error.hint)
    assert {each["cause"] for each in error.data["failures"]} == {"blanks"}


def test_blank_lines_that_an_editor_took_from_the_end_come_back_as_the_hint_says() -> None:
    base = {"vllm/a.txt": b"a\nb\n\n\nc\n"}
    diff = sides(b"a/vllm/a.txt", b"b/vllm/a.txt", b"@@ -1,4 +1,4 @@\n-a\n+A\n b\n")
    other = sides(b"a/vllm/b.txt", b"b/vllm/b.txt", HUNK)
    for whole in (diff, diff + other):
        error = refused(whole, {**base, "vllm/b.txt": TEXT})
        assert error.exit_code == 2
        assert "put 2 with one blank each there" in str(error.hint)
    assert applied(diff + b" \n \n" + other, {**base, "vllm/b.txt": TEXT})["vllm/a.txt"] == b"A\nb\n\n\nc\n"


def test_a_plain_diff_behind_a_section_without_hunks_is_another_file() -> None:
    """The mode of one file was given to the other."""
    mode = b"diff --git a/vllm/one.txt b/vllm/one.txt\nold mode 100644\nnew mode 100755\n"
    empty = b"diff --git a/vllm/n.txt b/vllm/n.txt\nnew file mode 100644\nindex 0000000..e69de29\n"
    move = b"diff --git a/vllm/one.txt b/vllm/n.txt\nrename from vllm/one.txt\nrename to vllm/n.txt\n"
    plain = sides(b"a/vllm/a.py", b"b/vllm/a.py", HUNK)
    result = apply_stack([given(mode + plain)], DictTree(BASE))
    assert [(file.path, file.mode) for file in result.files] == [(NAME, 0o644), (ONE, 0o755)]
    assert applied(empty + plain, BASE) == {**BASE, NAME: AFTER, "vllm/n.txt": b""}
    assert applied(move + plain, BASE).keys() == {NAME, "vllm/empty.txt", "vllm/n.txt"}


@pytest.mark.parametrize(
    "diff",
    [
        b"diff --git a/vllm/a.py b/vllm/a.py\n" + HUNK,
        sides(b"a/vllm/a.py  ", b"b/vllm/a.py ", HUNK),
        sides(b"a/vllm/a.py", b"b/vllm/a.py", HUNK.replace(b"@@\n", b"@@class X:\n")),
        sides(b"a/vllm/a.py", b"b/vllm/a.py", HUNK.replace(b"@@\n", b"@@\tclass X:  \n")),
    ],
)
def test_what_is_said_in_one_way_only_is_taken(diff: bytes) -> None:
    assert applied(diff, BASE) == {**BASE, NAME: AFTER}


def test_a_file_in_the_place_of_a_folder_is_named_for_what_it_is() -> None:
    base = {**BASE, "vllm/x/p.txt": b"p\n"}
    gone = sides(b"a/vllm/x/p.txt", b"/dev/null", b"@@ -1 +0,0 @@\n-p\n")
    new = sides(b"/dev/null", b"b/vllm/x", b"@@ -0,0 +1 @@\n+x\n")
    inside = sides(b"/dev/null", b"b/vllm/one.txt/x", b"@@ -0,0 +1 @@\n+x\n")
    away = sides(b"a/vllm/one.txt", b"/dev/null", b"@@ -1 +0,0 @@\n-only\n")
    for diff, what in (
        (gone + new, "a file in the place of a folder"),
        (away + inside, "a folder in the place of a file"),
    ):
        error = refused(diff, base)
        assert error.exit_code == 3
        assert what in error.message
        assert "another name" in str(error.hint)
