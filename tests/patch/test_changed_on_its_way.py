"""Diffs that a program, a mail or a page has changed: each is named for what it is, with a command that makes it right."""

from __future__ import annotations

import base64
import io
import subprocess
import tarfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from builder.patch import stamps
from tests.patch.test_people import AFTER, BODY, HEAD, NAME, PLAIN, TEXT, applied, refused, rename
from tests.support.trees import git, git_diff

BASE = {NAME: TEXT, "vllm/b.py": TEXT}
OTHER = PLAIN.replace(b"a.py", b"b.py")
BOTH = {NAME: AFTER, "vllm/b.py": AFTER}


def tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        member = tarfile.TarInfo("fix.diff")
        member.size = len(PLAIN)
        archive.addfile(member, io.BytesIO(PLAIN))
    return data.getvalue()


CHANGED = {
    "a tar archive": tar(),
    "UTF-32": PLAIN.decode().encode("utf-32"),
    "old Mac": PLAIN.replace(b"\n", b"\r"),
    "7z archive": b"7z\xbc\xaf\x27\x1c\x00\x04",
    "in base64": base64.encodebytes(PLAIN),
    "marks of a merge conflict": b"--- /dev/null\n+++ b/vllm/n.json\n@@ -0,0 +1,5 @@\n+<<<<<<< HEAD\n+{}\n+=======\n+[]\n+>>>>>>> x\n",
    "is JSON": b'[{"sha": "x", "patch": "@@ -1 +1 @@"}]\n',
    "control character": PLAIN.replace(b"a/vllm/a.py", b'"a/vllm/a\\tb.py"').replace(
        b"b/vllm/a.py", b'"b/vllm/a\\tb.py"'
    ),
    "have line numbers": HEAD + b"@@ ... @@\n" + BODY,
    "not a hunk header": HEAD + b"@@\n" + BODY,
    "cannot deliver": PLAIN + PLAIN.replace(b"vllm/a.py", b"requirements-cuda.txt"),
}


@pytest.mark.parametrize("says", CHANGED)
def test_what_was_changed_on_its_way_is_named(says: str) -> None:
    error = refused(CHANGED[says], BASE)
    assert error.exit_code == 2
    assert says in error.message


def test_an_old_macs_diff_applies_once_it_is_converted(tmp_path: Path) -> None:
    (tmp_path / "FILE").write_bytes(PLAIN.replace(b"\n", b"\r"))
    command = str(refused(PLAIN.replace(b"\n", b"\r"), BASE).hint).partition(": ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "FIX.diff").read_bytes() == PLAIN


@pytest.mark.parametrize(
    "page", [b"Sorry, this diff is taking too long to generate.\n", b'{"errors": [{"code": "too_large"}]}\n']
)
def test_a_diff_that_github_does_not_show_is_asked_of_git(page: bytes) -> None:
    assert "`pull:`" in str(refused(page, BASE).hint)


@pytest.mark.parametrize("form", ["plain", "porcelain"])
def test_a_diff_of_words_is_refused_by_its_name(form: str, tmp_path: Path) -> None:
    before = {"vllm/a.txt": b"    one two\n" * 9, "vllm/b.txt": b"x\ny\n"}
    after = {
        "vllm/a.txt": b"    one two\n" * 4 + b"    one three two\n" + b"    one two\n" * 4,
        "vllm/b.txt": b"x\nz\n",
    }
    made = git_diff(tmp_path, before, after, f"--word-diff={form}")
    for diff in (made, PLAIN + made, made[made.index(b"diff --git a/vllm/b") :]):
        assert "--word-diff" in refused(diff, {**BASE, **before}).message


@pytest.mark.parametrize("before", [b"// ", b"$ ", b"1. ", b"%5d  ", b"%d\t", b"<tr><td>"])
def test_what_is_before_each_line_is_shown_wherever_the_diff_is(before: bytes) -> None:
    lines = [(before % n if b"%" in before else before) + line + b"\n" for n, line in enumerate(OTHER.splitlines(), 9)]
    assert "before them" in refused(b"".join(lines), BASE).message
    assert "before them" in refused(PLAIN + b"".join(lines), BASE).message


def test_the_lines_of_a_diff_in_a_file_are_lines_of_that_file() -> None:
    new = b"--- /dev/null\n+++ b/vllm/n.txt\n@@ -0,0 +1,%d @@\n" % len(PLAIN.splitlines())
    added = new + b"".join(b"+" + line + b"\n" for line in PLAIN.splitlines())
    assert applied(added, BASE) == {**BASE, "vllm/n.txt": PLAIN}


def test_commits_that_are_newest_first_are_told_to_be_reversed(tmp_path: Path) -> None:
    git_diff(tmp_path, BASE, {**BASE, NAME: AFTER})
    folder = tmp_path / "repository"
    git(folder, "commit", "-qm", "one")
    (folder / NAME).write_bytes(AFTER.replace(b"x10 = 100\n", b"x10 = 1000\n"))
    git(folder, "commit", "-qam", "two")
    error = refused(git(folder, "log", "-p", "-2"), BASE)
    assert error.exit_code == 3
    assert "--reverse" in str(error.hint)
    assert applied(git(folder, "log", "-p", "-2", "--reverse"), BASE)[NAME].count(b"x10 = 1000\n") == 1
    # What applies in neither order is for other lines.
    assert "--reverse" not in str(refused(git(folder, "log", "-p", "-2"), {NAME: b"other = 1\n"}).hint)


def test_a_diff_the_wrong_way_round_is_not_taken_for_merged_without_a_word() -> None:
    turned = PLAIN.replace(b"-x10 = 10\n+x10 = 100\n", b"-x10 = 100\n+x10 = 10\n")
    assert "the other way round" in str(refused(turned, BASE).hint)


def test_a_rename_whose_hunks_are_missing_is_truncated() -> None:
    whole = rename(b"vllm/a.py", b"vllm/c.py", PLAIN.split(b"\n", 2)[2])
    head = whole[: whole.index(b"--- ")]
    for part in (head, head + b"index 111..222 100644\n"):
        assert "truncated" in refused(part, BASE).message
    assert applied(whole, BASE) == {"vllm/b.py": TEXT, "vllm/c.py": AFTER}


def test_several_encoded_mails_are_decoded_one_by_one(tmp_path: Path) -> None:
    mails = []
    for diff in (PLAIN, OTHER):
        message = EmailMessage()
        message["Subject"], message["From"] = "[PATCH] x", "a@example.org"
        message.set_content("text\n---\n" + diff.decode() + "-- \n2.40\n", cte="quoted-printable")
        mails.append(b"From a@example.org Mon Sep 17 00:00:00 2001\n" + message.as_bytes() + b"\n")
    assert "mailsplit" not in str(refused(mails[0], BASE).hint)
    assert "git mailsplit -oMAILS MBOX" in str(refused(b"".join(mails), BASE).hint)
    git(tmp_path, "init", "-q")
    (tmp_path / "MAILS").mkdir()
    (tmp_path / "MBOX").write_bytes(b"".join(mails))
    git(tmp_path, "mailsplit", "-oMAILS", "MBOX")
    for number in (1, 2):
        git(tmp_path, "mailinfo", "message", f"{number}.diff", stdin=(tmp_path / f"MAILS/000{number}").read_bytes())
    assert applied(b"".join((tmp_path / f"{number}.diff").read_bytes() for number in (1, 2)), BASE) == BOTH


@pytest.mark.parametrize(
    "stamp", [b"2026/01/02 03:04:05", b"2 Jan 2026 03:04:05 -0000      1.4", b"2026/01/02 03:04:05.5 +0100"]
)
def test_older_times_behind_a_name_end_it_with_blanks_too(stamp: bytes) -> None:
    assert stamps.split(b"a/vllm/a.py  " + stamp) == (b"a/vllm/a.py", stamp)
    diff = PLAIN.replace(b"a.py\n", b"a.py " + stamp + b"\n")
    assert applied(diff, BASE) == {**BASE, NAME: AFTER}


def test_the_same_diff_twice_in_one_file_is_told_so() -> None:
    error = refused(PLAIN + OTHER + PLAIN, BASE)
    assert error.exit_code == 3
    assert "twice in the same way, at lines 1 and 23" in str(error.hint)
