"""What each overlay of a stack needs on another base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from builder.base.model import PackageTree
from builder.overlay.model import Overlay, StackFile, StackResult
from builder.overlay.show import unified_diff
from builder.overlay.stack import StackError, Step, Tree, apply_overlay, read_base
from builder.overlay.syntax import syntax_problem
from builder.rebase.threeway import Conflict, Merged, merge_overlay

Verdict = Literal["applies", "already in", "merges", "conflict"]


@dataclass(frozen=True)
class Judged:
    """One overlay on the new base.

    `applies`: as it is. `already in`: the base has all of it. `merges`: three-way, cleanly; `diff` is the rebased diff.
    `conflict`: a person must decide. `present` of `hunks` are in the base already.
    """

    id: str
    verdict: Verdict
    hunks: int
    present: int = 0
    moved: int = 0
    conflicts: tuple[Conflict, ...] = ()
    note: str = ""
    diff: bytes = field(default=b"", repr=False)

    def as_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["diff"] = self.diff.decode("utf-8", "surrogateescape") if self.diff else None
        return document


def judge_stack(steps: Sequence[Step], tree: PackageTree, *, base: str) -> tuple[list[Judged], Tree]:
    """Judge the overlays in order on the new base's `tree`; `steps` are the same stack on the old base.

    Returns the judgements, and the files concerned as they are after what applies and merges. What is in conflict
    leaves its files as they were, and overlays after it are judged without it.
    """
    overlays = [step.overlay for step in steps]
    current = read_base(overlays, [step.selection for step in steps], tree)
    done: list[Step] = []
    judged: list[Judged] = []
    broken: dict[str, str] = {}
    for index, step in enumerate(steps):
        one, after = _judge(step, current, done, overlays[index + 1 :], base, tree.python)
        touched = _touched(step)
        earlier = sorted({broken[path] for path in touched if path in broken})
        if earlier:
            one = Judged(**{**one.__dict__, "note": f"judged without {', '.join(earlier)}, which is in conflict"})
        if one.verdict == "conflict":
            broken |= dict.fromkeys(touched, one.id)
        done.append(Step(step.overlay, step.selection, current, after))
        judged.append(one)
        current = after
    return judged, current


def _touched(step: Step) -> set[str]:
    return {path for change in step.selection.changes for path in (change.old_path, change.new_path) if path}


def _judge(
    step: Step, current: Tree, done: Sequence[Step], later: Sequence[Overlay], base: str, python: str
) -> tuple[Judged, Tree]:
    overlay, selection = step.overlay, step.selection
    total = sum(max(1, len(change.hunks)) for change in selection.changes)
    merged = merge_overlay(step.before, step.after, current, _touched(step), base=base, overlay=overlay.id)
    # Before all else: a hunk that only adds lines can fit a second time where its lines stand already.
    if not merged.conflicts and merged.tree == current:
        return Judged(overlay.id, "already in", total, present=total), current
    try:
        after, hunks = apply_overlay(overlay, selection, current, done, later)
    except StackError as error:
        present = sum(1 for each in error.failures if each.cause in ("already-in-base", "already-supplied"))
        if present == total == len(error.failures):
            return Judged(overlay.id, "already in", total, present=total), current
        return _three_way(step, current, merged, total, present, python)
    problem = _syntax(current, after, python)
    if problem:
        return _broken(overlay.id, total, problem), current
    return Judged(overlay.id, "applies", total, moved=sum(1 for hunk in hunks if hunk.offset)), after


def _three_way(step: Step, current: Tree, merged: Merged, total: int, present: int, python: str) -> tuple[Judged, Tree]:
    overlay = step.overlay
    if merged.conflicts:
        return Judged(overlay.id, "conflict", total, present=present, conflicts=merged.conflicts), current
    problem = _syntax(current, merged.tree, python)
    if problem:
        return _broken(overlay.id, total, problem), current
    diff = _diff(overlay.id, current, merged.tree)
    return Judged(overlay.id, "merges", total, present=present, diff=diff), merged.tree


def _broken(overlay: str, total: int, problem: Conflict) -> Judged:
    return Judged(overlay, "conflict", total, conflicts=(problem,))


def _syntax(before: Tree, after: Tree, python: str) -> Conflict | None:
    """A file that fits line by line and is no Python any more is a conflict too."""
    for path, content in sorted(after.items()):
        if path.endswith(".py") and before.get(path) != content:
            problem = syntax_problem(content.data, python)
            if problem is not None:
                return Conflict(path, f"the result is no Python {python}: {problem.message}", problem.line)
    return None


def _diff(overlay: str, before: Tree, after: Tree) -> bytes:
    files = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old != new:
            files.append(
                StackFile(
                    path, old.data if old else None, new.data if new else None, new.mode if new else 0o644, (overlay,)
                )
            )
    return unified_diff(StackResult(tuple(files), (), True)).encode("utf-8", "surrogateescape")
