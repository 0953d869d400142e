"""The private files of a stack: written once, moved aside and back, and never other than what the stack says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from builder.patch.stack import apply_stack
from builder.patch.tree import Content, StackError
from builder.patch.workplace import workplace
from tests.support.trees import DictTree, overlay

LINES = b"".join(b"x%d = %d\n" % (number, number) for number in range(30))
FILES = {"vllm/one/a.py": LINES, "vllm/two/b.py": LINES, "vllm/c.py": LINES}


def change(path: str, line: int, mode: str = "") -> bytes:
    head = f"diff --git a/{path} b/{path}\n{mode}--- a/{path}\n+++ b/{path}\n@@ -{line},3 +{line},4 @@\n"
    before, *behind = (b" x%d = %d\n" % (number, number) for number in range(line - 1, line + 2))
    return head.encode() + before + b"+added_%d = 1\n" % line + b"".join(behind)


def added(path: str) -> bytes:
    return f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+y = 1\n".encode()


def stack(*diffs: bytes) -> dict[str, tuple[bytes | None, int]]:
    result = apply_stack([overlay(f"{number}.diff", diff) for number, diff in enumerate(diffs)], DictTree(FILES))
    return {file.path: (file.after, file.mode) for file in result.files}


def test_a_file_comes_back_as_the_last_overlay_left_it() -> None:
    a, b = "vllm/one/a.py", "vllm/two/b.py"
    executable = "old mode 100644\nnew mode 100755\n"
    found = stack(
        change(a, 2, executable), change(b, 2), change("vllm/c.py", 9), change(a, 20), change(b, 20) + change(a, 10)
    )
    assert {path: data.count(b"added") for path, (data, _) in found.items() if data} == {a: 3, b: 2, "vllm/c.py": 1}
    assert found[a][1] == 0o755


def test_a_folder_that_has_lost_its_files_is_not_in_the_way() -> None:
    gone = b"diff --git a/vllm/new/f.py b/vllm/new/f.py\ndeleted file mode 100644\n--- a/vllm/new/f.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-y = 1\n"
    found = stack(added("vllm/new/f.py"), change("vllm/c.py", 2), gone, added("vllm/new"))
    assert found["vllm/new"] == (b"y = 1\n", 0o644)
    assert "vllm/new/f.py" not in found


def test_a_folder_whose_files_are_elsewhere_at_the_moment_is_a_folder_still() -> None:
    with pytest.raises(StackError, match="makes vllm/new, but vllm/new is a folder"):
        stack(added("vllm/new/f.py"), change("vllm/c.py", 2), added("vllm/new"))
    with pytest.raises(StackError, match=r"makes vllm/new/f\.py, but vllm/new is a file"):
        stack(added("vllm/new"), change("vllm/one/a.py", 2), added("vllm/new/f.py"))


def test_the_folder_has_the_files_of_one_overlay_and_no_others() -> None:
    first = {"a/x": Content(b"1", executable=True), "a/y": Content(b"2"), "z": Content(b"3")}
    with workplace(first, 100) as place:
        folder = Path(place.prepare(first, set(first)))
        assert place.read() == first
        assert place.holds(first)
        Path(folder, "a/x").write_bytes(b"10")
        Path(folder, "a/x").chmod(0o600)
        Path(folder, "a/y").unlink()
        Path(folder, "a/n").write_bytes(b"4")
        second = place.read()
        assert second == {"a/x": Content(b"10"), "z": Content(b"3"), "a/n": Content(b"4")}
        folder = Path(place.prepare({"z": second["z"]}, {"z", "b/new"}))
        assert place.read() == {"z": second["z"]}
        # A link is an entry with nothing in it, wherever it leads.
        Path(folder, "link").symlink_to("z")
        linked = {"z": second["z"], "link": Content(b"", executable=True)}
        assert place.read() == linked
        assert not place.holds(linked)
        Path(folder, "link").unlink()
        place.read()
        wanted = {"a/x": Content(b"10", executable=True), "a/n": second["a/n"]}
        folder = Path(place.prepare(wanted, set(wanted)))
        assert place.read() == wanted
        assert stat.S_IMODE((folder / "a/x").stat().st_mode) == 0o755
    assert not folder.exists()
