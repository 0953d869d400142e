"""The stack: overlays applied in order, each completely or not at all, on a private copy of just the files concerned.

GNU patch applies (facts of its behaviour: docs/overlays.md). Its exit code alone is not trusted: after each overlay the
tree is compared with what the hunks say, file by file and byte by byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.base.model import BaseFile, PackageTree
from builder.patch import gnupatch
from builder.patch.diagnose.report import explain
from builder.patch.diff import patch_input
from builder.patch.model import (
    AppliedHunk,
    AppliedOverlay,
    FileChange,
    HunkFailure,
    Overlay,
    StackFile,
    StackResult,
)
from builder.patch.placement import in_place
from builder.patch.select import Selection, select
from builder.patch.syntax import syntax_problem
from builder.patch.tree import Content, StackError, Step, Tree, apply_change


def apply_stack(overlays: Sequence[Overlay], tree: PackageTree, package: str = "vllm") -> StackResult:
    """Apply `overlays` in order to the base's `tree`.

    Raises `StackError` (exit 3) when one does not apply, `InputError` (exit 2) when one cannot be delivered at all.
    """
    steps = run_steps(overlays, tree, package)
    applied: list[AppliedOverlay] = []
    for step in steps:
        overlay, selection = step.overlay, step.selection
        touched = {path for change in selection.changes for path in (change.old_path, change.new_path) if path}
        applied.append(
            AppliedOverlay(overlay.id, overlay.diff.digest, tuple(sorted(touched)), step.hunks, selection.dropped)
        )
    base, current = (steps[0].before, steps[-1].after) if steps else ({}, {})
    _check_syntax(steps, base, current, tree.python)
    return _result(applied, base, current)


def run_steps(overlays: Sequence[Overlay], tree: PackageTree, package: str) -> list[Step]:
    """The stack overlay by overlay, with the files concerned before and after each. Raises as `apply_stack` does."""
    selections = [select(overlay, package) for overlay in overlays]
    steps: list[Step] = []
    current = read_base(overlays, selections, tree)
    for index, (overlay, selection) in enumerate(zip(overlays, selections, strict=True)):
        after, hunks = apply_overlay(overlay, selection, current, steps, overlays[index + 1 :])
        steps.append(Step(overlay, selection, current, after, hunks))
        current = after
    return steps


def read_base(overlays: Sequence[Overlay], selections: Sequence[Selection], tree: PackageTree) -> Tree:
    """The files that the overlays concern, as the base has them."""
    paths = {
        path
        for selection in selections
        for change in selection.changes
        for path in (change.old_path, change.new_path)
        if path is not None
    }
    found = tree.read(sorted(paths))
    for path, entry in found.items():
        if entry.kind != "file":
            raise _not_a_file(path, entry, overlays, selections)
    return {path: Content(entry.data, bool(entry.mode & 0o100)) for path, entry in found.items()}


def _not_a_file(path: str, entry: BaseFile, overlays: Sequence[Overlay], selections: Sequence[Selection]) -> StackError:
    def concerns(change: FileChange) -> bool:
        return any(each == path or (each or "").startswith(f"{path}/") for each in (change.old_path, change.new_path))

    overlay, change = next(
        (overlay, change)
        for overlay, selection in zip(overlays, selections, strict=True)
        for change in selection.changes
        if concerns(change)
    )
    what = {"symlink": f"a symbolic link to {entry.target}", "directory": "a folder"}.get(entry.kind, "no regular file")
    failure = HunkFailure(change.path, 0, change.diff_line, "type", f"{path} is {what} in the base")
    return StackError(
        f"overlay {overlay.id} changes {change.path}, but {path} is {what} in the base",
        overlay=overlay.id,
        failures=[failure],
        details=[("where", f"{overlay.where}, line {change.diff_line}")],
        hint="nothing is ever written through a link or over a folder; the overlay is not made for this base",
    )


def apply_overlay(
    overlay: Overlay, selection: Selection, before: Tree, steps: Sequence[Step], later: Sequence[Overlay]
) -> tuple[Tree, tuple[AppliedHunk, ...]]:
    """One overlay on a private copy: the tree after it, and where its hunks went."""
    concerned = {path for change in selection.changes for path in (change.old_path, change.new_path) if path}
    with tempfile.TemporaryDirectory(prefix="builder-stack-") as name:
        folder = Path(name)
        for path in sorted(concerned & before.keys()):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(before[path].data)
            target.chmod(before[path].mode)
        done = gnupatch.apply(patch_input(selection.changes), folder, fuzz=overlay.fuzz)
        found = _read_folder(folder) if done.returncode == 0 else {}
    placed = {(each.section, each.number): each for each in gnupatch.read_placed(done.stdout)}
    expected, hunks = _expected(selection.changes, before, placed)
    if done.returncode == 0 and expected is not None:
        untouched = {path: content for path, content in before.items() if path not in concerned}
        if _modes_of(found, expected) == expected and (overlay.fuzz or in_place(selection, before, steps)):
            return {**untouched, **expected}, hunks
    raise explain(overlay, selection, before, steps, later, said=done.output)


def _read_folder(folder: Path) -> Tree:
    """Everything in the folder, links included: a stray `.orig` or `.rej` makes the comparison fail."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            name = path.relative_to(folder).as_posix()
            data = b"" if path.is_symlink() else path.read_bytes()
            found[name] = Content(data, bool(path.lstat().st_mode & 0o100))
    return found


def _modes_of(found: Tree, expected: Tree) -> Tree:
    """`found` with the expected modes: the umask of whoever runs this decides what GNU patch gives a new file."""
    return {
        path: Content(content.data, expected[path].executable if path in expected else content.executable)
        for path, content in found.items()
    }


def _expected(
    changes: Sequence[FileChange], before: Tree, placed: Mapping[tuple[int, int], gnupatch.Placed]
) -> tuple[Tree | None, tuple[AppliedHunk, ...]]:
    """What the changed files must be, from the hunks themselves at the places that GNU patch reported."""
    concerned = {path for change in changes for path in (change.old_path, change.new_path) if path}
    tree: Tree = {path: before[path] for path in concerned if path in before}
    reported: list[AppliedHunk] = []
    for section, change in enumerate(changes):
        spots = [placed.get((section, number)) for number in range(1, len(change.hunks) + 1)]
        outcome = apply_change(tree, change, spots)
        if outcome is None:
            return None, ()
        tree = outcome
        for number, (hunk, spot) in enumerate(zip(change.hunks, spots, strict=True), 1):
            line = spot.line if spot else max(hunk.new_start, 1)
            reported.append(
                AppliedHunk(
                    change.path, number, hunk.diff_line, line, spot.offset if spot else 0, spot.fuzz if spot else 0
                )
            )
    return tree, tuple(reported)


def _check_syntax(steps: Sequence[Step], base: Tree, after: Tree, python: str) -> None:
    """Every changed Python file must parse with the base's grammar."""
    for path, content in sorted(after.items()):
        if not path.endswith(".py") or base.get(path) == content:
            continue
        problem = syntax_problem(content.data, python)
        if problem is None:
            continue
        owner = next(step.overlay for step in reversed(steps) if step.before.get(path) != step.after.get(path))
        raise StackError(
            f"overlay {owner.id} applies, but {path} is no longer Python {python}",
            overlay=owner.id,
            details=[("where", f"{path}, line {problem.line}"), ("why", problem.message)],
            hint="the overlays do not fit together, or the overlay is written for a newer Python",
        )


def stack_file(path: str, old: Content | None, new: Content | None, overlays: tuple[str, ...] = ()) -> StackFile:
    """One file before and after; None where it is not there."""
    return StackFile(
        path, old.data if old else None, new.data if new else None, new.mode if new else 0o644, overlays,
        old.mode if old else 0o644,
    )  # fmt: skip


def _result(applied: Sequence[AppliedOverlay], base: Tree, after: Tree) -> StackResult:
    files = []
    for path in sorted(base.keys() | after.keys()):
        old, new = base.get(path), after.get(path)
        if old == new:
            continue
        owners = tuple(overlay.id for overlay in applied if path in overlay.files)
        files.append(stack_file(path, old, new, owners))
    seen: set[str] = set()
    disjoint = True
    for overlay in applied:
        disjoint = disjoint and seen.isdisjoint(overlay.files)
        seen |= set(overlay.files)
    return StackResult(tuple(files), tuple(applied), disjoint)
