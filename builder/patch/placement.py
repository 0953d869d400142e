"""Whether a hunk that fits went where it belongs: where lines repeat, the nearest place that fits may be another block's.

GNU patch takes the place nearest to the line that the diff names. Earlier overlays move lines, and change some of them so
that only the other block still fits; both are known here, and a base of another version than the diff's is not. So:
a diff whose hunks are all in the bare base where it says is followed through the stack, and must go there. One whose
hunks are where it says in the stack's files is right, and one whose hunks were so after an earlier overlay is followed from
there. Of all others a hunk must fit at one place only, or share its
offset with one that does, or be settled by the order of the hunks or by the heading behind its `@@`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from builder.patch.follow import follow, is_at
from builder.patch.hunks import Text, found_at, old_index, result_at
from builder.patch.locate import closest, locate_all
from builder.patch.model import FileChange, Hunk, HunkCause, HunkFailure
from builder.patch.ordered import candidates, settled
from builder.patch.origin import by_origin
from builder.patch.select import Selection
from builder.patch.tree import Step, Tree, change_at

# How many rivals of a place are looked at: messages show three.
_RIVALS = 4


@dataclass(frozen=True)
class Places:
    """Where the hunks of one file change go in the file as it is (index from 0, None: nowhere), and which do not belong there."""

    spots: tuple[int | None, ...]
    failures: tuple[HunkFailure, ...] = ()
    chosen: tuple[str, ...] = ()
    """For each hunk what settled its place, as `AppliedHunk.chosen`; empty when nothing had to."""
    by_gnu_patch: bool = True
    """Whether GNU patch takes these places by itself."""

    @property
    def complete(self) -> bool:
        return not self.failures and None not in self.spots


def in_place(
    selection: Selection, before: Tree, steps: Sequence[Step], headings: Mapping[str, Mapping[int, str]]
) -> bool:
    """Whether every hunk of an overlay that applies goes where it belongs."""
    base = steps[0].before if steps else before
    tree = dict(before)
    for change in selection.changes:
        source = tree.get(change.old_path or "")
        found = resolve(selection, change, source.text if source else Text(()), base, steps, headings)
        if found.failures:
            return False
        if not change_at(tree, change, found.spots):
            # What does not fit at all is reported elsewhere.
            return True
    return True


def resolve(
    selection: Selection,
    change: FileChange,
    text: Text,
    base: Tree,
    steps: Sequence[Step],
    headings: Mapping[str, Mapping[int, str]],
) -> Places:
    """Find the place of each hunk of one file change. `text` is the file as the overlay finds it, `base` the bare base."""
    spots = tuple(locate_all(text, change.hunks))
    failures, by_uniqueness = _misplaced(change, text, spots, base, steps)
    first = Places(spots, tuple(failures))
    if first.complete:
        return first
    if failures and (found_by := by_origin(selection, change, text, base, steps)) is not None:
        return Places(found_by, by_gnu_patch=found_by == spots)
    free = _free(text, change.hunks)
    if free != spots and None not in free and not _misplaced(change, text, free, base, steps)[0]:
        return Places(free, by_gnu_patch=False)
    # A result that is in the file already is no tie between places: the change may have been made.
    if by_uniqueness and not any(
        _made_already(text, hunk, spot) for hunk, spot in zip(change.hunks, free, strict=True)
    ):
        found = settled(text, change.hunks, headings.get(change.path, {}))
        if found is not None:
            return Places(tuple(found[0]), chosen=tuple(found[1]), by_gnu_patch=tuple(found[0]) == spots)
    return first


def _free(text: Text, hunks: Sequence[Hunk]) -> tuple[int | None, ...]:
    """As `locate_all`, by the rules of `git apply`: little context behind a change does not mean the file's end."""
    spots: list[int | None] = []
    drift = floor = 0
    for hunk in hunks:
        index = closest(candidates(text, hunk), old_index(hunk) + drift, floor)
        if index is not None:
            drift = index - old_index(hunk)
            floor = max(floor, index + hunk.old_count - hunk.context[1])
        spots.append(index)
    return tuple(spots)


def _misplaced(
    change: FileChange, text: Text, spots: Sequence[int | None], base: Tree, steps: Sequence[Step]
) -> tuple[list[HunkFailure], bool]:
    """The hunks that fit at `spots` and do not belong there; and whether that was judged by the file as it is alone."""
    path = change.old_path
    if path is None or change.kind == "add" or (change.kind == "delete" and not change.carried_out) or not change.hunks:
        return [], False
    known = steps[-1].after.get(path) if steps else base.get(path)
    if known is None or (known.text is not text and known.text != text):
        # An earlier part of the same diff has changed or renamed it: its lines are those of that part's result.
        return [], False
    original = base.get(path)
    if original is not None and all(is_at(original.text, hunk, old_index(hunk)) for hunk in change.hunks):
        return _by_the_base(change, spots, path, steps), False
    if all(is_at(text, hunk, old_index(hunk)) for hunk in change.hunks):
        return _as_stated(change, spots), False
    return _by_uniqueness(change, text, spots), True


def _as_stated(change: FileChange, spots: Sequence[int | None]) -> list[HunkFailure]:
    """Every hunk is where the diff says: it goes there, and not to the file's end because its context is short."""
    return [
        _with(
            _failure(change, hunk, number, spot),
            "ambiguous",
            f"the hunk is for line {old_index(hunk) + 1}; the same lines are at line {spot + 1}, where it would go",
        )
        for number, (hunk, spot) in enumerate(zip(change.hunks, spots, strict=True), 1)
        if spot is not None and spot != old_index(hunk)
    ]


def _by_the_base(
    change: FileChange, spots: Sequence[int | None], path: str, steps: Sequence[Step]
) -> list[HunkFailure]:
    """The diff was made for the base: each hunk belongs where the stack has carried its lines."""
    found: list[HunkFailure] = []
    for number, (hunk, spot) in enumerate(zip(change.hunks, spots, strict=True), 1):
        if spot is None:
            continue
        followed = follow(hunk, path, steps)
        if spot == followed.index:
            continue
        failure = _failure(change, hunk, number, spot)
        if followed.index is not None:
            reason = (
                f"the hunk is for line {followed.index + 1}; the same lines are at line {spot + 1}, where it would go"
            )
            found.append(_with(failure, "ambiguous", reason))
            continue
        step = followed.changed_by
        assert step is not None  # noqa: S101  lines that are lost were lost by a step
        after = step.after.get(change.path) or step.after.get(path)
        position = steps.index(step) + 1
        if after is not None and result_at(after.text, hunk):
            reason = f"the hunk's result is already there, put there by overlay {position}, {step.overlay.id}"
            found.append(_with(failure, "already-supplied", f"{reason}; it would fit a second time", step.overlay.id))
        else:
            reason = (
                f"{step.overlay.id} changed the lines that the hunk is for; others like them are at line {spot + 1}"
            )
            found.append(_with(failure, "context", reason))
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
            reason = f"the hunk's result is at line {stated + 1}, where the diff says, and the hunk fits at line {spot + 1} too"
        else:
            lines = " and ".join(str(index + 1) for index in others[:3])
            reason = f"the hunk fits at line {spot + 1}, {abs(offset or 0)} lines from where the diff says, and as well at line {lines}"
        found.append(_with(_failure(change, hunk, number, spot), "ambiguous", reason))
    return found


def _rivals(text: Text, hunk: Hunk, spot: int) -> list[int]:
    """Some other places where the hunk fits, or where its result is already, the first of them first."""
    others = islice((at for at in found_at(text, hunk) if at != spot), _RIVALS)
    return sorted({*others, *islice(_results_apart(text, hunk, spot), _RIVALS)})


def _results_apart(text: Text, hunk: Hunk, spot: int) -> Iterator[int]:
    return (at for at in result_at(text, hunk) if at + hunk.new_count <= spot or at >= spot + hunk.old_count)


def _made_already(text: Text, hunk: Hunk, spot: int | None) -> bool:
    """Whether what the hunk leaves is in the file already, outside the place where it would go."""
    return spot is None or next(_results_apart(text, hunk, spot), None) is not None


def _failure(change: FileChange, hunk: Hunk, number: int, spot: int) -> HunkFailure:
    shown = tuple(line.decode("utf-8", "replace") for line in hunk.old[:3])
    return HunkFailure(
        change.old_path or change.path, number, hunk.diff_line, "ambiguous", "", wanted=shown,
        wanted_line=max(hunk.old_start, 1), found_line=spot + 1,
    )  # fmt: skip


def _with(failure: HunkFailure, cause: HunkCause, explanation: str, supplied_by: str | None = None) -> HunkFailure:
    return replace(failure, cause=cause, explanation=explanation, supplied_by=supplied_by)
