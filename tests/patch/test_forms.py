"""What is around and beside the file sections of a diff: text is passed over, and no change in another form is lost."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from builder.patch.diff import parse
from builder.patch.stack import apply_stack
from builder.util.errors import BuilderError
from tests.patch.test_people import AFTER, BODY, HEAD, NAME, PLAIN, TEXT, applied, given, refused
from tests.support.trees import DictTree, git, git_diff

BASE = {NAME: TEXT, "vllm/b.py": TEXT}
GIT = b"diff --git a/vllm/a.py b/vllm/a.py\nindex 111..222 100644\n" + PLAIN
OTHER = GIT.replace(b"a.py", b"b.py")
BOTH = {NAME: AFTER, "vllm/b.py": AFTER}
SHA = b"1234567890" * 4


def mail(message: bytes, diff: bytes = GIT, separator: bytes = b"---\n vllm/a.py | 2 +-\n\n") -> bytes:
    head = b"From " + SHA + b" Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nSubject: [PATCH] x\n\n"
    return head + message + separator + diff + b"-- \n2.39.5\n\n"


MESSAGES = {
    "names of a diff": b"before:\n\n--- x\n+++ y\n\nafter\n",
    "names beside each other, and what looks like a hunk": b"--- a/vllm/b.py\n+++ b/vllm/b.py\n@@ of b @@\n",
    "a hunk's header": b"@@ -1 +1 @@ begins it\n",
    "a git header": b"diff --git a/x b/x is printed\n",
    "what git says of binary files": b"Binary files a/vllm/x and b/vllm/x differ\n",
    "marks": b"rename from x\nsimilarity index 90%\nnew file mode 100644\nPrereq: none\ndiff --cc x\n",
    "an indented diff": b"".join(b"    " + line + b"\n" for line in OTHER.splitlines()),
    "a line of three dashes": b"one\n---\n--- x\n+++ y\ntwo\n",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_commits_message_is_text_whatever_it_looks_like(name: str, tmp_path: Path) -> None:
    for separator in (b"---\n vllm/a.py | 2 +-\n\n", b"\n"):
        data = mail(MESSAGES[name], separator=separator) + mail(MESSAGES[name], OTHER, separator)
        assert applied(data, BASE) == BOTH
    shown = b"commit " + SHA + b" (HEAD -> main)\nAuthor: A <a@example.org>\n\n"
    assert applied(shown + b"".join(b"    " + each + b"\n" for each in MESSAGES[name].splitlines()) + b"\n" + GIT, BASE)
    # git's own mail of such a commit.
    git_diff(tmp_path, BASE, {**BASE, NAME: AFTER})
    git(tmp_path / "repository", "commit", "-q", "--cleanup=verbatim", "-F", "-", stdin=b"x\n\n" + MESSAGES[name])
    made = git(tmp_path / "repository", "format-patch", "-1", "--stdout")
    assert applied(made, BASE) == {**BASE, NAME: AFTER}


def test_a_whole_diff_in_a_message_is_refused_not_applied() -> None:
    for diff in (OTHER, OTHER.split(b"\n", 2)[2]):
        for data in (mail(b"as in\n" + diff), mail(b"as in\n" + diff + b"\n")):
            error = refused(data, BASE)
            assert "message has a diff in it" in error.message
            assert "`.diff`, not `.patch`" in str(error.hint)
        indented = b"".join(b" " + line + b"\n" for line in diff.splitlines())
        assert applied(mail(b"as in\n" + indented), BASE) == {**BASE, NAME: AFTER}
    # Behind the message people put file sections without a `diff --git` line.
    by_hand = mail(b"text\n", PLAIN + b"---\n" + OTHER).replace(SHA, b"a@example.org", 1)
    assert applied(by_hand, BASE) == BOTH


CONTEXT = b"*** a/vllm/a.py\n--- b/vllm/a.py\n***************\n*** 9,11 ****\n  x9 = 9\n! x10 = 10\n  x11 = 11\n--- 9,11 ----\n  x9 = 9\n! x10 = 100\n  x11 = 11\n"
LOST = {
    "context diff": CONTEXT,
    "without context": b"diff -r a/vllm/a.py b/vllm/a.py\n10c10\n< x10 = 10\n---\n> x10 = 100\n",
    "'> ' before them": b"".join(b"> " + line + b"\n" for line in GIT.splitlines()),
    "'  ' before them": b"".join(b"  " + line + b"\n" for line in GIT.splitlines()),
    "no `diff --git` line": b"<b>diff --git a/vllm/a.py b/vllm/c.py</b>\nsimilarity index 100%\nrename from vllm/a.py\nrename to vllm/c.py\n",
    "a hunk without": b"--- a/vllm/a.py\n@@ -7,7 +7,7 @@\n" + BODY,
    "binary change": b"Binary files a/vllm/x.bin and b/vllm/x.bin differ\n",
}  # fmt: skip


@pytest.mark.parametrize("says", LOST)
def test_a_change_in_another_form_is_not_lost_behind_one_that_applies(says: str) -> None:
    error = refused(OTHER + LOST[says], BASE)
    assert error.exit_code == 2
    assert says in error.message


def test_what_follows_a_binary_change_outside_is_read() -> None:
    """A file section without a `diff --git` line was passed over as a part of the binary one."""
    for binary in (
        b"diff --git a/docs/x.png b/docs/x.png\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQzU|?VX0RR914FCWD\n\nliteral 0\nHcmV?d00001\n\n",
        b"Binary files a/docs/x.png and b/docs/x.png differ\n",
        b"Binary files /dev/null and b/docs/this and that differ\n",
    ):
        result = apply_stack([given(binary + PLAIN)], DictTree(BASE))
        assert [file.path for file in result.files] == [NAME]
        assert [each.path.partition("/")[0] for each in result.overlays[0].dropped] == ["docs"]


def test_a_byte_order_mark_before_a_later_file_hides_nothing() -> None:
    mark = b"\xef\xbb\xbf"
    move = b"diff --git a/vllm/b.py b/vllm/c.py\nsimilarity index 100%\nrename from vllm/b.py\nrename to vllm/c.py\n"
    assert applied(mark + GIT + mark + move, BASE) == {NAME: AFTER, "vllm/c.py": TEXT}
    assert applied(mark + PLAIN + mark + PLAIN.replace(b"a.py", b"b.py"), BASE) == BOTH


def test_a_pages_source_is_refused_and_characters_that_are_meant_are_not() -> None:
    new = b"diff --git a/vllm/n.txt b/vllm/n.txt\nnew file mode 100644\n--- /dev/null\n+++ b/vllm/n.txt\n@@ -0,0 +1 @@\n+x = 1 < 2 & 3 > 2\n"
    escaped = html.escape(new.decode()).encode()
    for page in (escaped, b"<pre>\n" + escaped + b"</pre>\n"):
        assert "as the source of a page" in refused(page, BASE).message
    assert applied(b"# <- as is\n" + escaped, BASE)["vllm/n.txt"] == b"x = 1 &lt; 2 &amp; 3 &gt; 2\n"
    assert applied(new.replace(b"3 > 2", b"'&gt;'"), BASE)["vllm/n.txt"] == b"x = 1 < 2 & '&gt;'\n"
    assert parse(escaped, "x", fetched=True).changes


@pytest.mark.parametrize(
    ("data", "says", "begins"),
    [
        (b'{"message":"Not Found"}', "is JSON", '{"message":"Not Found"}'),
        (b"404: Not Found", "has no diff in it", "404: Not Found"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS", "version"),
    ],
)
def test_what_is_no_diff_is_shown(data: bytes, says: str, begins: str) -> None:
    error = refused(data, BASE)
    assert says in error.message
    assert dict(error.details)["begins"].startswith(begins)


def test_colours_and_blanks_of_a_page_inside_a_hunk_are_named() -> None:
    assert "colour codes" in refused(HEAD + b"@@ -7,7 +7,7 @@\n" + BODY.replace(b"+x", b"\x1b[32m+x"), BASE).message
    assert "no-break spaces" in refused(PLAIN.replace(b"\n x8", b"\n\xc2\xa0x8"), BASE).message
    with pytest.raises(BuilderError, match="fewer lines"):
        parse(HEAD + b"@@ -7,7 +7,7 @@\n" + BODY.replace(b"\n x8", b"\nx8"), "x")


def test_what_a_diff_without_new_files_leaves_out_is_listed() -> None:
    """`diff -ru` without `-N` names a new module, and does not have it."""
    only = b"Only in a/vllm: gone.py\nOnly in b/vllm/v1: new.py\nOnly in b/vllm: __pycache__\nOnly in a/vllm: a.py.orig\nOnly in b/docs: x\n"
    for diff in (only + PLAIN, PLAIN + only):
        result = apply_stack([given(diff)], DictTree(BASE))
        assert [each.path for each in result.overlays[0].dropped] == ["vllm/gone.py", "vllm/v1/new.py"]
        assert "`diff -N`" in result.overlays[0].dropped[0].reason
        assert parse(diff, "x").digest == parse(PLAIN, "x").digest
