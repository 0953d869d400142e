"""Files that belong together: all of them or none, at whichever step a run is killed."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.util.errors import InputError
from builder.util.files import open_regular, read_regular, replacing, sha256
from builder.util.holding import holding, scratch
from builder.util.journal import JOURNAL, finish, write_files
from tests.support.bases import command
from tests.support.cli import builder
from tests.support.kills import killed_at
from tests.support.services import leave_out
from tests.support.smallwheel import make_project, make_wheel

REPOSITORY = Path(__file__).parents[2]
DIFF = b"""--- a/vllm/config.py
+++ b/vllm/config.py
@@ -1,4 +1,4 @@
-option_00 = 0
+option_00 = 1
 option_01 = 1
 option_02 = 2
 option_03 = 3
"""
SECOND = (
    b"--- a/vllm/config.py\n+++ b/vllm/config.py\n@@ -9,2 +9,2 @@\n-option_08 = 8\n+option_08 = 9\n option_09 = 9\n"
)


def state(root: Path) -> dict[str, bytes]:
    """What a user sees of a project: everything but its wheels, caches and outputs."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not {"dist", "__pycache__"} & set(path.parts) and path.suffix != ".whl"
    }


def at_each_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], arguments: list[str]
) -> None:
    """Kill a writing command at each of its steps: then all is as before, or the next command finishes it."""
    begun = tmp_path / "begun"
    make(begun)
    before = state(begun)
    shutil.copytree(begun, tmp_path / "reference")
    assert command(tmp_path / "reference", capsys, *arguments).code == 0
    after = state(tmp_path / "reference")
    assert before != after
    seen = set()
    for step in range(1, 100):
        root = tmp_path / str(step)
        shutil.copytree(begun, root)
        killed = killed_at(step, root, *arguments)
        # Any command on the recipe, one that only reads too, sees one of the two.
        command(root, capsys, "check", "small")
        found = {name: data for name, data in state(root).items() if not name.endswith(".new") and ".tmp" not in name}
        assert found in (before, after), step
        seen.add(found == after)
        again = command(root, capsys, *arguments)
        assert again.code == 0 or found == after, again.message
        assert state(root) == after, step
        if not killed:
            break
    else:
        raise AssertionError("it never ended by itself")
    assert seen == {True, False}


def test_a_lock_that_is_killed_at_any_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make(root: Path) -> None:
        make_project(root, {"one.diff": DIFF})
        assert builder("lock", "small", cwd=root).code == 0
        recipe = root / "images/small.yaml"
        (root / "overlays/two.diff").write_bytes(SECOND)
        recipe.write_text(
            recipe.read_text().replace(
                "- file: overlays/one.diff", "- file: overlays/one.diff\n- file: overlays/two.diff"
            )
        )

    at_each_step(tmp_path, capsys, make, ["lock", "small", "--update"])


def test_a_rebase_that_is_killed_at_any_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recipe, lock and the rebased diff belong together."""
    from tests.support.smallwheel import FILES

    moved = {**FILES, "vllm/config.py": FILES["vllm/config.py"].replace(b"option_03 = 3", b"option_03 = 33")}

    def make(root: Path) -> None:
        make_project(root, {"one.diff": DIFF})
        make_wheel(root / "new/vllm-0.0.1-py3-none-any.whl", moved)
        assert builder("lock", "small", cwd=root).code == 0

    arguments = ["rebase", "small", "--base", "wheel:new/vllm-0.0.1-py3-none-any.whl", "--write"]
    at_each_step(tmp_path, capsys, make, arguments)


@pytest.mark.parametrize("step", range(1, 40))
def test_several_files_killed_at_any_step(tmp_path: Path, step: int) -> None:
    files = {tmp_path / "a/one": b"1", tmp_path / "b/two": b"2", tmp_path / "three": b"3"}
    (tmp_path / "three").write_bytes(b"old")
    (tmp_path / "three").chmod(0o600)
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            paths = [os.fspath(each) for each in arguments if isinstance(each, str | os.PathLike)]
            inside = any(path.startswith(str(tmp_path)) for path in paths)
            if event in ("os.rename", "os.remove", "os.mkdir", "os.chmod", "open") and inside:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

        sys.addaudithook(hook)
        write_files(files, root=tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    finish(tmp_path)
    found = [path.read_bytes() if path.exists() else b"" for path in files]
    assert found in ([b"1", b"2", b"3"], [b"", b"", b"old"])
    assert (tmp_path / "three").stat().st_mode & 0o777 == 0o600
    write_files(files, root=tmp_path)
    assert [path.read_bytes() for path in files] == [b"1", b"2", b"3"]
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "one", "two", "three"}


def test_a_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"old")
    (tmp_path / "folder/x").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot write"):
        write_files({tmp_path / "one": b"1", tmp_path / "folder": b"2"}, root=tmp_path)
    assert (tmp_path / "one").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "folder"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "steps": [{"from": "../x", "to": "y", "sha256": "1"}]}',
     '{"format": 1, "steps": [{"from": "x", "to": "/etc/passwd", "sha256": "1"}]}', "[" * 100_000],
    ids=range(7),
)  # fmt: skip
def test_a_journal_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(InputError):
        finish(tmp_path)


@pytest.mark.parametrize(
    "target", [".git/hooks/post-checkout", "hooks/post-checkout", ".bashrc", "images/../.git/config"]
)
def test_a_journal_that_comes_with_a_repository_reaches_nothing_hidden(tmp_path: Path, target: str) -> None:
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "hooks").symlink_to(".git/hooks")
    (tmp_path / "evil.new").write_text("evil")
    step = {"from": "evil.new", "to": target, "sha256": sha256(b"evil")}
    (tmp_path / JOURNAL).write_text(json.dumps({"format": 1, "steps": [step]}))
    with pytest.raises(InputError, match="not a file of the project"):
        finish(tmp_path)
    assert (tmp_path / "evil.new").exists()


def test_a_journal_whose_file_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".x.new").write_text("other")
    (tmp_path / JOURNAL).write_text('{"format": 1, "steps": [{"from": ".x.new", "to": "x", "sha256": "00"}]}')
    with pytest.raises(InputError, match="not what a killed run had written"):
        finish(tmp_path)
    assert not (tmp_path / "x").exists()


def test_threads_and_processes_hold_a_folder_one_after_another(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def add(_number: int) -> None:
        with holding(tmp_path), holding(tmp_path):
            count.write_text(str(int(count.read_text()) + 1))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))
    script = (
        "import sys; from pathlib import Path; from builder.util.holding import holding\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(50):\n    with holding(path.parent): path.write_text(str(int(path.read_text()) + 1))\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(count)], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        for _ in range(4)
    ]
    assert [child.wait(timeout=120) for child in children] == [0] * 4
    assert count.read_text() == "400"


def test_a_folder_that_is_replaced_while_it_is_waited_for_is_held_anew(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    begun, told = threading.Event(), threading.Event()

    def other() -> None:
        with holding(folder):
            begun.set()
            assert told.wait(60)
            folder.rmdir()

    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(60)
    with holding(folder, waiting=lambda _who: told.set()):
        assert folder.is_dir()
    thread.join()


def test_a_temporary_folder_of_a_killed_run_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    (tmp_path / ".x-dead/deep").mkdir(parents=True)
    with scratch(tmp_path, ".x-") as first, scratch(tmp_path, ".x-") as second:
        assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_beside_a_file_goes_when_the_file_is_written(tmp_path: Path) -> None:
    (tmp_path / ".x[1].abc.tmp").write_bytes(b"half")
    (tmp_path / ".y.abc.tmp").write_bytes(b"another's")
    with replacing(tmp_path / "x[1]") as stream:
        stream.write(b"whole")
        with replacing(tmp_path / "x[1]") as other:
            other.write(b"meanwhile")
    assert {path.name for path in tmp_path.iterdir()} == {"x[1]", ".y.abc.tmp"}
    assert (tmp_path / "x[1]").read_bytes() == b"whole"


def test_only_regular_files_within_the_limit_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(bytes(2000))
    for name in ("pipe", "link", ""):
        with pytest.raises(InputError, match="not a regular file"), open_regular(tmp_path / name):
            pass
    with pytest.raises(InputError, match="larger than 1 KiB"):
        read_regular(tmp_path / "large", limit=1024)
    assert read_regular(tmp_path / "large", limit=2000) == bytes(2000)


@pytest.mark.parametrize("name", ["overlays/one.diff", "profiles/tiny.yaml"])
def test_a_pipe_as_an_input_is_an_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_project(tmp_path, {"one.diff": DIFF})
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    outcome = command(tmp_path, capsys, "lock", "small")
    assert outcome.code == 2, outcome.message
    assert "not a regular file" in outcome.message or "there is no profile" in outcome.message


def test_on_a_read_only_disk_what_is_written_already_is_no_error(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    files = {project / "one": b"1", project / "two": b"2"}
    write_files(files, root=project)
    bound = subprocess.run(["mount", "--bind", project, project], capture_output=True, check=False)
    if bound.returncode != 0:
        leave_out("needs to mount a folder")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", project], check=True)
        write_files(files, root=project)
        with pytest.raises(InputError) as raised:
            write_files({**files, project / "three": b"3"}, root=project)
    finally:
        subprocess.run(["umount", project], check=True)
    assert raised.value.message == f"cannot write {project}/three: Read-only file system"
    assert raised.value.hint == "nothing was written; its file system is read-only: name another place"
