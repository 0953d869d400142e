"""How GNU patch and git apply go wrong, case by case: here each ends in the right tree or in an error, never in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.base.model import BaseFile
from builder.patch.stack import apply_stack
from builder.patch.tree import StackError
from builder.util.errors import BuilderError
from tests.support.trees import DictTree, git_diff, overlay

NAME = "vllm/a.py"
TEXT = b"".join(b"line_%02d = %d\n" % (n, n) for n in range(1, 31))


def edit(data: bytes, *pairs: tuple[bytes, bytes]) -> bytes:
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    return data


ONE = (b"line_05 = 5\n", b"line_05 = 555\n")
TWO = (b"line_25 = 25\n", b"line_25 = 2525\n")
EDITED = edit(TEXT, ONE, TWO)


def apply(
    base: Mapping[str, bytes], diff: bytes, *, fuzz: int = 0, special: Mapping[str, BaseFile] | None = None
) -> dict[str, bytes]:
    """The tree after one overlay."""
    result = apply_stack([overlay("case.diff", diff, fuzz=fuzz)], DictTree(base, special or {}))
    tree = dict(base)
    for file in result.files:
        if file.after is None:
            del tree[file.path]
        else:
            tree[file.path] = file.after
    return tree


@dataclass(frozen=True)
class Case:
    """A row: what is given, and either the tree or the exit code and a word of the message that must come out."""

    name: str
    base: Mapping[str, bytes]
    diff: bytes | Callable[[Path], bytes]
    tree: Mapping[str, bytes] | None = None
    code: int = 0
    says: str = ""
    fuzz: int = 0


def made(before: Mapping[str, bytes], after: Mapping[str, bytes], *options: str) -> Callable[[Path], bytes]:
    return lambda tmp: git_diff(tmp, before, after, *options)


BOTH = made({NAME: TEXT}, {NAME: EDITED})
MOVED = b"# one\n# two\n# three\n" + TEXT
CONTEXT = edit(TEXT, (b"line_02 = 2\n", b"line_02 = 22\n"))
BINARY = b"diff --git a/vllm/a.py b/vllm/a.py\nindex 111..222 100644\nBinary files a/vllm/a.py and b/vllm/a.py differ\n"
NEW_BINARY = BINARY.replace(b"index", b"new file mode 100644\nindex").replace(b"a/vllm/a.py and", b"/dev/null and")
GIT_BINARY = b"diff --git a/vllm/a.py b/vllm/a.py\nindex 111..222 100644\nGIT binary patch\nliteral 3\nKcmZQzU|?VX0RR914FCWD\n\nliteral 0\nHcmV?d00001\n\n"
PLAIN = b"--- a/vllm/a.py\n+++ b/vllm/a.py\n@@ -1,3 +1,3 @@\n line_01 = 1\n-line_02 = 2\n+line_02 = 22\n line_03 = 3\n"
ED = b"--- a/vllm/a.py\n+++ b/vllm/a.py\n2c\nline_02 = 22\n.\n"
SUBMODULE = b"diff --git a/vllm/sub b/vllm/sub\nindex 1111111..2222222 160000\n--- a/vllm/sub\n+++ b/vllm/sub\n@@ -1 +1 @@\n-Subproject commit 1111111111111111111111111111111111111111\n+Subproject commit 2222222222222222222222222222222222222222\n"
SYMLINK = b"diff --git a/vllm/link b/vllm/link\nnew file mode 120000\n--- /dev/null\n+++ b/vllm/link\n@@ -0,0 +1 @@\n+/etc\n\\ No newline at end of file\n"
THROUGH = (
    SYMLINK
    + b"diff --git a/vllm/link/x.py b/vllm/link/x.py\nnew file mode 100644\n--- /dev/null\n+++ b/vllm/link/x.py\n@@ -0,0 +1 @@\n+x = 1\n"
)
MODE = b"diff --git a/vllm/a.py b/vllm/a.py\nold mode 100644\nnew mode 104755\n"

CASES = [
    Case("already applied", {NAME: EDITED}, BOTH, code=3, says="merged upstream in this base"),
    Case("hunk 1 of 2 already applied", {NAME: edit(TEXT, ONE)}, BOTH, code=3, says="1 of 2 hunks"),
    Case("hunk 2 of 2 already applied", {NAME: edit(TEXT, TWO)}, BOTH, code=3, says="1 of 2 hunks"),
    Case("offset", {NAME: MOVED}, BOTH, {NAME: edit(MOVED, ONE, TWO)}),
    Case("needs fuzz", {NAME: CONTEXT}, BOTH, code=3, says="1 of 2 hunks"),
    Case("fuzz allowed", {NAME: CONTEXT}, BOTH, {NAME: edit(CONTEXT, ONE, TWO)}, fuzz=1),
    Case(
        "file missing beside the package",
        {NAME: TEXT},
        made({NAME: TEXT, "tests/t.py": b"t\n"}, {NAME: EDITED, "tests/t.py": b"u\n"}),
        {NAME: EDITED},
    ),
    Case(
        "file missing in the package",
        {NAME: TEXT},
        made({NAME: TEXT, "vllm/b.py": b"t = 1\n"}, {NAME: EDITED, "vllm/b.py": b"t = 2\n"}),
        code=3,
        says="base does not have",
    ),
    Case(
        "new file under a missing folder",
        {NAME: TEXT},
        made({}, {"vllm/x/y/z.py": b"z = 1\n"}),
        {NAME: TEXT, "vllm/x/y/z.py": b"z = 1\n"},
    ),
    Case("new file under tests", {NAME: TEXT}, made({}, {"tests/z.py": b"z = 1\n"}), code=2, says="nothing of overlay"),
    Case("new file exists with other content", {NAME: TEXT}, made({}, {NAME: b"x = 1\n"}), code=3, says="other content"),
    Case("new file exists with this content", {NAME: b"x = 1\n"}, made({}, {NAME: b"x = 1\n"}), code=3, says="merged upstream"),
    Case("delete", {NAME: TEXT, "vllm/b.py": b"b\n"}, made({NAME: TEXT}, {}), {"vllm/b.py": b"b\n"}),
    Case("delete, content differs", {NAME: EDITED}, made({NAME: TEXT}, {}), code=3, says="does not apply"),
    Case("delete, more content", {NAME: TEXT + b"more = 1\n"}, made({NAME: TEXT}, {}), code=3, says="more lines"),
    Case("delete, already gone", {"vllm/b.py": b"b\n"}, made({NAME: TEXT}, {}), code=3, says="base does not have"),
    Case("one of two hunks fails", {NAME: edit(TEXT, (TWO[0], b"other = 1\n"))}, BOTH, code=3, says="hunk 2"),
    Case("leaves the tree", {NAME: TEXT}, PLAIN.replace(b"vllm/a.py", b"vllm/../../x.py"), code=2, says="leaves the tree"),
    Case("absolute path", {NAME: TEXT}, PLAIN.replace(b"b/vllm/a.py", b"/etc/passwd"), code=2, says="absolute path"),
    Case("creates a symlink", {NAME: TEXT}, SYMLINK, code=2, says="symbolic link"),
    Case("creates a symlink and writes through it", {NAME: TEXT}, THROUGH, code=2, says="symbolic link"),
    Case(
        "rename and edit",
        {NAME: TEXT},
        made({NAME: TEXT}, {"vllm/b.py": edit(TEXT, ONE)}, "--find-renames"),
        {"vllm/b.py": edit(TEXT, ONE)},
    ),
    Case("pure rename", {NAME: TEXT}, made({NAME: TEXT}, {"vllm/b.py": TEXT}, "--find-renames"), {"vllm/b.py": TEXT}),
    Case(
        "copy",
        {NAME: TEXT},
        made({NAME: TEXT}, {NAME: TEXT, "vllm/b.py": edit(TEXT, ONE)}, "--find-copies-harder"),
        {NAME: TEXT, "vllm/b.py": edit(TEXT, ONE)},
    ),
    Case("mode only, executable", {NAME: TEXT}, MODE.replace(b"104755", b"100755"), {NAME: TEXT}),
    Case("mode 4755", {NAME: TEXT}, MODE, code=2, says="mode 104755"),
    Case("binary, new file", {}, NEW_BINARY, code=2, says="binary"),
    Case("binary, existing file", {NAME: TEXT}, BINARY, code=2, says="binary"),
    Case("git binary patch", {NAME: TEXT}, GIT_BINARY, code=2, says="binary"),
    Case("empty new file", {}, made({}, {"vllm/__init__.py": b""}), {"vllm/__init__.py": b""}),
    Case("truncated hunk", {NAME: TEXT}, PLAIN[:-14], code=2, says="truncated"),
    Case("cut in a line of context", {NAME: TEXT}, PLAIN[:-3], code=3, says="does not apply"),
    Case("without the last newline", {NAME: TEXT}, PLAIN[:-1], {NAME: edit(TEXT, (b"line_02 = 2\n", b"line_02 = 22\n"))}),
    Case("cut in an added line", {}, made({}, {NAME: TEXT[:-1] + b"0\n"}), {NAME: TEXT[:-1] + b"0\n"}),
    Case("empty", {NAME: TEXT}, b"", code=2, says="is empty"),
    Case("blank", {NAME: TEXT}, b"\n \n", code=2, says="is empty"),
    Case("HTML page", {NAME: TEXT}, b"<!DOCTYPE html>\n<html><body>Too many requests</body></html>\n", code=2, says="HTML page"),
    Case("ed script", {NAME: TEXT}, ED, code=2, says="no hunk"),
    Case("CRLF diff, LF file", {NAME: TEXT}, PLAIN.replace(b"\n", b"\r\n"), code=2, says="CRLF"),
    Case("LF diff, CRLF file", {NAME: TEXT.replace(b"\n", b"\r\n")}, PLAIN, code=3, says="does not apply"),
    Case(
        "CRLF content in an LF diff",
        {NAME: TEXT.replace(b"\n", b"\r\n")},
        made({NAME: TEXT.replace(b"\n", b"\r\n")}, {NAME: EDITED.replace(b"\n", b"\r\n")}),
        {NAME: EDITED.replace(b"\n", b"\r\n")},
    ),
    Case("no newline at the end", {NAME: b"x = 1"}, made({NAME: b"x = 1"}, {NAME: b"x = 2"}), {NAME: b"x = 2"}),
    Case("no newline wanted, file has one", {NAME: b"x = 1\n"}, made({NAME: b"x = 1"}, {NAME: b"x = 2"}), code=3, says="does not apply"),
    Case("newline is added", {NAME: b"x = 1"}, made({NAME: b"x = 1"}, {NAME: b"x = 1\n"}), {NAME: b"x = 1\n"}),
    Case("submodule", {NAME: TEXT}, SUBMODULE, code=2, says="submodule"),
    Case("Prereq line", {NAME: TEXT}, b"Prereq: 9.9.9\n" + PLAIN, code=2, says="Prereq"),
    Case(
        "same file twice",
        {NAME: TEXT},
        PLAIN + PLAIN.replace(b"line_02 = 22\n", b"line_02 = 222\n").replace(b"line_02 = 2\n", b"line_02 = 22\n"),
        {NAME: edit(TEXT, (b"line_02 = 2\n", b"line_02 = 222\n"))},
    ),
    Case("the result is no Python", {NAME: TEXT}, PLAIN.replace(b"+line_02 = 22", b"+line_02 = (("), code=3, says="no longer Python"),
    Case("native source", {NAME: TEXT}, PLAIN.replace(b"vllm/a.py", b"csrc/attention.cu"), code=2, says="cannot deliver"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, tmp_path: Path) -> None:
    diff = case.diff if isinstance(case.diff, bytes) else case.diff(tmp_path)
    if case.tree is not None:
        assert apply(case.base, diff, fuzz=case.fuzz) == case.tree
        return
    with pytest.raises(BuilderError) as caught:
        apply(case.base, diff, fuzz=case.fuzz)
    error = caught.value
    assert error.exit_code == case.code, error
    text = "\n".join([error.message, *(text for _, text in error.details), error.hint or ""])
    assert case.says in text


SPECIAL = {
    "target is a symlink to the outside": BaseFile(NAME, "symlink", 0o777, target="/etc/passwd"),
    "parent folder is a symlink to the outside": BaseFile("vllm", "symlink", 0o777, target="/etc"),
    "target is a folder": BaseFile(NAME, "directory", 0o755),
    "target is a device": BaseFile(NAME, "other", 0o644),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_nothing_is_written_through_what_is_no_file(name: str) -> None:
    entry = SPECIAL[name]
    with pytest.raises(BuilderError) as caught:
        apply({NAME: TEXT}, PLAIN, special={entry.path: entry})
    assert caught.value.exit_code == 3
    assert entry.path in caught.value.message


def test_an_executable_file_stays_executable() -> None:
    result = apply_stack([overlay("x.diff", PLAIN)], DictTree({NAME: TEXT}, executable=[NAME]))
    assert [file.mode for file in result.files] == [0o755]


def test_a_mode_change_alone_is_a_change() -> None:
    result = apply_stack([overlay("x.diff", MODE.replace(b"104755", b"100755"))], DictTree({NAME: TEXT}))
    assert [(file.path, file.mode, file.after) for file in result.files] == [(NAME, 0o755, TEXT)]


def test_inside_a_git_repository_nothing_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git apply` silently does nothing in a sub-directory of some repository."""
    git_diff(tmp_path, {}, {})
    folder = tmp_path / "repository" / "sub"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    assert apply({NAME: TEXT}, PLAIN) == {NAME: edit(TEXT, (b"line_02 = 2\n", b"line_02 = 22\n"))}


def test_the_callers_environment_does_not_reach_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "POSIXLY_CORRECT": "1",
        "PATCH_GET": "1",
        "QUILT_PATCHES": "x",
        "SIMPLE_BACKUP_SUFFIX": ".bak",
    }.items():
        monkeypatch.setenv(name, value)
    assert apply({NAME: MOVED}, PLAIN) == {NAME: edit(MOVED, (b"line_02 = 2\n", b"line_02 = 22\n"))}


def test_an_accepted_native_change_is_dropped_with_its_reason() -> None:
    both = PLAIN + PLAIN.replace(b"vllm/a.py", b"csrc/attention.cu")
    accepted = overlay("x.diff", both, accept={"csrc/*": "only used on ROCm"})
    result = apply_stack([accepted], DictTree({NAME: TEXT}))
    assert [(each.path, each.reason) for each in result.overlays[0].dropped] == [
        ("csrc/attention.cu", "accepted: only used on ROCm")
    ]
    with pytest.raises(BuilderError, match="no undeliverable file that matches"):
        apply_stack([overlay("x.diff", PLAIN, accept={"csrc/*": "why"})], DictTree({NAME: TEXT}))


def test_an_overlay_that_an_earlier_one_carries_is_named(tmp_path: Path) -> None:
    """The shape of #41000 and #41365: the second has all hunks of the first, and more."""
    small = git_diff(tmp_path / "1", {NAME: TEXT}, {NAME: EDITED})
    large = git_diff(tmp_path / "2", {NAME: TEXT, "vllm/b.py": TEXT}, {NAME: EDITED, "vllm/b.py": EDITED})
    tree = DictTree({NAME: TEXT, "vllm/b.py": TEXT})
    with pytest.raises(BuilderError) as caught:
        apply_stack([overlay("#41000", small), overlay("#41365", large)], tree)
    assert caught.value.exit_code == 3
    assert "#41365 carries all 2 hunks of #41000: remove #41000" in str(caught.value.hint)
    with pytest.raises(BuilderError) as caught:
        apply_stack([overlay("#41365", large), overlay("#41000", small)], tree)
    assert "2 of 2 hunks of #41000 are already supplied by #41365; drop #41000" in str(caught.value.hint)


# git breaks a change in two above 400 bytes only.
COUNTED = b"".join(b"line %d\n" % number for number in range(1, 90))
SEVENTH = COUNTED.replace(b"line 7\n", b"seven\n")
AT_ONCE: dict[str, tuple[dict[str, bytes], dict[str, bytes], tuple[str, ...]]] = {
    "a copy of a file that is changed": (
        {"vllm/b.txt": COUNTED}, {"vllm/b.txt": SEVENTH, "vllm/c.txt": COUNTED.replace(b"line 15\n", b"x\n")}, ("-C",),
    ),
    "a whole copy of a file that is changed": (
        {"vllm/b.txt": COUNTED}, {"vllm/b.txt": SEVENTH, "vllm/c.txt": COUNTED}, ("-C",),
    ),
    "two files that change their names": (
        {"vllm/b.txt": COUNTED, "vllm/c.txt": b"other\n" * 90}, {"vllm/b.txt": b"other\n" * 90, "vllm/c.txt": COUNTED}, ("-B", "-M"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_diff_that_means_all_files_as_they_were_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    """git takes it as one change; the same sections in a series of mails are several, one after another."""
    before, after, options = AT_ONCE[name]
    with pytest.raises(StackError) as caught:
        apply_stack([overlay("x.diff", git_diff(tmp_path / "1", before, after, *options))], DictTree(before))
    assert "before or after that is not said" in dict(caught.value.details)["why"]
    assert "--no-renames" in (caught.value.hint or "")
    plain = apply_stack([overlay("x.diff", git_diff(tmp_path / "2", before, after, "--no-renames"))], DictTree(before))
    assert {file.path: file.after for file in plain.files} == {p: d for p, d in after.items() if before.get(p) != d}


def test_a_copy_that_comes_before_the_change_of_its_source_applies(tmp_path: Path) -> None:
    after = {"vllm/a.txt": COUNTED.replace(b"line 15\n", b"x\n"), "vllm/b.txt": SEVENTH}
    diff = git_diff(tmp_path, {"vllm/b.txt": COUNTED}, after, "-C")
    assert b"copy from vllm/b.txt" in diff
    result = apply_stack([overlay("x.diff", diff)], DictTree({"vllm/b.txt": COUNTED}))
    assert {file.path: file.after for file in result.files} == after
