"""Where lines are after overlays that were applied: followed from one version of their file to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.patch.carried import carried
from builder.patch.hunks import Text, old_index, stands_at
from builder.patch.model import Hunk
from builder.patch.tree import Step


@dataclass(frozen=True)
class Followed:
    """Where lines of the base are after the stack so far: the index, or the first overlay that changed them."""

    index: int | None
    changed_by: Step | None = None


def is_at(text: Text, hunk: Hunk, index: int) -> bool:
    """Whether the lines that a hunk finds are at `index` of a file."""
    if not hunk.old:
        return 0 <= index <= len(text.lines)
    return stands_at(text, hunk.old, index, missing_newline=hunk.old_missing_newline)


def follow(hunk: Hunk, path: str, steps: Sequence[Step]) -> Followed:
    """Where the lines that a hunk finds in the base are after `steps`."""
    index = old_index(hunk)
    if not steps:
        return Followed(index)
    if hunk.old and (runs := carried(steps, path)) is not None:
        place = runs.block(index, len(hunk.old))
        if place is not None:
            return Followed(place)
    return follow_each(hunk, path, steps)


def follow_each(hunk: Hunk, path: str, steps: Sequence[Step]) -> Followed:
    """As `follow`, by looking at each version: for lines that something has changed, or what surrounds them."""
    index = old_index(hunk)
    for step in steps:
        position, touched = -1, False
        while (change := step.selection.next_of(path, position)) is not None:
            touched = True
            position = change[0]
            if path not in step.before or change[1].kind == "delete":
                return Followed(None, step)
            moved = step.moved(change[1], index)
            if moved is None:
                return Followed(None, step)
            index, path = moved, change[1].path
        if not touched:
            continue
        after = step.after.get(path)
        if after is None or not is_at(after.text, hunk, index):
            return Followed(None, step)
    return Followed(index)
