"""What a diff names and does not have, or has in a form that is not read: it is never left out without a word."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.patch.diff import parse
from builder.patch.stack import apply_stack
from tests.patch.test_people import AFTER, NAME, PLAIN, TEXT, applied, given, refused
from tests.support.trees import DictTree, git_diff, write_tree

BASE = {NAME: TEXT, "vllm/b.py": TEXT, "vllm/v1/core.py": TEXT.replace(b"x", b"y")}
OTHER = PLAIN.replace(b"vllm/a.py", b"vllm/v1/core.py").replace(b"x", b"y").replace(b"y/vllm", b"x/vllm")
LINES = b"=" * 67 + b"\n"
# In each, %b is where the file is: in the package, or beside it.
NAMED = {
    "diff --brief": b"Files a/%b/x.bin and b/%b/x.bin differ\n",
    "a symbolic link": b"Symbolic links a/%b/x and b/%b/x differ\n",
    "of another kind": b"File a/%b/x is a regular file while file b/%b/x is a symbolic link\n",
    "binary file": b"diff -r aaaaaaaaaaaa -r bbbbbbbbbbbb %b/x\nBinary file %b/x has changed\n",
    "no `---` and `+++`": b"diff -r aaaaaaaaaaaa -r bbbbbbbbbbbb %b/__init__.py\n",
    "is empty or binary": b"Index: a/%b/__init__.py\n" + LINES,
    "the diff": b"Index: a/%b/x.png\n" + LINES + b"Cannot display: file marked as a binary type.\nsvn:mime-type = x\n",
    "in another form": b"diff -rNe a/%b/b.py b/%b/b.py\n10c\nx10 = 1\n.\n",
    "a submodule": b"Submodule %b/third 1234567..89abcde:\n  > a commit\n",
    "a merge has left it open": b"* Unmerged path %b/b.py\n",
    "follow": "Binärdateien a/%b/x.bin und b/%b/x.bin sind verschieden.\n".encode(),
    "Bazaar": b"=== renamed file 'a/%b/b.py' => 'a/%b/c.py'\n",
    "follow this line": b"=== added file 'a/%b/c.py'\n",
}


@pytest.mark.parametrize("says", NAMED)
def test_a_file_that_is_only_named_is_refused_in_the_package_and_listed_beside_it(says: str) -> None:
    for order in ((PLAIN, NAMED[says]), (NAMED[says], PLAIN)):
        inside, beside = (
            b"".join(order).replace(b"%b", where).replace(b"aa.py", b"a.py") for where in (b"vllm", b"docs")
        )
        error = refused(inside, BASE)
        assert error.exit_code == 2
        assert "names vllm/" in error.message
        assert says in dict(error.details)["why"]
        result = apply_stack([given(beside)], DictTree(BASE))
        assert [file.path for file in result.files] == [NAME]
        assert {each.path.partition("/")[0] for each in result.overlays[0].dropped} == {"docs"}
        parsed = parse(inside, "x")
        assert parse(parsed.canonical, "x").digest == parsed.digest


def test_a_line_that_is_longer_than_any_path_names_no_file() -> None:
    """To look for two names in it would take the square of its length."""
    line = b"a/x " * (1 << 18) + b"a/vllm/b.py and b/vllm/b.py\n"
    assert [file.path for file in apply_stack([given(line + PLAIN)], DictTree(BASE)).files] == [NAME]


@pytest.mark.parametrize("option", ["-e", "-n", "-q", "-y"])
def test_what_gnu_diff_prints_in_other_forms_is_refused_behind_a_diff(option: str, tmp_path: Path) -> None:
    for side, data in (("a", TEXT), ("b", AFTER)):
        write_tree(tmp_path / side, {"vllm/b.py": data})
    made = subprocess.run(["diff", "-rN", option, "a", "b"], cwd=tmp_path, capture_output=True, check=False).stdout
    assert made
    assert "does not have the change" in refused(PLAIN + made, BASE).message


def test_a_head_that_its_section_follows_names_nothing_else() -> None:
    heads = b"Index: vllm/a.py\n" + LINES + b"RCS file: /cvs/a.py,v\ndiff -u -p -r1.4 vllm/a.py vllm/a.py\n"
    typed = b"diff -u vllm/a.py.orig vllm/a.py > fix.diff\n$ diff -ruN a b\ndiff -ruN a b\n"
    for diff in (
        heads + PLAIN,
        typed + PLAIN + typed,
        b"=== modified file 'a/vllm/a.py' (properties changed)\n" + PLAIN,
    ):
        assert applied(diff, BASE) == {**BASE, NAME: AFTER}


FORMS = {
    "apply_patch": b"*** Begin Patch\n*** Add File: vllm/n.py\n+n = 1\n*** End Patch\n",
    "search and replace": b"vllm/b.py\n<<<<<<< SEARCH\nx10 = 10\n=======\nx10 = 1\n>>>>>>> REPLACE\n",
    "server's error or page": b"<!DOCTYPE html>\n<html><body>Too many requests\n</body></html>\n",
    "a server's error": b'{"message":"Not Found","documentation_url":"x"}\n',
    "server's error": b"404: Not Found",
    "in the place of a diff": b"<p>Sorry, this diff is taking too long to generate.</p>\n",
}


@pytest.mark.parametrize("says", FORMS)
def test_other_formats_and_errors_of_a_server_between_diffs_are_refused(says: str) -> None:
    assert says in refused(PLAIN + FORMS[says], BASE).message
    assert says in refused(FORMS[says] + b"\n" + PLAIN, BASE).message


def test_a_page_around_a_whole_diff_is_text() -> None:
    assert applied(b"<html><body><pre>\n" + PLAIN + b"</pre></body></html>\n", BASE) == {**BASE, NAME: AFTER}


@pytest.mark.parametrize(
    ("old", "new", "options", "key"),
    [
        (b"vllm/v1/core.py", b"vllm/v1/core.py", {}, "strip: 0"),
        (b"a/v1/core.py", b"b/v1/core.py", {}, "under: vllm"),
        (b"a/lib/vllm/v1/core.py", b"b/lib/vllm/v1/core.py", {}, "strip: 2"),
        (b"/opt/vllm/v1/core.py.orig", b"/opt/vllm/v1/core.py", {}, "strip: 2"),
        (b"a/vllm/v1/core.py", b"b/vllm/v1/core.py", {"strip": 0}, "strip: 1"),
    ],
)
def test_names_of_two_kinds_are_refused_where_one_would_be_left_out(
    old: bytes, new: bytes, options: dict[str, object], key: str
) -> None:
    """A diff that was put together of two: one of them was left out, and the image built."""
    first = PLAIN if not options else PLAIN.replace(b"a/vllm", b"vllm").replace(b"b/vllm", b"vllm")
    second = OTHER.split(b"\n", 2)[2]
    diff = first + b"--- " + old + b"\n+++ " + new + b"\n" + second
    if options:
        # In a plain diff these are two names.
        diff = first + b"--- " + new + b"\n+++ " + new + b"\n" + second
    error = refused(diff, BASE, **options)
    assert error.exit_code == 2
    assert "names of two kinds" in error.message
    assert key in str(error.hint)
    # What only ends alike is another file, and so is what has other lines.
    for name, lines in ((b"x/scripts/v1/core.py", second), (b"x/v1/core.py", second.replace(b" y", b" z"))):
        if not options:
            result = apply_stack([given(first + b"--- " + name + b"\n+++ " + name + b"\n" + lines)], DictTree(BASE))
            assert [file.path for file in result.files] == [NAME]


def test_names_with_backslashes_are_refused_with_a_command_that_mends_them(tmp_path: Path) -> None:
    diff = b"diff --git a/vllm/a.py b/vllm/a.py\n" + PLAIN.replace(b"+x10 = 100", b"+x10 = 100  # a\\b")
    windows = diff.replace(b"a/vllm/a.py", b"a\\vllm\\a.py").replace(b"b/vllm/a.py", b"b\\vllm\\a.py")
    for broken in (windows, windows.replace(b"a\\vllm", b"a/vllm").replace(b"b\\vllm", b"b/vllm")):
        error = refused(OTHER + broken, BASE)
        assert "backslashes" in error.message
        command = str(error.hint).partition(": ")[2].replace("FIX.diff", "fix.diff")
        (tmp_path / "fix.diff").write_bytes(broken)
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
        assert (tmp_path / "fix.diff").read_bytes() == diff


def test_several_slashes_and_folders_without_a_name_are_nothing() -> None:
    for name in (b"vllm//v1/core.py", b"./vllm/v1/core.py", b"vllm/./v1//./core.py"):
        diff = OTHER.replace(b"vllm/v1/core.py", name)
        assert applied(diff, BASE) == applied(OTHER, BASE)
        assert parse(diff, "x").digest == parse(OTHER, "x").digest


def test_a_diff_that_is_truncated_in_a_header_is_refused_at_every_byte(tmp_path: Path) -> None:
    """A new module was made empty, and the next file left out."""
    diff = git_diff(tmp_path, BASE, {**BASE, NAME: AFTER, "vllm/n.py": b"n = 1\n", "vllm/v1/core.py": b""})
    whole = {0, diff.index(b"diff --git a/vllm/n.py"), diff.index(b"diff --git a/vllm/v1/core.py"), len(diff)}
    # A line of context without its newline is in the file as it is.
    for end in range(1, len(diff)):
        if end in whole or end + 1 in whole:
            continue
        assert refused(diff[:end], BASE).exit_code in (2, 3), diff[:end][-40:]


def test_a_last_line_without_its_newline_is_whole_where_the_file_says_so() -> None:
    assert applied(PLAIN[:-1], BASE) == {**BASE, NAME: AFTER}
    assert refused(PLAIN[:-2], BASE).exit_code == 3
    new = b"--- /dev/null\n+++ b/vllm/n.py\n@@ -0,0 +1 @@\n+n = 10"
    error = refused(new, BASE)
    assert "may be truncated" in error.message
    assert "`echo >> FIX.diff`" in str(error.hint)
