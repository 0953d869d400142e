"""Whether a hunk that fits went where it belongs: where lines repeat, the nearest place that fits may be another block's.

GNU patch takes the place nearest to the line that the diff names. Earlier overlays move lines, and change some of them so
that only the other block still fits; both are known here, and a base of another version than the diff's is not. So:
a diff whose hunks all stand in the bare base where it says is followed through the stack, and must go there. One whose
hunks stand where it says in the stack's files is right. Of all others a hunk must fit at one place only, or share its
offset with one that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from builder.patch.hunks import Text, found_at, old_index, old_lines, result_at, stands_at
from builder.patch.locate import as_placed, locate_all
from builder.patch.model import FileChange, Hunk, HunkCause, HunkFailure
from builder.patch.select import Selection
from builder.patch.tree import Step, Tree, apply_change


@dataclass(frozen=True)
class _Followed:
    """Where lines of the base are after the stack so far: the index, or the first overlay that changed them."""

    index: int | None
    changed_by: Step | None = None


def in_place(selection: Selection, before: Tree, steps: Sequence[Step]) -> bool:
    """Whether every hunk of an overlay that applies goes where it belongs."""
    base = steps[0].before if steps else before
    tree: Tree | None = before
    for change in selection.changes:
        source = tree.get(change.old_path or "") if tree is not None else None
        text = Text.of(source.data if source else b"")
        spots = locate_all(text, change.hunks)
        if misplaced(change, text, spots, base, steps):
            return False
        there = as_placed(change.hunks, spots)
        tree = apply_change(tree, change, there) if tree is not None and there is not None else None
    return True


def misplaced(
    change: FileChange, text: Text, spots: Sequence[int | None], base: Tree, steps: Sequence[Step]
) -> list[HunkFailure]:
    """The hunks of one changed file that fit at `spots` (index from 0, None: nowhere) and do not belong there.

    `text` is the file as the overlay finds it; `base` the bare base's files.
    """
    path = change.old_path
    if path is None or change.kind in ("add", "delete") or not change.hunks:
        return []
    known = steps[-1].after.get(path) if steps else base.get(path)
    if known is None or Text.of(known.data) != text:
        # An earlier part of the same diff has changed or renamed it: its lines are those of that part's result.
        return []
    original = base.get(path)
    bare = Text.of(original.data) if original is not None else None
    if bare is not None and all(_stands(bare, hunk, old_index(hunk)) for hunk in change.hunks):
        return _by_the_base(change, spots, path, steps)
    if all(_stands(text, hunk, old_index(hunk)) for hunk in change.hunks):
        return []
    return _by_uniqueness(change, text, spots)


def _stands(text: Text, hunk: Hunk, index: int) -> bool:
    block = old_lines(hunk)
    if not block:
        return 0 <= index <= len(text.lines)
    return stands_at(text, block, index, missing_newline=hunk.old_missing_newline)


def _by_the_base(
    change: FileChange, spots: Sequence[int | None], path: str, steps: Sequence[Step]
) -> list[HunkFailure]:
    """The diff was made for the base: each hunk belongs where the stack has carried its lines."""
    found: list[HunkFailure] = []
    for number, (hunk, spot) in enumerate(zip(change.hunks, spots, strict=True), 1):
        followed = _follow(hunk, path, steps)
        if spot is None or spot == followed.index:
            continue
        failure = _failure(change, hunk, number, spot)
        if followed.index is not None:
            said = (
                f"the hunk is for line {followed.index + 1}; the same lines stand at line {spot + 1}, where it would go"
            )
            found.append(_with(failure, "ambiguous", said))
            continue
        step = followed.changed_by
        assert step is not None  # noqa: S101  lines that are lost were lost by a step
        after = step.after.get(change.path) or step.after.get(path)
        position = steps.index(step) + 1
        if after is not None and result_at(Text.of(after.data), hunk):
            said = f"the hunk's result is already there, put there by overlay {position}, {step.overlay.id}"
            found.append(_with(failure, "already-supplied", f"{said}; it would fit a second time", step.overlay.id))
        else:
            said = (
                f"{step.overlay.id} changed the lines that the hunk is for; others like them stand at line {spot + 1}"
            )
            found.append(_with(failure, "context", said))
    return found


def _by_uniqueness(change: FileChange, text: Text, spots: Sequence[int | None]) -> list[HunkFailure]:
    """The diff was made for other files: a hunk must fit at one place, or go as far as one that does."""
    rivals = [
        _rivals(text, hunk, spot) if spot is not None else [] for hunk, spot in zip(change.hunks, spots, strict=True)
    ]
    offsets = [
        spot - old_index(hunk) if spot is not None else None for hunk, spot in zip(change.hunks, spots, strict=True)
    ]
    sure = {offset for offset, others in zip(offsets, rivals, strict=True) if offset is not None and not others}
    found: list[HunkFailure] = []
    for number, (hunk, spot, offset) in enumerate(zip(change.hunks, spots, offsets, strict=True), 1):
        others = rivals[number - 1]
        if spot is None or offset == 0 or offset in sure or not others:
            continue
        results = result_at(text, hunk)
        stated = next((at for at in (old_index(hunk), hunk.new_start - 1) if at in results), None)
        if stated is not None:
            said = f"the hunk's result stands at line {stated + 1}, where the diff says, and the hunk fits at line {spot + 1} too"
        else:
            lines = " and ".join(str(index + 1) for index in others[:3])
            said = f"the hunk fits at line {spot + 1}, {abs(offset or 0)} lines from where the diff says, and as well at line {lines}"
        found.append(_with(_failure(change, hunk, number, spot), "ambiguous", said))
    return found


def _rivals(text: Text, hunk: Hunk, spot: int) -> list[int]:
    """Other places where the hunk fits, or where its result stands already."""
    apart = (at for at in result_at(text, hunk) if at + hunk.new_count <= spot or at >= spot + hunk.old_count)
    return sorted({*(at for at in found_at(text, hunk) if at != spot), *apart})


def _follow(hunk: Hunk, path: str, steps: Sequence[Step]) -> _Followed:
    """Where the lines that a hunk finds in the base are after `steps`."""
    index = old_index(hunk)
    for step in steps:
        for change in step.selection.changes:
            if change.old_path != path or change.kind in ("add", "copy"):
                continue
            source = step.before.get(path)
            if source is None or change.kind == "delete":
                return _Followed(None, step)
            moved = _moved(index, change, locate_all(Text.of(source.data), change.hunks))
            if moved is None:
                return _Followed(None, step)
            index, path = moved, change.path
        after = step.after.get(path)
        if after is None or not _stands(Text.of(after.data), hunk, index):
            return _Followed(None, step)
    return _Followed(index)


def _moved(index: int, change: FileChange, spots: Sequence[int | None]) -> int | None:
    """Where the line `index` of a file is after a change whose hunks stand at `spots`; None when it is gone."""
    shift = 0
    for hunk, spot in zip(change.hunks, spots, strict=True):
        if spot is None or spot > index:
            continue
        if spot + hunk.old_count <= index:
            shift += hunk.new_count - hunk.old_count
            continue
        old = spot
        for line in hunk.lines:
            if line[:1] == b"+":
                shift += 1
                continue
            if old == index:
                return index + shift if line[:1] == b" " else None
            shift -= line[:1] == b"-"
            old += 1
    return index + shift


def _failure(change: FileChange, hunk: Hunk, number: int, spot: int) -> HunkFailure:
    shown = tuple(line.decode("utf-8", "replace") for line in old_lines(hunk)[:3])
    return HunkFailure(
        change.old_path or change.path, number, hunk.diff_line, "ambiguous", "", wanted=shown,
        wanted_line=max(hunk.old_start, 1), found_line=spot + 1,
    )  # fmt: skip


def _with(failure: HunkFailure, cause: HunkCause, explanation: str, supplied_by: str | None = None) -> HunkFailure:
    return replace(failure, cause=cause, explanation=explanation, supplied_by=supplied_by)
