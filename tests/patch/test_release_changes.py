"""Changes between releases of vLLM as pull requests would carry them: what `git apply` makes of them, or refused by both.

Where a second overlay follows a first one, git takes the nearest place that fits, which can be the wrong one: the truth is
what all hunks give together, in the release that they were made for.
GNU patch applies for us, and by its own rules it would sometimes do something else; these cases are counted and shown.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from builder.patch import gnupatch
from builder.patch.diff import canonical, parse, patch_input
from builder.patch.model import FileChange, Hunk
from builder.patch.stack import apply_stack
from builder.patch.tree import StackError
from tests.support.pytrees import package_tree
from tests.support.trees import DictTree, overlay, write_tree

RELEASES = ("0.19.0", "0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.1", "0.25.1", "0.26.0", "0.29.0", "0.33.0")
# Result files need not be Python: a part of a change often is not.
NAME = "vllm/file%d.txt"
RUNS = 150
Files = dict[str, bytes]


@functools.cache
def tree(version: str) -> dict[str, Path]:
    root = package_tree(version)
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}


@functools.cache
def changed(old: str, new: str) -> tuple[str, ...]:
    """The files that two releases share and that differ."""
    left, right = tree(old), tree(new)
    return tuple(
        path for path in sorted(left.keys() & right.keys()) if left[path].read_bytes() != right[path].read_bytes()
    )


@functools.cache
def change_of(old: str, new: str, path: str, context: int) -> FileChange:
    """All of a file's change, as git makes a diff of it."""
    done = subprocess.run(
        ["git", "diff", "--no-index", "--no-color", f"-U{context}", str(tree(old)[path]), str(tree(new)[path])],
        capture_output=True, check=False, env={"PATH": "/usr/bin:/bin", "HOME": "/", "GIT_CONFIG_NOSYSTEM": "1"},
    )  # fmt: skip
    body = done.stdout[done.stdout.index(b"@@ ") :]
    return parse(b"diff --git a/vllm/x b/vllm/x\n--- a/vllm/x\n+++ b/vllm/x\n" + body, "diff").changes[0]


def part(name: str, change: FileChange, chosen: Sequence[bool]) -> bytes:
    """The diff of one file with some of a change's hunks, numbered as a diff that has only these."""
    if not any(chosen):
        return b""
    shift = 0
    hunks: list[Hunk] = []
    for hunk, taken in zip(change.hunks, chosen, strict=True):
        if taken:
            start = hunk.old_start + shift + (1 if not hunk.old_count else 0) - (1 if not hunk.new_count else 0)
            hunks.append(replace(hunk, new_start=start))
            shift += hunk.new_count - hunk.old_count
    return canonical([replace(change, old_path=name, new_path=name, hunks=tuple(hunks))])


def ours(base: Files, diffs: Sequence[bytes]) -> Files | StackError:
    try:
        result = apply_stack([overlay(f"{n}", diff) for n, diff in enumerate(diffs)], DictTree(base))
    except StackError as error:
        return error
    return base | {file.path: file.after or b"" for file in result.files}


def judged(base: Files, diffs: Sequence[bytes], *, by: str) -> Files | None:
    """The files after `git apply` or GNU patch, or None when it refuses."""
    with tempfile.TemporaryDirectory() as name:
        write_tree(Path(name), base)
        for diff in diffs:
            if by == "git":
                done = subprocess.run(
                    ["git", "apply", "--whitespace=nowarn", "-"], cwd=name, input=diff, capture_output=True, check=False,
                    env={"PATH": "/usr/bin:/bin", "HOME": name, "GIT_CONFIG_NOSYSTEM": "1", "GIT_DIR": "/dev/null"},
                )  # fmt: skip
                code = done.returncode
            else:
                with gnupatch.applying(patch_input(parse(diff, "x").changes), name, fuzz=0) as finish:
                    code = finish().returncode
            if code:
                return None
        return {path: Path(name, path).read_bytes() for path in base}


@pytest.mark.wheels
def test_what_git_makes_of_changes_between_releases_is_what_we_make(capsys: pytest.CaptureFixture[str]) -> None:
    counted: Counter[str] = Counter()
    listed: list[str] = []

    @settings(
        max_examples=RUNS, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(RELEASES) - 2))
        old, new = RELEASES[number], RELEASES[number + 1]
        # Several files of the release that the diffs are made for; one alone on another, where one failure is all.
        near = RELEASES[max(0, number - 1) : number + 2]
        target = data.draw(st.sampled_from([old, old, *near]))
        known = [path for path in changed(old, new) if path in tree(target)]
        count = data.draw(st.integers(5, 8)) if target == old else 1
        paths = data.draw(st.lists(st.sampled_from(known), min_size=count, max_size=count, unique=True))
        context = data.draw(st.sampled_from([3, 3, 3, 2, 1]))
        base: Files = {}
        parts, both = [b"", b""], b""
        for index, path in enumerate(paths):
            name, change = NAME % index, change_of(old, new, path, context)
            base[name] = tree(target)[path].read_bytes()
            # One overlay with some of the hunks, a second one, made for the same release, with some of the others.
            where = data.draw(st.lists(st.integers(0, 3), min_size=len(change.hunks), max_size=len(change.hunks)))
            for which in (0, 1):
                parts[which] += part(name, change, [each == which for each in where])
            both += part(name, change, [each < 2 for each in where])
        diffs = [each for each in parts if each]
        if not diffs:
            return
        mine, theirs, bare = ours(base, diffs), judged(base, diffs, by="git"), judged(base, diffs, by="patch")
        where_from = f"{', '.join(paths)} {old} -> {new} on {target}, {len(diffs)} overlays"
        counted["file changes"] += len(paths)
        if isinstance(mine, dict):
            counted["applied"] += len(paths)
            # On the release that they were made for, all hunks at once are the truth.
            truth = judged(base, [both], by="git") if target == old and len(diffs) > 1 else theirs
            assert mine == truth, where_from
            if theirs != truth:
                counted["git apply takes another block for the one that is meant"] += 1
                listed.append(f"git apply: {where_from}")
        elif theirs is None:
            counted["refused by both"] += len(paths)
        else:
            # Lines that repeat, or a result that is there already: git takes the nearest place, and we say which there are.
            causes = {each.cause for each in mine.failures}
            assert causes & {"ambiguous", "already-supplied", "already-in-base"}, (where_from, mine.failures)
            counted["a tie, which git settles by distance"] += len(paths)
            listed.append(f"tie: {where_from}")
        if bare != theirs:
            counted["GNU patch alone differs"] += len(paths)
            listed.append(f"GNU patch: {where_from}")

    run()
    with capsys.disabled():
        print(f"\n{dict(counted)}")
        print("\n".join(f"  {each}" for each in dict.fromkeys(listed)))
    assert counted["file changes"] >= 400
    assert counted["a tie, which git settles by distance"] <= counted["file changes"] // 10
