"""The stack: overlays applied in order, each completely or not at all, on a private copy of just the files concerned.

GNU patch applies (facts of its behaviour: docs/overlays.md). Its exit code alone is not trusted: after each overlay the
tree is compared with what the hunks say, file by file and byte by byte.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from builder.base.model import BaseFile, PackageTree
from builder.base.together import packages_beside
from builder.patch import gnupatch
from builder.patch.diagnose.names import explained
from builder.patch.diagnose.report import explain
from builder.patch.diff import patch_input
from builder.patch.hunks import Text, old_index
from builder.patch.installed import Installed
from builder.patch.model import (
    AppliedHunk,
    AppliedOverlay,
    FileChange,
    Hunk,
    HunkFailure,
    Overlay,
    StackFile,
    StackResult,
)
from builder.patch.placement import Places, resolve
from builder.patch.select import TEST_FOLDERS, NothingEntersError, Selection, select
from builder.patch.syntax import judge
from builder.patch.tree import Content, StackError, Step, Tree, change_at, change_in
from builder.patch.workplace import Workplace, workplace
from builder.util.errors import InputError
from builder.util.process import Finished


def apply_stack(overlays: Sequence[Overlay], tree: PackageTree, package: str = "vllm") -> StackResult:
    """Apply `overlays` in order to the base's `tree`.

    Raises `StackError` (exit 3) when one does not apply, `InputError` (exit 2) when one cannot be delivered at all.
    """
    steps = run_steps(overlays, tree, package)
    applied = [
        AppliedOverlay(
            step.overlay.id, step.overlay.diff.digest, tuple(sorted(_touched(step.selection.changes))), step.hunks,
            step.selection.dropped, step.overlay.packages or (package,),
        )
        for step in steps
    ]  # fmt: skip
    base, current = (steps[0].before, steps[-1].after) if steps else ({}, {})
    not_judged = _check_syntax(steps, base, current, tree.python)
    return replace(_result(applied, base, current), not_judged=not_judged)


def run_steps(overlays: Sequence[Overlay], tree: PackageTree, package: str) -> list[Step]:
    """The stack overlay by overlay, with the files concerned before and after each. Raises as `apply_stack` does."""
    names = dict.fromkeys([package, *(name for overlay in overlays for name in overlay.packages)])
    installed = Installed.of(tree, *names) if overlays else Installed(frozenset())
    others = {*names, *_others(overlays, names, tree)}
    own = {each: installed.within(each) for each in {overlay.packages or (package,) for overlay in overlays}}
    selections = [_select(overlay, package, own[overlay.packages or (package,)], others, tree) for overlay in overlays]
    steps: list[Step] = []
    current = read_base(overlays, selections, tree)
    with workplace() as place:
        for index, (overlay, selection) in enumerate(zip(overlays, selections, strict=True)):
            step = _step(overlay, selection, current, steps, overlays[index + 1 :], place)
            steps.append(step)
            current = step.after
    return steps


def _others(overlays: Sequence[Overlay], names: Collection[str], tree: PackageTree) -> list[str]:
    """Further packages of the base that a diff changes: nobody asked for them, and people should know."""
    paths = {path for overlay in overlays for path in _touched([c for c in overlay.diff.changes if not c.outside])}
    tops = {path.partition("/")[0] for path in paths if "/" in path} - {*names, *TEST_FOLDERS}
    return packages_beside(tree, sorted(tops))


def _select(
    overlay: Overlay, package: str, installed: Installed, others: Collection[str], tree: PackageTree
) -> Selection:
    try:
        return select(overlay, package, installed, others)
    except NothingEntersError as error:
        packages = overlay.packages or (package,)
        raise explained(error, overlay, packages, installed, tree, strip=overlay.strip) from error


def _touched(changes: Sequence[FileChange]) -> set[str]:
    return {path for change in changes for path in (change.old_path, change.new_path) if path is not None}


def read_base(overlays: Sequence[Overlay], selections: Sequence[Selection], tree: PackageTree) -> Tree:
    """The files that the overlays concern, as the base has them."""
    paths = {path for selection in selections for path in _touched(selection.changes)}
    parents = _parents(paths)
    found = tree.read(sorted(paths | parents))
    for path, entry in found.items():
        if (entry.kind != "file" or path in parents) and not (entry.kind == "directory" and path not in paths):
            raise _not_a_file(path, entry, overlays, selections)
    _check_sources(overlays, selections, found)
    return {
        path: Content(entry.data, bool(entry.mode & 0o100)) for path, entry in found.items() if entry.kind == "file"
    }


def _parents(paths: Collection[str]) -> set[str]:
    """All folders above `paths`."""
    found: set[str] = set()
    for path in paths:
        at = path.rfind("/")
        while at > 0 and path[:at] not in found:
            found.add(path[:at])
            at = path.rfind("/", 0, at)
    return found


def _check_sources(overlays: Sequence[Overlay], selections: Sequence[Selection], found: Mapping[str, BaseFile]) -> None:
    """Raise `InputError` for a file that comes into the package from outside when the base does not have it there."""
    for overlay, selection in zip(overlays, selections, strict=True):
        for change in selection.changes:
            outside = change.kind == "copy" and change.old_path is not None
            if outside and change.old_path not in found and _top(change.old_path) != _top(change.path):
                raise InputError(
                    f"overlay {overlay.id} moves {change.old_path} into the package, to {change.path}, and neither the base\n"
                    "nor the diff has its content",
                    details=[("where", f"{overlay.where}, line {change.diff_line}")],
                    hint="a diff made with `git diff --no-renames` carries the file whole: give that as a local file",
                )


def _top(path: str | None) -> str:
    return (path or "").partition("/")[0]


def _not_a_file(path: str, entry: BaseFile, overlays: Sequence[Overlay], selections: Sequence[Selection]) -> StackError:
    def concerns(change: FileChange) -> bool:
        return any(each == path or (each or "").startswith(f"{path}/") for each in (change.old_path, change.new_path))

    overlay, change = next(
        (overlay, change)
        for overlay, selection in zip(overlays, selections, strict=True)
        for change in selection.changes
        if concerns(change)
    )
    what = {"symlink": f"a symbolic link to {entry.target}", "directory": "a folder", "file": "a file"}.get(
        entry.kind, "not a regular file"
    )
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
    with workplace() as place:
        step = _step(overlay, selection, before, steps, later, place)
    return step.after, step.hunks


def _step(
    overlay: Overlay,
    selection: Selection,
    before: Tree,
    steps: Sequence[Step],
    later: Sequence[Overlay],
    place: Workplace,
) -> Step:
    """Find the places, let GNU patch apply, and compare its result with what the hunks say."""
    plan = None if overlay.fuzz else _planned(overlay, selection, before, steps)
    changes = plan.changes if plan is not None else [_whole(change, before) for change in selection.changes]
    concerned = _touched(selection.changes)
    done, found = _patched(overlay, changes, {path: before[path] for path in concerned if path in before}, place)
    reported = gnupatch.read_placed(done.stdout)
    if plan is None and overlay.fuzz:
        plan = _as_reported(selection, before, reported)
    if done.returncode == 0 and plan is not None and _modes_of(found, plan.expected) == plan.expected:
        after = dict(before)
        for path in concerned:
            after.pop(path, None)
        after.update(plan.expected)
        _check_folders(overlay, selection, after)
        hunks = _report(selection.changes, plan, reported)
        return Step(overlay, selection, before, after, hunks, plan.spots)
    raise explain(overlay, selection, before, steps, later, said=done.output)


@dataclass(frozen=True)
class _Plan:
    """What one overlay does, by its hunks: the changes as GNU patch gets them, the files after them, and each place."""

    changes: Sequence[FileChange]
    expected: Tree
    places: Sequence[Places]
    spots: Mapping[int, Sequence[int | None]]


def _planned(overlay: Overlay, selection: Selection, before: Tree, steps: Sequence[Step]) -> _Plan | None:
    """The plan without fuzz, or None when a hunk has no place, or not the one where it belongs."""
    base = steps[0].before if steps else before
    tree = {path: before[path] for path in _touched(selection.changes) if path in before}
    changes: list[FileChange] = []
    places: list[Places] = []
    for change in selection.changes:
        source = tree.get(change.old_path or "")
        text = source.text if source is not None else Text(())
        found = resolve(change, text, base, steps, overlay.headings)
        given = _whole(change, tree)
        if not found.complete or not change_at(tree, change, found.spots):
            return None
        changes.append(given if found.by_gnu_patch or change.carried_out else _exact(change, found.spots))
        places.append(found)
    spots = {change.diff_line: found.spots for change, found in zip(selection.changes, places, strict=True)}
    return _Plan(changes, tree, places, spots)


def _whole(change: FileChange, tree: Tree) -> FileChange:
    """A file that moves out of the package as the deletion of all its lines, which is what GNU patch is given."""
    content = tree.get(change.old_path or "")
    if not change.carried_out or content is None:
        return change
    text = content.text
    if not text.lines:
        return replace(change, hunks=())
    lines = tuple(b"-" + line for line in text.lines)
    return replace(change, hunks=(Hunk(1, len(lines), 0, 0, lines, not text.ends, False, change.diff_line),))


def _exact(change: FileChange, spots: Sequence[int | None]) -> FileChange:
    """The change with the places where its hunks belong as its line numbers, and no more context before than behind.

    GNU patch takes more context before a change than behind it for a sign of the file's end.
    """
    shift = 0
    hunks: list[Hunk] = []
    for hunk, spot in zip(change.hunks, spots, strict=True):
        assert spot is not None  # noqa: S101  a plan has a place for each hunk
        head, tail = hunk.context
        off = max(0, head - tail) if tail else 0
        old, new = hunk.old_count - off, hunk.new_count - off
        start = spot + off
        hunks.append(
            replace(
                hunk,
                lines=hunk.lines[off:],
                old_start=start + (1 if old else 0),
                old_count=old,
                new_start=start + shift + (1 if new else 0),
                new_count=new,
            )
        )
        shift += hunk.new_count - hunk.old_count
    return replace(change, hunks=tuple(hunks))


def _as_reported(selection: Selection, before: Tree, reported: Sequence[gnupatch.Placed]) -> _Plan | None:
    """With fuzz: what the changed files must be at the places that GNU patch reported."""
    placed = {(each.section, each.number): each for each in reported}
    tree = {path: before[path] for path in _touched(selection.changes) if path in before}
    for section, change in enumerate(selection.changes):
        spots = [placed.get((section, number)) for number in range(1, len(change.hunks) + 1)]
        if not change_in(tree, change, spots):
            return None
    return _Plan(selection.changes, tree, [Places(()) for _ in selection.changes], {})


def _report(changes: Sequence[FileChange], plan: _Plan, reported: Sequence[gnupatch.Placed]) -> tuple[AppliedHunk, ...]:
    placed = {(each.section, each.number): each for each in reported}
    hunks: list[AppliedHunk] = []
    for section, (change, places) in enumerate(zip(changes, plan.places, strict=True)):
        path, shift = change.path, 0
        exact = bool(places.spots) and not places.by_gnu_patch
        for number, hunk in enumerate(change.hunks, 1):
            spot = placed.get((section, number))
            line = spot.line if spot else max(hunk.new_start, 1)
            offset, fuzz = (spot.offset, spot.fuzz) if spot else (0, 0)
            if exact:
                index = places.spots[number - 1] or 0
                offset, line = index - old_index(hunk), index + shift + 1
            shift += hunk.new_count - hunk.old_count
            chosen = places.chosen[number - 1] if places.chosen else ""
            hunks.append(AppliedHunk(path, number, hunk.diff_line, line, offset, fuzz, chosen))
    return tuple(hunks)


def _patched(overlay: Overlay, changes: Sequence[FileChange], files: Tree, place: Workplace) -> tuple[Finished, Tree]:
    """Let GNU patch apply the changes to private `files`: how it ended, and every file that is then present."""
    folder = place.prepare(files, _touched(changes))
    done = gnupatch.apply(patch_input(changes), Path(folder), fuzz=overlay.fuzz)
    return done, place.read() if done.returncode == 0 else {}


def _modes_of(found: Tree, expected: Tree) -> Tree:
    """`found` with the expected modes: the umask of whoever runs this decides what GNU patch gives a new file."""
    return {
        path: Content(content.data, expected[path].executable if path in expected else content.executable)
        for path, content in found.items()
    }


def _check_folders(overlay: Overlay, selection: Selection, after: Tree) -> None:
    """Raise `StackError` when a new file has the name of a folder, or is below another file."""
    new = [change for change in selection.changes if change.kind in ("add", "rename", "copy")]
    folders = _parents(after) if new else set()
    for change in new:
        above = next((str(each) for each in PurePosixPath(change.path).parents if str(each) in after), None)
        if above is None and change.path not in folders:
            continue
        reason = f"{above} is a file" if above is not None else f"{change.path} is a folder"
        raise StackError(
            f"overlay {overlay.id} makes {change.path}, but {reason}",
            overlay=overlay.id,
            failures=[HunkFailure(change.path, 0, change.diff_line, "type", reason)],
            details=[("where", f"{overlay.where}, line {change.diff_line}")],
            hint="a name is a file or a folder: give one of the two another name",
        )


def _check_syntax(steps: Sequence[Step], base: Tree, after: Tree, python: str) -> str:
    """Every changed Python file must be one for the base's Python; why that was not judged, when it was not."""
    changed = {
        path: content.data
        for path, content in sorted(after.items())
        if path.endswith(".py") and base.get(path) != content
    }
    verdict = judge(changed, python)
    for path, problem in verdict.problems.items():
        owner = next(step.overlay for step in reversed(steps) if step.before.get(path) != step.after.get(path))
        raise StackError(
            f"overlay {owner.id} applies, but {path} is no longer Python {python}",
            overlay=owner.id,
            details=[("where", f"{path}, line {problem.line}"), ("why", problem.message)],
            hint="the overlays do not fit together, or the overlay is written for a newer Python",
        )
    return verdict.not_judged


def stack_file(path: str, old: Content | None, new: Content | None, overlays: tuple[str, ...] = ()) -> StackFile:
    """One file before and after; None where it does not exist."""
    return StackFile(
        path, old.data if old else None, new.data if new else None, new.mode if new else 0o644, overlays,
        old.mode if old else 0o644,
    )  # fmt: skip


def _result(applied: Sequence[AppliedOverlay], base: Tree, after: Tree) -> StackResult:
    owners: dict[str, list[str]] = {}
    for overlay in applied:
        for path in overlay.files:
            owners.setdefault(path, []).append(overlay.id)
    files = []
    for path in sorted(base.keys() | after.keys()):
        old, new = base.get(path), after.get(path)
        if old != new:
            files.append(stack_file(path, old, new, tuple(owners.get(path, ()))))
    seen: set[str] = set()
    disjoint = True
    for overlay in applied:
        disjoint = disjoint and seen.isdisjoint(overlay.files)
        seen |= set(overlay.files)
    return StackResult(tuple(files), tuple(applied), disjoint)
