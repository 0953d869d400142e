"""Three-way merges of one overlay's files, by `git merge-file`."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.patch.model import StackResult
from builder.patch.stack import stack_file
from builder.patch.tree import Content, Tree
from builder.patch.unified import unified_diff
from builder.util.errors import InputError
from builder.util.process import run

_HINT = "install git (Debian: apt-get install git)"


@dataclass(frozen=True)
class Conflict:
    """Where a file cannot be merged: from `line` (0: as a whole) of the new base's. `shown` has both sides and what was before."""

    path: str
    why: str
    line: int = 0
    shown: str = ""


@dataclass(frozen=True)
class LineMerge:
    """A file that git merged line by line, cleanly. `labels` are for the new base's, the old and the overlay's lines."""

    path: str
    old: bytes = field(repr=False)
    theirs: bytes = field(repr=False)
    ours: bytes = field(repr=False)
    result: bytes = field(repr=False)
    labels: tuple[str, str, str]


@dataclass(frozen=True)
class Merged:
    """The files after a merge, without those in conflict, and the conflicts. `lines` are those that both sides changed."""

    tree: Tree = field(repr=False)
    conflicts: tuple[Conflict, ...]
    lines: tuple[LineMerge, ...] = ()


@dataclass(frozen=True)
class Sides:
    """The three trees of a merge, and what moved: `before` and `after` an overlay on the old base, `ours` of the new base.

    `moved`: where the new base has a file of the old one. `deleted`: what it has nowhere. `renamed`: what the overlay renames.
    """

    before: Tree = field(repr=False)
    after: Tree = field(repr=False)
    ours: Tree = field(repr=False)
    base: str
    overlay: str
    moved: Mapping[str, str] = field(default_factory=dict)
    deleted: Collection[str] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


def merge_overlay(sides: Sides, paths: Collection[str]) -> Merged:
    """Bring what an overlay did to `paths` to the files of the new base."""
    result = dict(sides.ours)
    conflicts: list[Conflict] = []
    lines: list[LineMerge] = []
    for path in sorted(set(paths) - set(sides.renamed.values())):
        conflicts += _merge_path(sides, path, result, lines)
    return Merged(result, tuple(conflicts), tuple(lines))


def _merge_path(sides: Sides, path: str, result: Tree, lines: list[LineMerge]) -> list[Conflict]:
    """Merge one file into `result`: what to do with it is decided here, its lines by git."""
    base, overlay = sides.base, sides.overlay
    target = sides.renamed.get(path, path)
    here = sides.moved.get(path, path)
    old, theirs, mine = sides.before.get(path), sides.after.get(target), sides.ours.get(here)
    if target != path:
        if mine is None and sides.ours.get(target) == theirs:
            return []
        if here not in (path, target):
            return [Conflict(path, f"{overlay} moves it to {target}, {base} has it as {here}")]
        if here == path and target in sides.ours:
            return [Conflict(target, f"{overlay} moves {path} here, and {base} has another file of that name")]
    elif theirs in (old, mine):
        return []
    if mine is None and old is not None:
        return [Conflict(path, _gone(sides, path), shown=_change(path, old, theirs))]
    if theirs is None:
        if mine == old and here == path:
            result.pop(path, None)
            return []
        what = f"moved to {here}" if here != path else "changed"
        return [Conflict(here, f"{overlay} deletes a file that {base} has {what}")]
    data = theirs.data
    found: list[Conflict] = []
    if mine is not None and mine != old:
        names = (here, path, target) if here != target else None
        before = old.data if old else b""
        data, found = _merge_file(here, before, theirs.data, mine.data, _labels(sides, names))
        if not found:
            lines.append(LineMerge(here, before, theirs.data, mine.data, data, _labels(sides, names)))
    if not found:
        mode = theirs if mine is None or (old is not None and old.executable != theirs.executable) else mine
        if target != path:
            result.pop(here, None)
        result[target if target != path else here] = Content(data, mode.executable)
    return found


def _gone(sides: Sides, path: str) -> str:
    if path in sides.deleted:
        return f"{sides.base} has deleted this file, and has no new one that resembles it; {sides.overlay} changes it"
    return f"{sides.overlay} changes a file that {sides.base} does not have"


def _change(path: str, old: Content, theirs: Content | None) -> str:
    """What the overlay does to a file, for a conflict that has no other side."""
    if theirs is None:
        return ""
    change = stack_file(path, old, theirs)
    return unified_diff(StackResult((change,), (), True)).rstrip("\n")


def _labels(sides: Sides, names: tuple[str, str, str] | None) -> tuple[str, str, str]:
    """What stands behind the markers; `names` are the file's names in the new base, in the old one and after the overlay."""
    labels = (sides.base, f"before {sides.overlay}", sides.overlay)
    if names is None:
        return labels
    mine, old, theirs = (f"{label}: {name}" for label, name in zip(labels, names, strict=True))
    return mine, old, theirs


def _merge_file(
    path: str, old: bytes, theirs: bytes, ours: bytes, labels: tuple[str, str, str]
) -> tuple[bytes, list[Conflict]]:
    with tempfile.TemporaryDirectory(prefix="builder-merge-") as name:
        folder = Path(name)
        for file, data in (("ours", ours), ("old", old), ("theirs", theirs)):
            (folder / file).write_bytes(data)
        done = run(
            ["git", "merge-file", "-p", "--diff3", *(word for label in labels for word in ("-L", label)), "ours", "old", "theirs"],
            cwd=folder, extra_env=quiet(Path("/dev/null")),
        )  # fmt: skip
    # The exit code is the number of conflicts, 127 at the most; a failure is 128 and more, or a refusal of its own.
    if done.returncode == 0:
        return done.stdout, []
    if done.returncode > 127 or not done.stdout:
        raise git_failed(path, done.output)
    return b"", conflicts_of(path, done.stdout, ours)


def quiet(folder: Path) -> dict[str, str]:
    """git for the repository `folder`, without the user's configuration and attributes."""
    settings = {"core.attributesFile": "/dev/null", "core.autocrlf": "false"}
    pairs = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        pairs |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    return {
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1", "GIT_DIR": str(folder), **pairs
    }  # fmt: skip


def git_failed(path: str, output: str) -> InputError:
    """What to raise when git neither merges nor sees a conflict."""
    return InputError(f"git cannot merge {path}", details=[("output", output[-300:])], hint=_HINT)


def conflicts_of(path: str, merged: bytes, ours: bytes, why: str = "both sides changed these lines") -> list[Conflict]:
    """Every region between markers, with the line of the new base's file (`ours`) where it begins."""
    found: list[Conflict] = []
    here = ours.decode("utf-8", "replace").split("\n")
    region: list[str] = []
    mine: list[str] = []
    inside, side = False, ""
    clean = 0
    for line in merged.decode("utf-8", "replace").split("\n"):
        if line.startswith("<<<<<<< "):
            region, mine, inside, side = [], [], True, "ours"
        elif inside and line.startswith("||||||| "):
            side = "before"
        if inside:
            region.append(line)
            if side == "ours" and len(region) > 1:
                mine.append(line)
        else:
            clean += 1
        if inside and line.startswith(">>>>>>> "):
            start = _begin(here, mine, clean)
            found.append(Conflict(path, why, start + 1, "\n".join(region)))
            clean += len(mine)
            inside = False
    return found


def _begin(lines: list[str], block: list[str], near: int) -> int:
    """Where `block` begins in `lines`, the place that is nearest to `near` when there are several.

    What the other side adds elsewhere moves lines of the merged file, so that counting alone does not tell.
    """
    spots = [index for index in range(len(lines) - len(block) + 1) if lines[index : index + len(block)] == block]
    return min(spots, key=lambda index: abs(index - near), default=near) if block else min(near, len(lines))
