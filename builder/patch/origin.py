"""The files that a diff was made for, when they are those after some of the overlays before it.

A diff on top of another overlay has hunks whose lines repeat elsewhere, in the base too. Where each line of the whole diff
is exactly where it says after some overlays, these are the files it was made for, and its lines are followed from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.patch.follow import follow_each, is_at
from builder.patch.hunks import Text, old_index
from builder.patch.model import FileChange
from builder.patch.ordered import candidates
from builder.patch.select import Selection
from builder.patch.tree import Content, Step


def by_origin(
    selection: Selection, change: FileChange, text: Text, base: Mapping[str, Content], steps: Sequence[Step]
) -> tuple[int, ...] | None:
    """The places (index from 0) of a change's hunks by the files that its diff was made for.

    None when it was not made for files after an overlay, or for several that lead to other places.
    """
    path = change.old_path
    if not steps or path is None or not change.hunks or not _is_kept(path, steps):
        return None
    states = [base, *(step.after for step in steps)]
    origins = [number for number, state in enumerate(states) if _is_as_stated(selection, state)]
    # A diff for the bare base has its own rule: it must go where GNU patch puts it, or come earlier in the stack.
    if not any(origins):
        return None
    found = {
        tuple(follow_each(hunk, path, steps[number:]).index for hunk in change.hunks)
        for number in origins
    }  # fmt: skip
    if len(found) != 1:
        return None
    [spots] = found
    certain = tuple(spot for spot in spots if spot is not None)
    if len(certain) < len(spots):
        return None
    fit = all(spot in candidates(text, hunk) for spot, hunk in zip(certain, change.hunks, strict=True))
    return certain if fit else None


def _is_kept(path: str, steps: Sequence[Step]) -> bool:
    """Whether no overlay moves or deletes a file: then its name means one file all along."""
    changes = (change for step in steps for change in step.selection.changes)
    return not any(
        change.kind in ("rename", "copy", "delete") and path in (change.old_path, change.path) for change in changes
    )


def _is_as_stated(selection: Selection, state: Mapping[str, Content]) -> bool:
    """Whether all lines that a diff finds are in these files, where it says."""
    seen: set[str] = set()
    for change in selection.changes:
        path = change.old_path
        # A second part for the same file is made for the result of the first.
        if path is not None and path not in seen:
            content = state.get(path)
            if content is None or not all(is_at(content.text, hunk, old_index(hunk)) for hunk in change.hunks):
                return False
        elif path is None and change.path in state:
            return False
        seen |= {each for each in (path, change.path) if each is not None}
    return True
