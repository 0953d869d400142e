"""Three-way merges of one overlay's files, by `git merge-file`."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import InputError
from builder.overlay.stack import Content, Tree
from builder.process import run

_HINT = "install git (Debian: apt-get install git)"


@dataclass(frozen=True)
class Conflict:
    """Where a file cannot be merged. `line` is that of the first marker in `shown`, which has both sides and what was before."""

    path: str
    why: str
    line: int = 0
    shown: str = ""


@dataclass(frozen=True)
class Merged:
    """The files after a merge, without those in conflict, and the conflicts."""

    tree: Tree = field(repr=False)
    conflicts: tuple[Conflict, ...]


def merge_overlay(before: Tree, after: Tree, ours: Tree, paths: Collection[str], *, base: str, overlay: str) -> Merged:
    """Bring what an overlay did (`before` to `after`, on the old base) to the files of the new base (`ours`).

    `base` and `overlay` name the two sides in conflict markers.
    """
    result = dict(ours)
    conflicts: list[Conflict] = []
    for path in sorted(paths):
        old, theirs, mine = before.get(path), after.get(path), ours.get(path)
        if theirs in (old, mine):
            continue
        if mine == old:
            _put(result, path, theirs)
        elif mine is None:
            conflicts.append(Conflict(path, f"{overlay} changes a file that {base} does not have"))
        elif theirs is None:
            conflicts.append(Conflict(path, f"{overlay} deletes a file that {base} has changed"))
        else:
            data, found = _merge_file(path, old.data if old else b"", theirs.data, mine.data, base, overlay)
            conflicts += found
            if not found:
                flipped = old is not None and old.executable != theirs.executable
                result[path] = Content(data, theirs.executable if flipped else mine.executable)
    return Merged(result, tuple(conflicts))


def _put(tree: Tree, path: str, content: Content | None) -> None:
    if content is None:
        tree.pop(path, None)
    else:
        tree[path] = content


def _merge_file(
    path: str, old: bytes, theirs: bytes, ours: bytes, base: str, overlay: str
) -> tuple[bytes, list[Conflict]]:
    with tempfile.TemporaryDirectory(prefix="builder-merge-") as name:
        folder = Path(name)
        for file, data in (("ours", ours), ("old", old), ("theirs", theirs)):
            (folder / file).write_bytes(data)
        done = run(
            ["git", "merge-file", "-p", "--diff3", "-L", base, "-L", f"before {overlay}", "-L", overlay, "ours", "old", "theirs"],
            cwd=folder, extra_env={"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_DIR": "/dev/null"},
        )  # fmt: skip
    # The exit code is the number of conflicts, 127 at the most; a failure is 128 and more, or a refusal of its own.
    if done.returncode == 0:
        return done.stdout, []
    if done.returncode > 127 or not done.stdout:
        raise InputError(f"git cannot merge {path}", details=[("said", done.output[-300:])], hint=_HINT)
    return b"", _conflicts(path, done.stdout)


def _conflicts(path: str, merged: bytes) -> list[Conflict]:
    """Every region between markers, with its line in the file as it would be with all markers."""
    found: list[Conflict] = []
    region: list[str] = []
    start = 0
    for number, line in enumerate(merged.decode("utf-8", "replace").split("\n"), 1):
        if line.startswith("<<<<<<< "):
            region, start = [], number
        if start:
            region.append(line)
        if start and line.startswith(">>>>>>> "):
            found.append(Conflict(path, "both sides changed these lines", start, "\n".join(region)))
            start = 0
    return found
