"""The stack: overlays applied in order, each completely or not at all, on a private copy of just the files concerned.

GNU patch applies (facts of its behaviour: docs/overlays.md). Its exit code alone is not trusted: after each overlay the
tree is compared with what the hunks say, file by file and byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from builder.base.model import BaseFile, PackageTree
from builder.base.together import packages_beside
from builder.patch import gnupatch
from builder.patch.diagnose.names import check_left_out, explained
from builder.patch.diagnose.report import explain
from builder.patch.diff import patch_input
from builder.patch.installed import Installed
from builder.patch.model import (
    AppliedHunk,
    AppliedOverlay,
    FileChange,
    HunkFailure,
    Overlay,
    StackFile,
    StackResult,
)
from builder.patch.planned import Plan, as_reported, planned, report, touched, whole
from builder.patch.select import TEST_FOLDERS, NothingEntersError, Selection, select
from builder.patch.syntax import judge
from builder.patch.tree import Content, StackError, Step, Tree
from builder.patch.workplace import Workplace, workplace
from builder.util.errors import InputError
from builder.util.process import Finished


def apply_stack(overlays: Sequence[Overlay], tree: PackageTree, package: str = "vllm") -> StackResult:
    """Apply `overlays` in order to the base's `tree`.

    Raises `StackError` (exit 3) when one does not apply, `InputError` (exit 2) when one cannot be delivered at all.
    """
    return result_after(run_steps(overlays, tree, package), tree, package)


def result_after(steps: Sequence[Step], tree: PackageTree, package: str) -> StackResult:
    """What the first steps of a stack give together: as `apply_stack` of their overlays."""
    applied = [
        AppliedOverlay(
            step.overlay.id, step.overlay.diff.digest, tuple(sorted(touched(step.selection.changes))), step.hunks,
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
    before = read_base(overlays, selections, tree)
    with workplace(before, sum(len(each.diff.canonical) for each in overlays)) as place:
        return _apply_all(list(zip(overlays, selections, strict=True)), before, (), (), place)


def _others(overlays: Sequence[Overlay], names: Collection[str], tree: PackageTree) -> list[str]:
    """Further packages of the base that a diff changes: nobody asked for them, and people should know."""
    paths = {path for overlay in overlays for path in touched([c for c in overlay.diff.changes if not c.outside])}
    tops = {path.partition("/")[0] for path in paths if "/" in path} - {*names, *TEST_FOLDERS}
    return packages_beside(tree, sorted(tops))


def _select(
    overlay: Overlay, package: str, installed: Installed, others: Collection[str], tree: PackageTree
) -> Selection:
    packages = overlay.packages or (package,)
    try:
        selection = select(overlay, package, installed, others)
    except NothingEntersError as error:
        raise explained(error, overlay, packages, installed, tree, strip=overlay.strip) from error
    if selection.dropped:
        check_left_out(overlay, packages, installed, tree)
    return selection


def read_base(overlays: Sequence[Overlay], selections: Sequence[Selection], tree: PackageTree) -> Tree:
    """The files that the overlays concern, as the base has them."""
    paths = {path for selection in selections for path in touched(selection.changes)}
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
    does = f"changes {change.path}, but {path} is {what} in the base"
    hint = "nothing is ever written through a link or over a folder; the overlay is not made for this base"
    if entry.kind in ("file", "directory") and _replaces(path, selections):
        does = f"puts {'a folder' if entry.kind == 'file' else 'a file'} in the place of {what}: {path}"
        hint = "`docker build` cannot copy one over the other: give what is new another name, here and where it is imported"
    return StackError(
        f"overlay {overlay.id} {does}",
        overlay=overlay.id,
        failures=[failure],
        details=[("where", f"{overlay.where}, line {change.diff_line}")],
        hint=hint,
    )


def _replaces(path: str, selections: Sequence[Selection]) -> bool:
    """Whether an overlay takes away the file `path`, or a file of the folder `path`."""
    gone = (
        change.old_path or ""
        for selection in selections
        for change in selection.changes
        if change.kind in ("delete", "rename")
    )
    return any(each == path or each.startswith(f"{path}/") for each in gone)


def apply_overlay(
    overlay: Overlay, selection: Selection, before: Tree, steps: Sequence[Step], later: Sequence[Overlay]
) -> tuple[Tree, tuple[AppliedHunk, ...]]:
    """One overlay on a private copy: the tree after it, and where its hunks went."""
    with workplace(before, len(overlay.diff.canonical)) as place:
        step = _apply_all([(overlay, selection)], before, steps, later, place)[-1]
    return step.after, step.hunks


def _apply_all(
    chosen: Sequence[tuple[Overlay, Selection]],
    before: Tree,
    steps: Sequence[Step],
    later: Sequence[Overlay],
    place: Workplace,
) -> list[Step]:
    """Apply overlays in order behind `steps`; `later` are those behind them. The result is all steps.

    While GNU patch works on one overlay, the places of the next one's hunks are found, in the files that the first one must
    give. When GNU patch gives others, that is an error before the next one begins.
    """
    done = list(steps)
    behind = [*(overlay for overlay, _ in chosen), *later]
    with ExitStack() as running:
        pending: Callable[[], None] | None = None
        for number, (overlay, selection) in enumerate(chosen, 1):
            plan = None if overlay.fuzz else planned(overlay, selection, before, done)
            if pending is not None:
                pending()
                running.close()
            finish = running.enter_context(_patching(overlay, selection, before, plan, place))
            ended = None
            if plan is None:
                # What GNU patch says decides: where it put hunks with fuzz, or what it makes of hunks that have no place.
                ended = finish()
                plan = as_reported(selection, before, ended) if overlay.fuzz else None
                if plan is None:
                    raise explain(overlay, selection, before, done, behind[number:], said=ended.output)
            done.append(_step(overlay, selection, before, plan))
            pending = partial(_compare, done, plan, place, ended or finish, behind, number)
            before = done[-1].after
        if pending is not None:
            pending()
    return done


def _patching(
    overlay: Overlay, selection: Selection, before: Tree, plan: Plan | None, place: Workplace
) -> AbstractContextManager[Callable[[], Finished]]:
    """GNU patch at work on a private copy of the files that an overlay names."""
    changes = plan.changes if plan is not None else [whole(change, before) for change in selection.changes]
    files = {path: before[path] for path in touched(selection.changes) if path in before}
    return gnupatch.applying(
        patch_input(changes, overlay.diff), place.prepare(files, touched(changes)), fuzz=overlay.fuzz
    )


def _step(overlay: Overlay, selection: Selection, before: Tree, plan: Plan) -> Step:
    """The step as its hunks say."""
    after = dict(before)
    for path in touched(selection.changes):
        after.pop(path, None)
    after.update(plan.expected)
    return Step(overlay, selection, before, after, (), plan.spots)


def _compare(
    steps: Sequence[Step],
    plan: Plan,
    place: Workplace,
    end: Finished | Callable[[], Finished],
    overlays: Sequence[Overlay],
    number: int,
) -> None:
    """Raise `StackError` when GNU patch did not do what the hunks of the last step say: number `number` (from 1) of `overlays`."""
    step = steps[-1]
    ended = end if isinstance(end, Finished) else end()
    if ended.returncode != 0 or not place.holds(plan.expected):
        raise explain(step.overlay, step.selection, step.before, steps[:-1], overlays[number:], said=ended.output)
    _check_folders(step.overlay, step.selection, step.after)
    step.note(report(step.selection.changes, plan, gnupatch.read_placed(ended.stdout)))


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
