"""The diff parser and the stack under random trees, edits and mutations, with git as the judge."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.patch.diff import canonical, parse
from builder.patch.stack import apply_stack
from builder.util.errors import BuilderError, InputError
from tests.support.trees import DictTree, git, git_diff, overlay, write_tree

LINES = st.lists(
    st.sampled_from(
        [b"a = 1", b"b = 2", b"", b"    c = 3", b"# d", b"x", b"\ty", b"--- a/z", b"+++ b/z", b"@@ -1 +1 @@"]
    ),
    max_size=14,
)
ENDS = st.sampled_from([b"\n", b""])
# Text files that are no Python, so that random lines need not parse.
PATHS = st.sampled_from(
    ["vllm/a.txt", "vllm/b b.txt", "vllm/sub/c.txt", "vllm/sub/ž.txt", 'vllm/q"uote.txt', "vllm/empty.txt"]
)
CONTENT = st.builds(lambda lines, end: b"\n".join(lines) + (end if lines else b""), LINES, ENDS)
TREES = st.dictionaries(PATHS, CONTENT, max_size=4)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def apply(base: dict[str, bytes], diff: bytes) -> dict[str, bytes]:
    result = apply_stack([overlay("x.diff", diff)], DictTree(base))
    tree = dict(base)
    for file in result.files:
        tree.pop(file.path, None)
        if file.after is not None:
            tree[file.path] = file.after
    return tree


@SLOW
@given(
    TREES, TREES, st.sampled_from([(), ("--no-renames",), ("--find-renames",), ("-U1",), ("-U0",), ("--full-index",)])
)
def test_what_git_diff_says_is_what_we_do(
    before: dict[str, bytes], after: dict[str, bytes], options: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        diff = git_diff(Path(name), before, after, *options)
    if not diff:
        return
    parsed = parse(diff, "x.diff")
    again = parse(parsed.canonical, "x.diff")
    assert again.digest == parsed.digest
    assert canonical(again.changes) == parsed.canonical
    assert apply(before, diff) == after
    assert apply(before, parsed.canonical) == after


def git_apply(base: dict[str, bytes], diff: bytes) -> dict[str, bytes] | None:
    """The tree that `git apply` gives, or None when it refuses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        git(folder, "init", "-q")
        write_tree(folder, base)
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"], cwd=folder, input=diff, capture_output=True, check=False
        )
        if done.returncode != 0:
            return None
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and ".git" not in path.parts
        }


BEFORE = {"vllm/a.txt": b"".join(b"line %d\n" % n for n in range(20)), "vllm/b.txt": b"x\ny\nz"}
AFTER = {
    "vllm/a.txt": BEFORE["vllm/a.txt"].replace(b"line 3\n", b"line three\n").replace(b"line 15\n", b""),
    "vllm/b.txt": b"x\ny\nz\nw\n",
    "vllm/c.txt": b"new\n",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return git_diff(tmp_path_factory.mktemp("sound"), BEFORE, AFTER)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_diff_gives_what_git_gives_or_an_error(sound: bytes, data: st.DataObject) -> None:
    lines = sound.split(b"\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "double", "swap", "byte", "cut"])):
            case "drop":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "byte":
                line = bytearray(lines[at] or b" ")
                line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(1, 255))
                lines[at] = bytes(line)
            case "cut":
                del lines[at + 1 :]
        if not lines:
            lines = [b""]
    mutated = b"\n".join(lines)
    try:
        tree = apply(BEFORE, mutated)
    except BuilderError as error:
        assert error.exit_code in (2, 3)
        return
    judged = git_apply(BEFORE, mutated)
    if judged is not None:
        assert tree == judged


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        parse(data, "x.diff")
    except InputError as error:
        assert error.exit_code == 2


@given(st.lists(st.sampled_from(["--- a/vllm/x", "+++ b/vllm/x", "@@ -1 +1 @@", "@@ -0,0 +1,2 @@", "-a", "+b", " c", "\\ No newline at end of file", "diff --git a/vllm/x b/vllm/x", "new file mode 100644", "rename from vllm/x", "rename to vllm/y", "Binary files a/vllm/x and b/vllm/x differ", "--- /dev/null", "deleted file mode 100644", ""]), max_size=12))  # fmt: skip
def test_diff_like_lines_are_parsed_or_refused(lines: list[str]) -> None:
    data = "\n".join(lines).encode() + b"\n"
    try:
        parsed = parse(data, "x.diff")
    except InputError:
        return
    assert parse(parsed.canonical, "x.diff").digest == parsed.digest


def test_a_mail_with_a_patch_is_read(tmp_path: Path) -> None:
    git_diff(tmp_path, BEFORE, AFTER)
    folder = tmp_path / "repository"
    git(folder, "commit", "-q", "-m", "Change it\n\nLonger text\n- with a dash\n+ and a plus")
    mail = git(folder, "format-patch", "-1", "--stdout")
    assert apply(BEFORE, mail) == AFTER
    assert parse(mail, "m").digest == parse(git(folder, "diff", "HEAD~1", "HEAD"), "d").digest


def test_index_lines_headings_and_commit_text_do_not_change_the_digest(sound: bytes) -> None:
    other = sound.replace(b"\nindex ", b"\nindex 00000").replace(b" @@\n", b" @@ def heading():\n")
    assert other != sound
    assert parse(b"From: somebody\n\n" + other, "x").digest == parse(sound, "x").digest
    assert parse(sound.replace(b"+new", b"+neu"), "x").digest != parse(sound, "x").digest
