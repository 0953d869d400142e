"""Diffs as they are in people's repositories: what `git apply` makes of them at the one place, or a refusal that helps."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

import pytest

from builder.patch.diff import parse
from builder.patch.model import Overlay
from builder.patch.stack import apply_stack
from builder.util.errors import BuilderError
from tests.patch.test_diff import git_apply
from tests.support.trees import DictTree, git, git_diff

NAME = "vllm/a.py"
TEXT = b"".join(b"x%d = %d\n" % (n, n) for n in range(1, 31))
AFTER = TEXT.replace(b"x10 = 10\n", b"x10 = 100\n")
HEAD = b"--- a/vllm/a.py\n+++ b/vllm/a.py\n"
BODY = b" x7 = 7\n x8 = 8\n x9 = 9\n-x10 = 10\n+x10 = 100\n x11 = 11\n x12 = 12\n x13 = 13\n"
PLAIN = HEAD + b"@@ -7,7 +7,7 @@\n" + BODY


def given(diff: bytes, **options: object) -> Overlay:
    strip, under = int(options.get("strip", 1)), str(options.get("under", ""))  # type: ignore[call-overload]
    parsed = parse(diff, "fix.diff", strip=strip, under=under)
    headings: dict[str, dict[int, str]] = {}
    if options.get("headings"):
        for change in parsed.changes:
            for number, hunk in enumerate(change.hunks, 1):
                headings.setdefault(change.path, {})[number] = hunk.heading.decode()
    return Overlay("fix.diff", parsed, "fix.diff", headings=headings, strip=strip)


def applied(diff: bytes, base: Mapping[str, bytes], **options: object) -> dict[str, bytes]:
    result = apply_stack([given(diff, **options)], DictTree(base))
    tree = dict(base)
    for file in result.files:
        tree.pop(file.path, None)
        if file.after is not None:
            tree[file.path] = file.after
    return tree


def refused(diff: bytes, base: Mapping[str, bytes], **options: object) -> BuilderError:
    with pytest.raises(BuilderError) as caught:
        applied(diff, base, **options)
    assert "fetch" not in str(caught.value.hint)
    return caught.value


ASYMMETRIC = HEAD + b"@@ -5,9 +5,10 @@\n x5 = 5\n x6 = 6\n" + BODY.replace(b"+x10 = 100\n", b"+x10 = 100\n+y = 1\n")
FEW_BEHIND = HEAD + b"@@ -7,5 +7,5 @@\n" + BODY.replace(b" x12 = 12\n x13 = 13\n", b"")
FEW_BEFORE = HEAD + b"@@ -9,5 +9,5 @@\n" + BODY.replace(b" x7 = 7\n x8 = 8\n", b"")
OTHER = PLAIN.replace(b"vllm/a.py", b"vllm/b.py")
MAIL = b"From 0 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\ntext\n---\n a.py | 2 +-\n\n"
TAKEN = {
    "more context before than behind": ASYMMETRIC,
    "less context behind": FEW_BEHIND,
    "less context before": FEW_BEFORE,
    "one blank behind the last hunk": PLAIN + b" \n",
    "an empty line and a blank behind it": PLAIN + b"\n \n\n",
    "a blank between two files": PLAIN + b" \n" + OTHER,
    "three dashes between two files": PLAIN + b"---\n" + OTHER,
    "three dashes and text between two files": PLAIN + b"---\nthe next one\n" + OTHER,
    "a mail's signature": MAIL + PLAIN + b"-- \n2.39.5\n\n",
    "a signature without its blank": MAIL + PLAIN + b"--\n2.39.5\n\n" + MAIL + OTHER + b"-- \n2.39.5\n",
    "one context line too few in the header": HEAD + b"@@ -7,7 +7,7 @@\n" + BODY + b" x14 = 14\n",
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "svn's lines": b"Index: vllm/a.py\n" + b"=" * 67 + b"\n" + PLAIN,
    "the file's end with one line of context": HEAD + b"@@ -26,5 +26,5 @@\n x26 = 26\n x27 = 27\n x28 = 28\n-x29 = 29\n+x29 = 0\n x30 = 30\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_git_applies_to_the_one_place_is_applied(name: str) -> None:
    base = {NAME: TEXT, "vllm/b.py": TEXT}
    for files in (base, {path: b"# one\n# two\n" + data for path, data in base.items()}):
        wanted = git_apply(files, TAKEN[name].removeprefix(b"\xef\xbb\xbf"))
        assert wanted is not None
        assert wanted != files
        assert applied(TAKEN[name], files) == wanted


MISCOUNTED = {
    "a change that the header does not count": (HEAD + b"@@ -7,7 +7,7 @@\n" + BODY + b"+y = 1\n", "@@ -7,7 +7,8 @@"),
    "two context lines more": (HEAD + b"@@ -7,7 +7,7 @@\n" + BODY + b" x14 = 14\n x15 = 15\n", "@@ -7,9 +7,9 @@"),
    "an added line in the middle": (
        HEAD + b"@@ -7,7 +7,7 @@\n" + BODY.replace(b"+x10 = 100\n", b"+x10 = 100\n+y = 1\n"),
        "@@ -7,7 +7,8 @@",
    ),
    "a context line less": (HEAD + b"@@ -7,8 +7,8 @@\n" + BODY, "@@ -7,7 +7,7 @@"),
    "a context line less before another file": (HEAD + b"@@ -7,9 +7,9 @@\n" + BODY + OTHER, "@@ -7,7 +7,7 @@"),
    "a context line less before another hunk": (
        HEAD + b"@@ -7,8 +7,8 @@\n" + BODY + b"@@ -20,3 +20,3 @@\n x20 = 20\n-x21 = 21\n+x21 = 0\n x22 = 22\n",
        "@@ -7,7 +7,7 @@",
    ),
    "a context line less before a signature": (
        HEAD + b"@@ -7,8 +7,8 @@\n" + BODY + b"-- \n2.39.5\n",
        "@@ -7,7 +7,7 @@",
    ),
}


@pytest.mark.parametrize("name", MISCOUNTED)
def test_what_a_header_counts_wrong_is_refused_with_the_right_header(name: str) -> None:
    diff, header = MISCOUNTED[name]
    error = refused(diff, {NAME: TEXT, "vllm/b.py": TEXT})
    assert error.exit_code == 2
    assert f"`{header}`" in str(error.hint)
    if name == "a change that the header does not count":
        # Without context behind it, the hunk would be for the file's end.
        return
    # It is the right one indeed.
    right = diff.replace(diff.split(b"\n")[2], header.encode(), 1)
    assert applied(right, {NAME: TEXT, "vllm/b.py": TEXT})[NAME] != TEXT


def test_a_surplus_line_of_context_between_two_hunks_is_one_of_the_first() -> None:
    second = b"@@ -20,3 +20,3 @@\n x20 = 20\n-x21 = 21\n+x21 = 0\n x22 = 22\n"
    diff = HEAD + b"@@ -7,7 +7,7 @@\n" + BODY + b" x14 = 14\n" + second
    assert applied(diff, {NAME: TEXT}) == {NAME: AFTER.replace(b"x21 = 21", b"x21 = 0")}


def test_a_surplus_line_of_context_that_the_file_does_not_have_is_refused() -> None:
    error = refused(HEAD + b"@@ -7,7 +7,7 @@\n" + BODY + b" other\n", {NAME: TEXT})
    assert error.exit_code == 3
    assert "@@ -7,8 +7,8 @@" in "\n".join(text for _, text in error.details)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (PLAIN.decode().encode("utf-16"), "UTF-16"),
        (PLAIN.decode().encode("utf-16-be"), "UTF-16BE"),
        (gzip.compress(PLAIN), "compressed with gzip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd"),
        (b"<!DOCTYPE html><html></html>\n", "HTML page"),
        (b"\n", "is empty"),
    ],
)
def test_what_is_no_diff_is_named_for_what_it_is(data: bytes, says: str) -> None:
    error = refused(data, {NAME: TEXT})
    assert error.exit_code == 2
    assert says in error.message


# --- names ------------------------------------------------------------------------------------------------------------

PACKAGE = {
    "vllm/__init__.py": b"x = 1\n",
    "vllm/v1/core.py": TEXT,
    "vllm/v1/engine/core.py": TEXT.replace(b"x10", b"z10"),
    "vllm/config.py": TEXT,
}
STAMP = b"\t2026-01-02 03:04:05.000000000 +0000"
ROOT = b"usr/local/lib/python3.12/dist-packages/"


def named(old: bytes, new: bytes) -> bytes:
    return b"--- " + old + STAMP + b"\n+++ " + new + STAMP + b"\n@@ -7,7 +7,7 @@\n" + BODY


def git_named(name: bytes, prefix: tuple[bytes, bytes] = (b"a/", b"b/")) -> bytes:
    old, new = prefix[0] + name, prefix[1] + name
    return b"diff --git " + old + b" " + new + b"\n--- " + old + b"\n+++ " + new + b"\n@@ -7,7 +7,7 @@\n" + BODY


NAMES = {
    "inside the package": (git_named(b"v1/core.py") + git_named(b"config.py"), 1, "vllm", 2),
    "inside a folder of the package": (git_named(b"core.py"), 1, "vllm/v1", 1),
    "from the image's root": (git_named(ROOT + b"vllm/v1/core.py"), 6, "", 1),
    "from the image's root, plain": (named(b"a/" + ROOT + b"vllm/v1/core.py", b"b/" + ROOT + b"vllm/v1/core.py"), 6, "", 1),
    "absolute": (named(b"/" + ROOT + b"vllm/v1/core.py.orig", b"/" + ROOT + b"vllm/v1/core.py"), 6, "", 1),
    "a monorepo": (git_named(b"python/vllm/v1/core.py") + git_named(b"README.md") + git_named(b"test/x.py"), 2, "", 1),
    "without prefixes": (git_named(b"vllm/v1/core.py", (b"", b"")) + git_named(b"vllm/config.py", (b"", b"")), 0, "", 2),
    "inside the package, without prefixes": (
        git_named(b"v1/core.py", (b"", b"")) + git_named(b"config.py", (b"", b""))
        + b"diff --git more/n.py more/n.py\nnew file mode 100644\n--- /dev/null\n+++ more/n.py\n@@ -0,0 +1 @@\n+x = 1\n",
        0, "vllm", 2,
    ),
    "bare names with .orig": (named(b"config.py.orig", b"config.py"), 0, "vllm", 1),
    "bare names with .new": (named(b"config.py", b"config.py.new"), 0, "vllm", 1),
    "a new file beside one that exists": (
        git_named(b"v1/core.py") + b"diff --git a/v1/new.py b/v1/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/v1/new.py\n@@ -0,0 +1 @@\n+x = 1\n",
        1, "vllm", 1,
    ),
    "a rename inside the package": (
        b"diff --git a/config.py b/settings.py\nsimilarity index 100%\nrename from config.py\nrename to settings.py\n",
        1, "vllm", 1,
    ),
}  # fmt: skip


def test_a_mail_that_is_encoded_is_refused_and_its_decoded_diff_applies(tmp_path: Path) -> None:
    """A new file would have `=3D` in it, with nothing to compare it with."""
    diff = git_diff(tmp_path / "1", {}, {NAME: TEXT})
    message = EmailMessage()
    message["Subject"], message["From"] = "[PATCH] a new file", "a@example.org"
    message.set_content(diff.decode(), cte="quoted-printable")
    mail = message.as_bytes()
    assert b"+x1 =3D 1\n" in mail
    with pytest.raises(BuilderError, match="encoded for a mail"):
        parse(mail, "fix.diff")
    git(tmp_path / "1/repository", "mailinfo", "message", "FIX.diff", stdin=mail)
    assert applied((tmp_path / "1/repository/FIX.diff").read_bytes(), {"vllm/b.py": b"y = 1\n"})[NAME] == TEXT
    # 8bit is how git itself writes mails.
    message.set_content(diff.decode() + "# ä\n", cte="8bit")
    assert parse(message.as_bytes(), "fix.diff").changes[0].path == NAME


@pytest.mark.parametrize(
    "options", [("--color=always",), ("--color=always", "--color-moved=zebra"), ("-U1", "--color=always")]
)
def test_a_diff_with_colours_is_refused_wherever_it_is(options: tuple[str, ...], tmp_path: Path) -> None:
    """Behind another diff it would be text between two, which is passed over."""
    git_diff(tmp_path / "1", {NAME: TEXT}, {NAME: AFTER})
    coloured = git(tmp_path / "1/repository", "diff", "--cached", *options)
    assert b"\x1b[" in coloured
    other = git_diff(tmp_path / "2", {"vllm/b.py": TEXT}, {"vllm/b.py": AFTER})
    for diff in (coloured, other + coloured, coloured + other):
        with pytest.raises(BuilderError, match="colour codes") as caught:
            parse(diff, "fix.diff")
        assert "--no-color" in (caught.value.hint or "")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_are_meant_are_found_and_the_two_lines_work(name: str) -> None:
    diff, strip, under, count = NAMES[name]
    error = refused(diff, PACKAGE)
    assert error.exit_code == 2
    assert "remove" not in str(error.hint)
    assert f"  strip: {strip}" in str(error.hint)
    assert (f"  under: {under}" in str(error.hint)) == bool(under)
    assert error.data["meant"][0]["found"] == count
    assert f"{count} of " in dict(error.details)["meant"]
    tree = applied(diff, PACKAGE, strip=strip, under=under)
    assert sum(tree.get(path) != data for path, data in PACKAGE.items()) == count
    assert tree.keys() - PACKAGE.keys() <= {"vllm/v1/new.py", "vllm/settings.py", "vllm/more/n.py"}
    assert all(path.startswith("vllm/") for path in tree)


def test_a_name_that_several_files_have_is_told_apart_by_its_lines_or_called_a_tie() -> None:
    both = {**PACKAGE, "vllm/v1/engine/core.py": TEXT}
    assert "under: vllm/v1\n" in str(refused(named(b"core.py.orig", b"core.py"), PACKAGE).hint) + "\n"
    error = refused(named(b"core.py.orig", b"core.py"), both)
    assert {each["under"] for each in error.data["meant"]} == {"vllm/v1", "vllm/v1/engine"}
    assert "the one that the change is for" in str(error.hint)


def test_what_has_too_few_folders_stays_outside_and_the_digest_knows_it() -> None:
    result = apply_stack([given(NAMES["a monorepo"][0], strip=2)], DictTree(PACKAGE))
    assert [each.path for each in result.overlays[0].dropped] == ["README.md", "x.py"]
    inside, absolute = PLAIN, PLAIN.replace(b"a/vllm", b"/vllm").replace(b"b/vllm", b"/vllm")
    assert parse(inside, "x").digest != parse(absolute, "x").digest
    again = parse(parse(absolute, "x").canonical, "x")
    assert again.digest == parse(absolute, "x").digest
    assert again.changes[0].outside


def test_names_that_leave_the_tree_are_refused_whatever_is_stripped() -> None:
    for strip in (0, 1, 2):
        error = refused(PLAIN.replace(b"vllm/a.py", b"x/vllm/../../../a.py"), {NAME: TEXT}, strip=strip)
        assert "leaves the tree" in error.message


# --- moves, and what is text ------------------------------------------------------------------------------------------

GIT = b"diff --git a/vllm/a.py b/vllm/a.py\n" + PLAIN


def rename(old: bytes, new: bytes, hunk: bytes = b"") -> bytes:
    names = b"--- a/" + old + b"\n+++ b/" + new + b"\n" + hunk if hunk else b""
    return (
        b"diff --git a/" + old + b" b/" + new + b"\nsimilarity index " + (b"90%" if hunk else b"100%")
        + b"\nrename from " + old + b"\nrename to " + new + b"\n" + names
    )  # fmt: skip


def test_a_move_out_of_the_package_is_a_deletion_there() -> None:
    base = {NAME: TEXT, "vllm/t.py": b"t = 1\nu = 2\n"}
    assert applied(rename(b"vllm/t.py", b"tests/t.py"), base) == {NAME: TEXT}
    hunk = b"@@ -1,2 +1,2 @@\n-t = 1\n+t = 2\n u = 2\n"
    assert applied(rename(b"vllm/t.py", b"tests/t.py", hunk) + GIT, base) == {NAME: AFTER}
    # What the base has must be what was moved.
    error = refused(rename(b"vllm/t.py", b"tests/t.py", hunk), {**base, "vllm/t.py": b"other = 1\n"})
    assert error.exit_code == 3
    assert refused(rename(b"vllm/gone.py", b"tests/t.py"), base).exit_code == 3
    assert applied(rename(b"vllm/t.py", b"tests/t.py"), {**base, "vllm/t.py": b""}) == {NAME: TEXT}
    no_newline = {**base, "vllm/t.py": b"t = 1\nu = 2"}
    assert applied(rename(b"vllm/t.py", b"tests/t.py"), no_newline) == {NAME: TEXT}


def test_a_move_into_the_package_is_an_addition() -> None:
    move = rename(b"other/t.py", b"vllm/t.py")
    assert applied(move + GIT, {NAME: TEXT, "other/t.py": b"t = 1\n"}) == {
        NAME: AFTER, "other/t.py": b"t = 1\n", "vllm/t.py": b"t = 1\n",
    }  # fmt: skip
    error = refused(move, {NAME: TEXT})
    assert error.exit_code == 2
    assert "neither the base" in error.message
    assert "--no-renames" in str(error.hint)


def test_a_move_of_what_cannot_be_delivered_is_not_silent() -> None:
    base = {NAME: TEXT, "vllm/t.py": b"t = 1\n"}
    for old, new in [
        (b"csrc/a.h", b"tests/a.h"), (b"requirements/x.txt", b"docs/x.txt"), (b"tests/a.py", b"csrc/a.py"),
        (b"vllm/t.py", b"csrc/t.py"), (b"requirements/cuda.txt", b"other.txt"),
    ]:  # fmt: skip
        error = refused(rename(old, new) + GIT, base)
        assert error.exit_code == 2
        assert "cannot deliver" in error.message, (old, new)


HEADER = "vllm/third_party/jit/include/k.cuh"


@pytest.mark.parametrize("ending", [".cuh", ".h", ".hpp", ".cu", ".jinja", ".json", ".txt", ".cpp", ".pyx", ".inl"])
def test_text_that_the_package_has_is_delivered_whatever_its_ending(ending: str) -> None:
    path = HEADER.removesuffix(".cuh") + ending
    diff = PLAIN.replace(b"vllm/a.py", path.encode())
    assert applied(diff, {NAME: TEXT, path: TEXT}) == {NAME: TEXT, path: AFTER}
    # A new one beside those that are compiled at run time.
    new = path.replace("/k.", "/new/n.")
    made = b"diff --git a/%b b/%b\nnew file mode 100644\n--- /dev/null\n+++ b/%b\n@@ -0,0 +1 @@\n+int x;\n"
    assert applied(made % ((new.encode(),) * 3), {NAME: TEXT, path: TEXT})[new] == b"int x;\n"


def test_what_the_package_does_not_have_as_text_or_was_compiled_is_refused() -> None:
    base = {
        NAME: TEXT,
        "vllm/fast.py": TEXT,
        "vllm/fast.cpython-312-x86_64-linux-gnu.so": b"\x7fELF",
        "vllm/x.so": b"\x7fELF",
    }
    for path, says in [
        ("vllm/ops/k.cu", "does not have it as text"),
        ("vllm/fast.py", "fast.cpython-312-x86_64-linux-gnu.so was compiled from it"),
        ("vllm/x.so", "compiled"),
    ]:
        error = refused(PLAIN + PLAIN.replace(b"vllm/a.py", path.encode()), base)
        assert error.exit_code == 2
        assert says in dict(error.details)["file"]


# --- places -----------------------------------------------------------------------------------------------------------


def block(name: str, indent: str = "        ") -> list[str]:
    return [f"class {name}:", "    def f(self):", f"{indent}a = 1", f"{indent}b = 2", f"{indent}return a", ""]


FILLER = [f"q{n} = 0" for n in range(40)]


def text(*parts: list[str]) -> bytes:
    return "".join(f"{line}\n" for part in parts for line in part).encode()


def hunk(line: int, value: int, heading: str = "") -> bytes:
    return f"@@ -{line},3 +{line},3 @@{heading and ' ' + heading}\n         a = 1\n-        b = 2\n+        b = {value}\n         return a\n".encode()


def test_hunks_that_only_fit_in_one_order_go_there_and_it_is_said() -> None:
    base = text(FILLER[:30], block("C1"), FILLER, block("C2"))
    diff = HEAD + hunk(27, 21) + hunk(73, 22)
    result = apply_stack([given(diff)], DictTree({NAME: base}))
    assert result.files[0].after == base.replace(b"b = 2", b"b = 21", 1)[::-1].replace(b"2 = b", b"22 = b", 1)[::-1]
    assert [each.chosen for each in result.overlays[0].hunks] == ["order", "order"]
    # With a third place there are three ways.
    error = refused(diff, {NAME: text(FILLER[:30], block("C1"), FILLER, block("C2"), FILLER, block("C3"))})
    assert {each.cause for each in error.failures} == {"ambiguous"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("heading", ["class C2:", "def f(self):", "class C2", ""])
def test_a_heading_that_names_the_place_settles_it(heading: str) -> None:
    base = text(FILLER[:30], block("C1"), FILLER, block("C2"), FILLER, block("C3"))
    diff = HEAD + hunk(60, 22, heading)
    if heading != "class C2:":
        # The method is the same in each class, half a heading is none, and no heading says nothing.
        assert refused(diff, {NAME: base}, headings=True).exit_code == 3
        return
    result = apply_stack([given(diff, headings=True)], DictTree({NAME: base}))
    [applied_hunk] = result.overlays[0].hunks
    assert applied_hunk.chosen == "heading"
    after = result.files[0].after or b""
    assert after == base.replace(text(block("C2")), text(block("C2")).replace(b"b = 2\n", b"b = 22\n"))
    # The lock pins the headings that count: without it, the same diff is a tie.
    assert refused(diff, {NAME: base}).exit_code == 3


def test_files_and_folders_do_not_take_each_others_place() -> None:
    new = b"diff --git a/%b b/%b\nnew file mode 100644\n--- /dev/null\n+++ b/%b\n@@ -0,0 +1 @@\n+x = 1\n"
    base = {NAME: TEXT, "vllm/engine/x.py": b"x = 1\n"}
    for first, second in [
        (b"vllm/engine", None),
        (b"vllm/a.py/x.py", None),
        (b"vllm/n", b"vllm/n/x.py"),
        (b"vllm/n/x.py", b"vllm/n"),
    ]:
        made = [new % ((path,) * 3) for path in (first, second) if path is not None]
        for overlays in (
            [Overlay(f"{n}.diff", parse(each, "x"), "x") for n, each in enumerate(made)],
            [given(b"".join(made))],
        ):
            with pytest.raises(BuilderError) as caught:
                apply_stack(overlays, DictTree(base))
            assert caught.value.exit_code == 3, (first, second)


def test_a_name_that_ends_in_a_blank_keeps_it() -> None:
    name = "vllm/x.txt "
    made = b'diff --git "a/vllm/x.txt " "b/vllm/x.txt "\nnew file mode 100644\n--- /dev/null\n+++ "b/vllm/x.txt "\n@@ -0,0 +1 @@\n+x\n'
    assert applied(made, {NAME: TEXT}) == {NAME: TEXT, name: b"x\n"}
    change = made.replace(b"new file mode 100644\n--- /dev/null", b'--- "a/vllm/x.txt "').replace(
        b"@@ -0,0 +1 @@\n", b"@@ -1 +1 @@\n-y\n"
    )
    assert applied(change, {name: b"y\n", "vllm/x.txt": b"y\n"}) == {name: b"x\n", "vllm/x.txt": b"y\n"}
