"""What one overlay does, found out before GNU patch does it: the changes as it is given them, and the files after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from builder.patch import gnupatch
from builder.patch.hunks import Text, old_index
from builder.patch.model import AppliedHunk, FileChange, Hunk, Overlay
from builder.patch.placement import Places, resolve
from builder.patch.select import Selection
from builder.patch.sequence import in_sequence, never_filled, source_as_it_was, spelled_out
from builder.patch.tree import Step, Tree, change_at, change_in
from builder.util.process import Finished


def touched(changes: Sequence[FileChange]) -> set[str]:
    """The paths that changes name, old and new."""
    return {path for change in changes for path in (change.old_path, change.new_path) if path is not None}


@dataclass(frozen=True)
class Plan:
    """What one overlay does, by its hunks: the changes as GNU patch gets them, the files after them, and each place."""

    changes: Sequence[FileChange]
    expected: Tree
    places: Sequence[Places]
    spots: Mapping[int, Sequence[int | None]]
    sections: Sequence[int]
    """For each change of the overlay the number (from 0) of the one of `changes` that has its hunks."""


def planned(overlay: Overlay, selection: Selection, before: Tree, steps: Sequence[Step]) -> Plan | None:
    """The plan without fuzz, or None when a hunk has no place, or not the one where it belongs."""
    base = steps[0].before if steps else before
    tree = {path: before[path] for path in touched(selection.changes) if path in before}
    changes: list[FileChange] = []
    places: list[Places] = []
    sections: list[int] = []
    in_turn = in_sequence(selection.changes, before)
    for number, change in enumerate(selection.changes):
        source = tree.get(change.old_path or "")
        text = source.text if source is not None else Text(())
        found = resolve(selection, change, text, base, steps, overlay.headings)
        given = whole(change, tree)
        known = tree
        if not found.complete and (original := source_as_it_was(selection.changes, number, before)) is not None:
            source, known = original, {**tree, change.old_path or "": original}
            found = resolve(selection, change, source.text, base, steps, overlay.headings)
        if not found.complete or not change_at(known, change, found.spots):
            return None
        if known is not tree:
            tree[change.path] = known[change.path]
        given = given if found.by_gnu_patch or change.carried_out else _exact(change, found.spots)
        parts = spelled_out(given, source) if number in in_turn and source is not None else (given,)
        sections.append(len(changes) + (1 if len(parts) > 1 and given.hunks else 0))
        changes += parts
        places.append(found)
    spots = {change.diff_line: found.spots for change, found in zip(selection.changes, places, strict=True)}
    given_changes, given_sections = never_filled(changes, sections, before)
    return Plan(given_changes, tree, places, spots, given_sections)


def whole(change: FileChange, tree: Tree) -> FileChange:
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


def as_reported(selection: Selection, before: Tree, ended: Finished) -> Plan | None:
    """With fuzz: what the changed files must be at the places that GNU patch reported."""
    placed = {(each.section, each.number): each for each in gnupatch.read_placed(ended.stdout)}
    tree = {path: before[path] for path in touched(selection.changes) if path in before}
    for section, change in enumerate(selection.changes):
        spots = [placed.get((section, number)) for number in range(1, len(change.hunks) + 1)]
        if not change_in(tree, change, spots):
            return None
    return Plan(selection.changes, tree, [Places(()) for _ in selection.changes], {}, range(len(selection.changes)))


def report(changes: Sequence[FileChange], plan: Plan, reported: Sequence[gnupatch.Placed]) -> tuple[AppliedHunk, ...]:
    placed = {(each.section, each.number): each for each in reported}
    hunks: list[AppliedHunk] = []
    for section, change, places in zip(plan.sections, changes, plan.places, strict=True):
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
