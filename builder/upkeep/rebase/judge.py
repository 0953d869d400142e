"""What each overlay of a stack needs on another base."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from builder.base.model import PackageTree
from builder.patch.hunks import Text, result_at
from builder.patch.model import FileChange, Overlay, StackResult
from builder.patch.stack import apply_overlay, read_base, stack_file
from builder.patch.syntax import syntax_problem
from builder.patch.tree import Content, StackError, Step, Tree
from builder.patch.unified import unified_diff
from builder.upkeep.rebase.moves import FindMoves
from builder.upkeep.rebase.second import doubts
from builder.upkeep.rebase.threeway import Conflict, Merged, Sides, merge_overlay

Verdict = Literal["applies", "already in", "merges", "conflict"]


@dataclass(frozen=True)
class OverlayJudgement:
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


@dataclass(frozen=True)
class StackJudgement:
    """The judgements, and the files concerned as the new base has them and after what applies and merges."""

    overlays: tuple[OverlayJudgement, ...]
    stock: Tree = field(repr=False)
    after: Tree = field(repr=False)
    moved: Mapping[str, str] = field(default_factory=dict)

    def over(self) -> dict[str, bytes | None]:
        """What the stack makes of the new base's files: path to content, None for a file that it deletes."""
        paths = self.stock.keys() | self.after.keys()
        changed = (path for path in sorted(paths) if self.stock.get(path) != self.after.get(path))
        return {path: self.after[path].data if path in self.after else None for path in changed}


@dataclass(frozen=True)
class _Base:
    """The new base while overlays are judged on it."""

    name: str
    python: str
    moved: Mapping[str, str]
    deleted: Collection[str]

    def sides(self, before: Tree, after: Tree, ours: Tree, overlay: str, changes: Sequence[FileChange] = ()) -> Sides:
        renamed = {each.old_path: each.path for each in changes if each.kind == "rename" and each.old_path}
        return Sides(before, after, ours, self.name, overlay, self.moved, self.deleted, renamed)


def judge_stack(
    steps: Sequence[Step], tree: PackageTree, *, base: str, find_moves: FindMoves | None = None
) -> StackJudgement:
    """Judge the overlays in order on the new base's `tree`; `steps` are the same stack on the old base.

    `find_moves` finds files that the new base has under other names; it is asked once, and only
    when there are such files. What is in conflict leaves its files as they were, and overlays after it are judged
    without it.
    """
    overlays = [step.overlay for step in steps]
    stock = read_base(overlays, [step.selection for step in steps], tree)
    missing = {path: each.data for path, each in steps[0].before.items() if path not in stock} if steps else {}
    found = find_moves(missing) if missing and find_moves is not None else None
    moved = dict(found or {})
    stock |= _read(tree, moved.values())
    deleted = missing.keys() - moved.keys() if found is not None else set()
    new = _Base(base, tree.python, moved, deleted)
    current = stock
    done: list[Step] = []
    judged: list[OverlayJudgement] = []
    broken: dict[str, str] = {}
    for index, step in enumerate(steps):
        one, after = _judge(step, current, done, overlays[index + 1 :], new)
        touched = _touched(step)
        if one.verdict == "conflict" and (last := _carried_by(steps, index, current, new)):
            one = OverlayJudgement(one.id, "already in", one.hunks, present=one.hunks, note=f"together with {last}")
        earlier = sorted({broken[path] for path in touched if path in broken})
        notes = [
            *((one.note,) if one.note else ()),
            *(f"{path} is {moved[path]} on this base" for path in sorted(touched & moved.keys())),
            *((f"judged without {', '.join(earlier)}, which is in conflict",) if earlier else ()),
        ]
        if one.verdict == "conflict":
            broken |= dict.fromkeys(touched, one.id)
        done.append(Step(step.overlay, step.selection, current, after))
        judged.append(replace(one, note="; ".join(notes)))
        current = after
    return StackJudgement(tuple(judged), stock, current, moved)


def _read(tree: PackageTree, paths: Collection[str]) -> Tree:
    found = tree.read(sorted(paths))
    return {
        path: Content(entry.data, bool(entry.mode & 0o100)) for path, entry in found.items() if entry.kind == "file"
    }


def _touched(step: Step) -> set[str]:
    return {path for change in step.selection.changes for path in (change.old_path, change.new_path) if path}


def _carried_by(steps: Sequence[Step], index: int, current: Tree, new: _Base) -> str | None:
    """The later overlay up to which the stack is in the base as a whole, when this one by itself is in conflict.

    So it is when a later overlay changes the same lines once more and the base has both.
    """
    paths = _touched(steps[index])
    for last in steps[index + 1 :]:
        paths |= _touched(last)
        sides = new.sides(steps[index].before, last.after, current, last.overlay.id)
        merged = merge_overlay(sides, paths)
        if not merged.conflicts and merged.tree == current and not doubts(merged):
            return last.overlay.id
    return None


def _judge(
    step: Step, current: Tree, done: Sequence[Step], later: Sequence[Overlay], new: _Base
) -> tuple[OverlayJudgement, Tree]:
    overlay, selection = step.overlay, step.selection
    total = sum(max(1, len(change.hunks)) for change in selection.changes)
    sides = new.sides(step.before, step.after, current, overlay.id, selection.changes)
    merged = merge_overlay(sides, _touched(step))
    # Before all else: a hunk that only adds lines can fit a second time where its lines are already.
    if not merged.conflicts and merged.tree == current and not doubts(merged):
        return OverlayJudgement(overlay.id, "already in", total, present=total), current
    try:
        after, hunks = apply_overlay(overlay, selection, current, done, later)
    except StackError as error:
        present = sum(1 for each in error.failures if each.cause in ("already-in-base", "already-supplied"))
        # A merge that is clean and changes something knows better. What is gone from its place may be elsewhere.
        all_there = bool(merged.conflicts) and present == total == len(error.failures) and _stands_once(step, current)
        if all_there and _touched(step).isdisjoint(new.moved):
            return OverlayJudgement(overlay.id, "already in", total, present=total), current
        return _three_way(step, current, merged, total, present, new.python)
    if merged.conflicts or merged.tree != after or doubts(merged):
        # It fits somewhere, and git, which has seen both bases, puts it elsewhere: into another block with the same lines.
        # Or git sees in one of two ways that the base has it: lines that are only added can fit once more beside their own.
        return _three_way(step, current, merged, total, 0, new.python)
    problem = _syntax(current, after, new.python)
    if problem:
        return _broken(overlay.id, total, problem), current
    return OverlayJudgement(overlay.id, "applies", total, moved=sum(1 for hunk in hunks if hunk.offset)), after


def _stands_once(step: Step, current: Tree) -> bool:
    """Whether no hunk's result can be mistaken for that of another block: it is once here, and once where it was made."""
    for change in step.selection.changes:
        for hunk in change.hunks if change.kind != "delete" else ():
            for tree, path in ((step.after, change.path), (current, change.path)):
                content = tree.get(path)
                if content is None or len(result_at(Text.of(content.data), hunk)) != 1:
                    return False
    return True


def _three_way(
    step: Step, current: Tree, merged: Merged, total: int, present: int, python: str
) -> tuple[OverlayJudgement, Tree]:
    overlay = step.overlay
    conflicts = merged.conflicts or doubts(merged)
    if conflicts:
        return OverlayJudgement(overlay.id, "conflict", total, present=present, conflicts=conflicts), current
    problem = _syntax(current, merged.tree, python)
    if problem:
        return _broken(overlay.id, total, problem), current
    diff = _diff(overlay.id, current, merged.tree)
    return OverlayJudgement(overlay.id, "merges", total, present=present, diff=diff), merged.tree


def _broken(overlay: str, total: int, problem: Conflict) -> OverlayJudgement:
    return OverlayJudgement(overlay, "conflict", total, conflicts=(problem,))


def _syntax(before: Tree, after: Tree, python: str) -> Conflict | None:
    """A file that fits line by line and is not Python any more is a conflict too."""
    for path, content in sorted(after.items()):
        if path.endswith(".py") and before.get(path) != content:
            problem = syntax_problem(content.data, python)
            if problem is not None:
                return Conflict(path, f"the result is not valid Python {python}: {problem.message}", problem.line)
    return None


def _diff(overlay: str, before: Tree, after: Tree) -> bytes:
    files = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old != new:
            files.append(stack_file(path, old, new, (overlay,)))
    return unified_diff(StackResult(tuple(files), (), True)).encode("utf-8", "surrogateescape")
