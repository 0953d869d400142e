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
from tests.support.trees import DictTree, overlay

RELEASES = ("0.19.0", "0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.1", "0.26.0", "0.29.0", "0.33.0")
# Result files need not be Python: a part of a change often is not.
NAME = "vllm/file.txt"
CHANGES = 420


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
    return parse(f"--- a/{NAME}\n+++ b/{NAME}\n".encode() + body, "diff").changes[0]


def part(change: FileChange, chosen: Sequence[bool]) -> bytes:
    """The diff with some of a change's hunks, numbered as a diff that has only these."""
    shift = 0
    hunks: list[Hunk] = []
    for hunk, taken in zip(change.hunks, chosen, strict=True):
        if taken:
            start = hunk.old_start + shift + (1 if not hunk.old_count else 0) - (1 if not hunk.new_count else 0)
            hunks.append(replace(hunk, new_start=start))
            shift += hunk.new_count - hunk.old_count
    return canonical([replace(change, hunks=tuple(hunks))])


def ours(base: bytes, diffs: Sequence[bytes]) -> bytes | StackError:
    try:
        result = apply_stack([overlay(f"{n}", diff) for n, diff in enumerate(diffs)], DictTree({NAME: base}))
    except StackError as error:
        return error
    return next((file.after or b"" for file in result.files), base)


def gits(base: bytes, diffs: Sequence[bytes]) -> bytes | None:
    with tempfile.TemporaryDirectory() as name:
        target = Path(name, NAME)
        target.parent.mkdir()
        target.write_bytes(base)
        for diff in diffs:
            done = subprocess.run(
                ["git", "apply", "--whitespace=nowarn", "-"], cwd=name, input=diff, capture_output=True, check=False,
                env={"PATH": "/usr/bin:/bin", "HOME": name, "GIT_CONFIG_NOSYSTEM": "1", "GIT_DIR": "/dev/null"},
            )  # fmt: skip
            if done.returncode:
                return None
        return target.read_bytes()


def patchs(base: bytes, diffs: Sequence[bytes]) -> bytes | None:
    with tempfile.TemporaryDirectory() as name:
        target = Path(name, NAME)
        target.parent.mkdir()
        target.write_bytes(base)
        for diff in diffs:
            if gnupatch.apply(patch_input(parse(diff, "x").changes), Path(name), fuzz=0).returncode:
                return None
        return target.read_bytes()


@pytest.mark.wheels
def test_what_git_makes_of_changes_between_releases_is_what_we_make(capsys: pytest.CaptureFixture[str]) -> None:
    counted: Counter[str] = Counter()
    listed: list[str] = []

    @settings(
        max_examples=CHANGES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(RELEASES) - 2))
        old, new = RELEASES[number], RELEASES[number + 1]
        path = data.draw(st.sampled_from(changed(old, new)))
        change = change_of(old, new, path, data.draw(st.sampled_from([3, 3, 3, 2, 1])))
        # One overlay with some of the hunks, and often a second one, made for the same release, with some of the others.
        where = data.draw(st.lists(st.integers(0, 3), min_size=len(change.hunks), max_size=len(change.hunks)))
        parts = [[each == 0 for each in where], [each == 1 for each in where]]
        diffs = [part(change, chosen) for chosen in parts if any(chosen)] or [part(change, [True] * len(where))]
        having = [version for version in RELEASES if path in tree(version)]
        near = [version for version in having if abs(RELEASES.index(version) - number) <= 1]
        target = data.draw(st.sampled_from([old, old, *near]))
        base = tree(target)[path].read_bytes()
        mine, theirs, bare = ours(base, diffs), gits(base, diffs), patchs(base, diffs)
        counted["changes"] += 1
        where_from = f"{path} {old} -> {new} on {target}, {len(diffs)} overlays"
        if isinstance(mine, bytes):
            counted["applied"] += 1
            # On the release that they were made for, all hunks at once are the truth.
            both = [any(each) for each in zip(*parts, strict=True)]
            truth = gits(base, [part(change, both)]) if target == old and len(diffs) > 1 else theirs
            assert mine == truth, where_from
            if theirs != truth:
                counted["git apply takes another block for the one that is meant"] += 1
                listed.append(f"git apply: {where_from}")
        elif theirs is None:
            counted["refused by both"] += 1
        else:
            # Lines that repeat, or a result that is there already: git takes the nearest place, and we say which there are.
            causes = {each.cause for each in mine.failures}
            assert causes & {"ambiguous", "already-supplied", "already-in-base"}, (where_from, mine.failures)
            counted["a tie, which git settles by distance"] += 1
            listed.append(f"tie: {where_from}")
        if bare != theirs:
            counted["GNU patch alone differs"] += 1
            listed.append(f"GNU patch: {where_from}")

    run()
    with capsys.disabled():
        print(f"\n{dict(counted)}")
        print("\n".join(f"  {each}" for each in listed))
    assert counted["changes"] >= 400
    assert counted["applied"] >= 150
    assert counted["a tie, which git settles by distance"] <= counted["changes"] // 20
