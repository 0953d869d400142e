"""Overlays that need fuzz, as diffs that need none: `git am` knows no fuzz, and quilt knows another amount of it."""

from __future__ import annotations

from dataclasses import replace

from builder.documents.lock import Lock
from builder.documents.reference import Platform
from builder.patch.diff import parse
from builder.patch.gnupatch import Placed
from builder.patch.model import FileChange, Hunk, StackFile, StackResult
from builder.patch.stack import run_steps
from builder.patch.tree import Content, Step, apply_change
from builder.patch.unified import unified_diff
from builder.pipeline.locking.overlays import naming, read_overlay
from builder.pipeline.plan import locked_tree
from builder.upkeep.series.export import Exact
from builder.util.context import Context
from builder.util.project import Project


def exact_changes(project: Project, lock: Lock, *, context: Context) -> Exact:
    """Overlay -> its changes with the base's own lines as context, for those overlays of which a hunk needed fuzz.

    Files that do not enter the image are among them as the diff has them. Raises as a build does when something is not
    as it was locked; without `fuzz` in the stack, nothing is read.
    """
    if not any(overlay.fuzz for overlay in lock.overlays):
        return {}
    # One series is for all platforms, and the first one decides, as in a rebase.
    platform = Platform.parse(next(iter(lock.base.platforms)))
    tree, _ = locked_tree(project, lock, platform, context=context)
    overlays = [read_overlay(project, each) for each in lock.overlays]
    with naming(lock.overlays):
        steps = run_steps(overlays, tree, lock.package)
    return {step.overlay.id: _exact(step) for step in steps if any(hunk.fuzz for hunk in step.hunks)}


def _exact(step: Step) -> tuple[FileChange, ...]:
    applied = iter(step.hunks)
    tree = dict(step.before)
    found: dict[int, FileChange] = {}
    for number, change in enumerate(step.selection.changes):
        hunks = [next(applied) for _ in change.hunks]
        spots = [Placed(number, each.number, each.line, each.offset, each.fuzz) for each in hunks]
        after = apply_change(tree, change, spots)
        if after is None:
            raise AssertionError("unreachable: the step was applied at these very places")
        if any(each.fuzz for each in hunks):
            old, new = tree.get(change.old_path or ""), after.get(change.new_path or "")
            found[change.diff_line] = replace(change, hunks=_hunks(old, new, step.overlay.where))
        tree = after
    # By the line in the diff: what is selected of it is not always all of it.
    return tuple(found.get(change.diff_line, change) for change in step.overlay.diff.changes)


def _hunks(old: Content | None, new: Content | None, where: str) -> tuple[Hunk, ...]:
    file = StackFile("x", old.data if old else None, new.data if new else None, new.mode if new else 0o644, ())
    text = unified_diff(StackResult((file,), (), True)).encode("utf-8", "surrogateescape")
    return parse(text, where, fetched=True).changes[0].hunks
