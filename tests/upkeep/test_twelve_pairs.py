"""Three real changes (0.20.0 to 0.20.1, 0.20.1 to 0.20.2, 0.20.0 to 0.20.2) on four real bases, judged by `git cherry-pick`.

git merges whole trees with its own machinery; our answer goes file by file and hunk by hunk. They must agree on which
files conflict, and on every byte of those that do not.
"""

from __future__ import annotations

import functools
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from builder.base.model import Distribution
from builder.patch.stack import run_steps
from builder.patch.tree import Tree
from builder.upkeep.rebase.judge import judge_stack
from builder.upkeep.rebase.profiles import judge_profiles
from tests.support.pytrees import package_tree
from tests.support.trees import DictTree, git, git_diff, git_diffs, overlay, write_tree
from tests.support.wheels import python_files, some_files

pytestmark = pytest.mark.wheels

CHANGES = [("0.20.0", "0.20.1"), ("0.20.1", "0.20.2"), ("0.20.0", "0.20.2")]
BASES = ["0.20.0", "0.20.1", "0.20.2", "0.21.0"]
SERVER = "vllm/entrypoints/openai/cli_args.py"
Files = dict[str, bytes]


@functools.cache
def changed_paths() -> frozenset[str]:
    """Every file that one of the changes touches (44 of them)."""
    trees = [python_files(version) for version in BASES[:3]]
    names = set().union(*trees)
    return frozenset(name for name in names if len({tree.get(name) for tree in trees}) > 1)


@functools.cache
def release(version: str) -> Files:
    """What a release has of these files."""
    return some_files(version, changed_paths())


def cherry_picked(folder: Path, old: Files, new: Files, base: Files) -> tuple[Files, set[str]]:
    """The tree after picking the change onto the base, and the files in conflict."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "old")

    def commit(files: Files, message: str) -> str:
        git(folder, "rm", "-rfq", "--ignore-unmatch", ".")
        write_tree(folder, files)
        git(folder, "add", "-A", "-f")
        git(folder, "commit", "-q", "--allow-empty", "-m", message)
        return git(folder, "rev-parse", "HEAD").decode().strip()

    start = commit(old, "old")
    change = commit(new, "new")
    git(folder, "checkout", "-q", "-b", "base", start)
    commit(base, "base")
    subprocess.run(
        ["git", "-c", "merge.renames=false", "cherry-pick", "--no-commit", change],
        cwd=folder, capture_output=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"},
    )  # fmt: skip
    conflicts = set(git(folder, "diff", "--name-only", "--diff-filter=U").decode().split())
    tree = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }
    return tree, conflicts


def data_of(tree: Tree) -> Files:
    return {path: content.data for path, content in tree.items()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("change", CHANGES, ids="-".join)
def test_the_answer_is_gits(change: tuple[str, str], base: str, tmp_path: Path) -> None:
    old, new, target = release(change[0]), release(change[1]), release(base)
    tree, conflicts = cherry_picked(tmp_path / "judge", old, new, target)
    diff = git_diff(tmp_path / "diff", old, new)
    answer = judge_stack(run_steps([overlay("change", diff)], DictTree(old), "vllm"), DictTree(target), base=base)
    [judged], after = answer.overlays, answer.after
    assert {each.path for each in judged.conflicts} == conflicts
    if conflicts:
        assert judged.verdict == "conflict"
        assert all("=======" in each.shown for each in judged.conflicts if each.line)
        assert data_of(after).items() <= target.items()
    else:
        assert data_of(after).items() <= tree.items()
        assert judged.verdict == ("already in" if tree == target else judged.verdict)
        assert judged.verdict in ("applies", "merges", "already in")
    # The same files one by one: each gets its own answer, the right one.
    diffs = git_diffs(tmp_path / "singles", old, new)
    singles = [overlay(path, diff) for path, diff in diffs.items()]
    single = judge_stack(run_steps(singles, DictTree(old), "vllm"), DictTree(target), base=base)
    for one in single.overlays:
        assert (one.verdict == "conflict") == (one.id in conflicts), one.id
        if one.verdict != "conflict":
            found = single.after.get(one.id)
            assert (found.data if found else None) == tree.get(one.id), one.id
            assert (one.verdict == "already in") == (tree.get(one.id) == target.get(one.id)), one.id
        if one.verdict == "merges":
            steps = run_steps([overlay(one.id, one.diff)], DictTree(target), "vllm")
            again = judge_stack(steps, DictTree(target), base=base)
            assert [each.verdict for each in again.overlays] == ["applies"]
    _known_counts(change, base, Counter(one.verdict for one in single.overlays))


def _known_counts(change: tuple[str, str], base: str, counts: Counter[str]) -> None:
    """What was seen once and looked at: a change in these figures is a change in the answers."""
    if base == change[0]:
        assert set(counts) == {"applies"}
    elif base == change[1]:
        assert set(counts) == {"already in"}
    elif base == "0.21.0":
        assert counts["already in"] > 0
        assert counts["conflict"] > 0


@pytest.mark.parametrize("version", ["0.20.0", "0.21.0"])
def test_which_flags_of_the_profiles_a_version_knows(version: str, tmp_path: Path) -> None:
    root = package_tree(version)
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")}
    tree = DictTree(files, distribution=Distribution("vllm", version, f"vllm-{version}.dist-info"))
    paths = sorted((Path(__file__).parents[2] / "profiles").glob("*.yaml"))
    stock = judge_profiles(paths, tree, {})
    assert stock.unknown == ()
    assert [each.finding.message for each in stock.findings] == []
    odd = tmp_path / "odd.yaml"
    odd.write_text("name: odd\nflags: {max-model-length: 1, no-enable-prefix-caching: true, overlay-flag: 3}\n")
    near = {"profile": "odd", "flag": "max-model-length", "near": "max-model-len"}
    assert judge_profiles([odd], tree, {}).unknown == (near, {"profile": "odd", "flag": "overlay-flag", "near": None})
    # A flag that the stack adds is known.
    flag = b'    parser.add_argument("--overlay-flag", type=int, default=1)\n'
    line = b"    parser = FrontendArgs.add_cli_args(parser)\n"
    assert files[SERVER].count(line) == 1
    patched = judge_profiles([odd], tree, {SERVER: files[SERVER].replace(line, flag + line)})
    assert patched.unknown == (near,)
    # So is a value that a version does not take any more, and a name that it does not register.
    odd.write_text("name: odd\nflags: {kv-cache-dtype: fp8_never, reasoning-parser: gone}\n")
    lost = judge_profiles([odd], tree, {})
    assert lost.unknown == ()
    assert {each.finding.rule for each in lost.findings} == {"bad-choice", "unknown-name"}
