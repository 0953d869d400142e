"""Files that the new base has under another name, or no longer: judged by git, which merges whole trees with renames on."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

from builder.base.model import PackageTree
from builder.patch.stack import run_steps
from builder.upkeep.rebase.judge import StackJudgement, judge_stack
from builder.upkeep.rebase.moves import Moves, renames
from builder.util.errors import InputError
from tests.support.pytrees import package_tree
from tests.support.trees import DictTree, git, git_diff, overlay, write_tree

Files = dict[str, bytes]
# Of 0.20.0 and not of 0.21.0: the first five went elsewhere, as `git diff -M` of the two trees has them.
MOVED = {
    "vllm/model_executor/layers/fused_moe/flashinfer_cutlass_moe.py": "vllm/model_executor/layers/fused_moe/experts/flashinfer_cutlass_moe.py",
    "vllm/model_executor/layers/fused_moe/fused_marlin_moe.py": "vllm/model_executor/layers/fused_moe/experts/marlin_moe.py",
    "vllm/model_executor/layers/fused_moe/rocm_aiter_fused_moe.py": "vllm/model_executor/layers/fused_moe/experts/rocm_aiter_moe.py",
    "vllm/model_executor/models/mimo_v2_flash.py": "vllm/model_executor/models/mimo_v2.py",
    "vllm/v1/kv_offload/worker/cpu_gpu.py": "vllm/v1/kv_offload/cpu/gpu_worker.py",
    "vllm/v1/kv_offload/cpu/policies/abstract.py": "vllm/v1/kv_offload/cpu/policies/base.py",
}
DELETED = ("vllm/v1/attention/backends/tree_attn.py", "vllm/_oink_ops.py", "vllm/v1/kv_offload/mediums.py")


@functools.cache
def release(version: str) -> Files:
    root = package_tree(version)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")}


def judged(
    tmp_path: Path, old: Files, new: Files, after: Files, *, name: str = "change", without: bool = False
) -> StackJudgement:
    """What we say of the change `old` to `after` on `new`. `without`: the old base cannot be opened any more."""
    diff = git_diff(tmp_path / "diff", _only(old, old, after), _only(after, old, after))

    def opened() -> PackageTree:
        if without:
            raise InputError("gone")
        return DictTree(old)

    moves = Moves(set(old), opened, DictTree(new), ("vllm",))
    steps = run_steps([overlay(name, diff)], DictTree(old), "vllm")
    return judge_stack(steps, DictTree(new), base="new", find_moves=moves.find)


def _only(files: Files, old: Files, after: Files) -> Files:
    return {path: data for path, data in files.items() if old.get(path) != after.get(path)}


class Judge:
    """One repository with an old and a new tree, and `git merge-tree` over changes to the old one."""

    def __init__(self, folder: Path, old: Files, new: Files) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "old")
        self.old = self._commit(old, "old")
        self.new = self._commit(new, "new", replacing=old)
        git(folder, "checkout", "-q", self.old)

    def _commit(self, files: Files, message: str, *, replacing: Files | None = None) -> str:
        for path in replacing or {}:
            (self.folder / path).unlink()
        write_tree(self.folder, files)
        git(self.folder, "add", "-A", "-f")
        git(self.folder, "commit", "-q", "-m", message)
        return git(self.folder, "rev-parse", "HEAD").decode().strip()

    def merge(self, old: Files, after: Files) -> tuple[bool, str]:
        """Whether `after`, a child of the old tree, merges with the new one, and the tree that comes out."""
        for path in old.keys() - after.keys():
            (self.folder / path).unlink()
        change = self._commit({path: data for path, data in after.items() if old.get(path) != data}, "change")
        git(self.folder, "checkout", "-q", "-f", self.old)
        done = subprocess.run(
            ["git", "merge-tree", "--write-tree", self.new, change], cwd=self.folder, capture_output=True, check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"},
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0, done.stdout.split()[0].decode()

    def read(self, tree: str, path: str) -> bytes:
        return git(self.folder, "cat-file", "blob", f"{tree}:{path}")

    def changed(self, tree: str) -> set[str]:
        """The paths in which a merged tree differs from the new base's."""
        return set(git(self.folder, "diff", "--name-only", "--no-renames", self.new, tree).decode().split())


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    if git_version() < (2, 38):
        pytest.skip("the judge, git merge-tree, needs git 2.38")
    return Judge(tmp_path_factory.mktemp("judge") / "git", release("0.20.0"), release("0.21.0"))


def git_version() -> tuple[int, ...]:
    found = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.findall(r"\d+", found)[:2])


@pytest.mark.wheels
@pytest.mark.parametrize("path", [*MOVED, *DELETED])
def test_a_change_of_a_file_that_went_away_follows_it_as_git_does(path: str, judge: Judge, tmp_path: Path) -> None:
    old, new = release("0.20.0"), release("0.21.0")
    after = {**old, path: old[path] + b"\n# An overlay was here.\n"}
    clean, tree = judge.merge(old, after)
    answer = judged(tmp_path, old, new, after)
    [one] = answer.overlays
    assert (one.verdict == "merges") == clean
    if path in MOVED:
        assert answer.moved == {path: MOVED[path]}
        assert f"{path} is {MOVED[path]} on this base" in one.note
    if clean:
        assert answer.over() == {name: judge.read(tree, name) for name in judge.changed(tree)}
        again = judge_stack(run_steps([overlay("x", one.diff)], DictTree(new), "vllm"), DictTree(new), base="new")
        assert [each.verdict for each in again.overlays] == ["applies"]
    elif path in MOVED:
        assert {each.path for each in one.conflicts} == {MOVED[path]}
        assert answer.over() == {}
    else:
        assert one.verdict == "conflict"
        assert "has deleted this file" in one.conflicts[0].why
        assert "+# An overlay was here." in one.conflicts[0].shown
    # Without the old base's other files the answer is the same here.
    assert judged(tmp_path / "2", old, new, after, without=True).over() == answer.over()


@pytest.mark.wheels
def test_a_conflict_in_a_moved_file_names_both_places(judge: Judge, tmp_path: Path) -> None:
    old, new = release("0.20.0"), release("0.21.0")
    path = "vllm/model_executor/layers/fused_moe/rocm_aiter_fused_moe.py"
    there = MOVED[path]
    ours = set(new[there].split(b"\n"))
    # A line that 0.21.0 has changed.
    lines = old[path].split(b"\n")
    line = next(each for each in lines if lines.count(each) == 1 and each not in ours)
    after = {**old, path: old[path].replace(line, line + b"  # ours")}
    clean, _ = judge.merge(old, after)
    assert not clean
    [one] = judged(tmp_path, old, new, after).overlays
    assert one.verdict == "conflict"
    assert one.conflicts[0].path == there
    assert f"<<<<<<< new: {there}" in one.conflicts[0].shown
    assert f">>>>>>> change: {path}" in one.conflicts[0].shown
    assert line.decode() in one.conflicts[0].shown


@pytest.mark.wheels
def test_a_move_that_the_new_base_has_made_too_is_in_already(tmp_path: Path) -> None:
    old, new = release("0.20.0"), release("0.21.0")
    path = "vllm/model_executor/layers/fused_moe/fused_marlin_moe.py"
    there = MOVED[path]
    after = {**{name: data for name, data in old.items() if name != path}, there: new[there]}
    [one] = judged(tmp_path, old, new, after).overlays
    assert one.verdict == "already in"


BODY = b"".join(b"line_%02d = %d\n" % (n, n) for n in range(40))
CASES = {
    "renamed here, changed there": ({"vllm/b.py": BODY}, {"vllm/a.py": BODY.replace(b"= 30\n", b"= 'theirs'\n")}),
    "renamed and changed here, changed there": (
        {"vllm/b.py": BODY.replace(b"= 3\n", b"= 'ours'\n")}, {"vllm/a.py": BODY.replace(b"= 30\n", b"= 'theirs'\n")}
    ),
    "both changed one line": (
        {"vllm/b.py": BODY.replace(b"= 3\n", b"= 'ours'\n")}, {"vllm/a.py": BODY.replace(b"= 3\n", b"= 'theirs'\n")}
    ),
    "renamed to two names": ({"vllm/b.py": BODY}, {"vllm/c.py": BODY}),
    "renamed to one name": ({"vllm/b.py": BODY}, {"vllm/b.py": BODY.replace(b"= 30\n", b"= 'theirs'\n")}),
    "deleted here, renamed there": ({}, {"vllm/c.py": BODY}),
    "deleted here, changed there": ({}, {"vllm/a.py": BODY.replace(b"= 30\n", b"= 'theirs'\n")}),
    "deleted in both": ({}, {}),
    "renamed here, deleted there": ({"vllm/b.py": BODY}, {}),
    "the name is taken": ({"vllm/b.py": BODY}, {"vllm/a.py": BODY, "vllm/b.py": b"other = 1\n"}),
    "changed here, renamed there": ({"vllm/a.py": BODY.replace(b"= 3\n", b"= 'ours'\n")}, {"vllm/sub/c.py": BODY}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_renames_of_either_side_end_as_gits_do(case: str, tmp_path: Path) -> None:
    if git_version() < (2, 38):
        pytest.skip("the judge, git merge-tree, needs git 2.38")
    rest = {"vllm/__init__.py": b""}
    after, new = CASES[case]
    old = {**rest, "vllm/a.py": BODY}
    judge = Judge(tmp_path / "git", old, rest | new)
    clean, tree = judge.merge(old, rest | after)
    answer = judged(tmp_path, old, rest | new, rest | after)
    [one] = answer.overlays
    assert (one.verdict != "conflict") == clean, one
    if clean:
        names = judge.changed(tree)
        listed = set(git(judge.folder, "ls-tree", "-r", "--name-only", tree).decode().split())
        assert answer.over() == {name: judge.read(tree, name) if name in listed else None for name in names}


def test_nothing_is_read_when_no_file_is_missing(tmp_path: Path) -> None:
    files = {"vllm/__init__.py": b"", "vllm/a.py": BODY}

    def never() -> PackageTree:
        raise AssertionError

    steps = run_steps(
        [overlay("x", git_diff(tmp_path, files, {**files, "vllm/a.py": BODY + b"more = 1\n"}))], DictTree(files), "vllm"
    )
    answer = judge_stack(
        steps, DictTree(files), base="new", find_moves=Moves(set(files), never, DictTree(files), ("vllm",)).find
    )
    assert [each.verdict for each in answer.overlays] == ["applies"]


@pytest.mark.parametrize("ending", ["py", "json", "jinja"])
def test_a_file_of_any_kind_is_followed_and_one_that_moved_is_not_deleted(ending: str, tmp_path: Path) -> None:
    """A deletion would be lost: the file is not where it was, and is in the image all the same."""
    lines = b"".join(b"x%d = 1\n" % number for number in range(30))
    old, new = ({"vllm/__init__.py": b"", f"vllm/{path}.{ending}": lines} for path in ("a", "sub/b"))
    changed = judged(tmp_path / "1", old, new, {**old, f"vllm/a.{ending}": lines + b"more = 1\n"})
    assert changed.over() == {f"vllm/sub/b.{ending}": lines + b"more = 1\n"}
    deleted = judged(tmp_path / "2", old, new, {"vllm/__init__.py": b""})
    [one] = deleted.overlays
    assert one.verdict == "conflict"
    assert [each.why for each in one.conflicts] == [f"change deletes a file that new has moved to vllm/sub/b.{ending}"]


def test_names_that_git_would_quote_are_found() -> None:
    assert renames({"vllm/ä b.py": BODY}, {"vllm/ü\tc.py": BODY}) == {"vllm/ä b.py": "vllm/ü\tc.py"}
    assert renames({"vllm/a.py": BODY}, {"vllm/b.py": b"nothing = 1\n" * 40}) == {}


def test_a_base_without_a_record_is_walked_and_what_cannot_be_known_is_not_said(tmp_path: Path) -> None:
    old = {"vllm/__init__.py": b"", "vllm/a.py": BODY}
    new = {"vllm/__init__.py": b"", "vllm/sub/b.py": BODY}
    steps = run_steps(
        [overlay("x", git_diff(tmp_path, old, {**old, "vllm/a.py": BODY + b"more = 1\n"}))], DictTree(old), "vllm"
    )

    def gone() -> PackageTree:
        raise InputError("gone")

    walked = judge_stack(
        steps, DictTree(new), base="new", find_moves=Moves((), lambda: DictTree(old), DictTree(new), ("vllm",)).find
    )
    assert walked.moved == {"vllm/a.py": "vllm/sub/b.py"}
    unknown = judge_stack(steps, DictTree(new), base="new", find_moves=Moves((), gone, DictTree(new), ("vllm",)).find)
    assert [each.why for each in unknown.overlays[0].conflicts] == ["x changes a file that new does not have"]
