"""Overlays that carry each other's hunks, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from builder.overlay.hunks import Text, new_lines, places
from builder.overlay.locate import placed
from builder.overlay.model import HunkFailure, Overlay
from builder.overlay.select import Selection
from builder.overlay.stack import Step, Tree, apply_change


def advice(
    overlay: Overlay,
    selection: Selection,
    failures: Sequence[HunkFailure],
    total: int,
    steps: Sequence[Step],
) -> str:
    """What to do next, in one or two lines."""
    causes = Counter(failure.cause for failure in failures)
    if total and causes["already-in-base"] == total:
        return (
            f"all of it ({_of(total, total)}) is already in the base: merged upstream in this base; drop {overlay.id}"
        )
    supplied = Counter(failure.supplied_by for failure in failures if failure.supplied_by)
    if supplied:
        owner, count = supplied.most_common(1)[0]
        if count == total:
            return f"{_of(count, total)} of {overlay.id} are already supplied by {owner}; drop {overlay.id}"
        carried = _carried(selection, steps, str(owner))
        if carried is not None:
            return f"{overlay.id} carries {carried} of {owner}: remove {owner} from the recipe"
        return f"{_of(count, total)} of {overlay.id} are already supplied by {owner}, which carries only a part of it"
    if causes["already-in-base"]:
        return (
            f"some of it ({_of(causes['already-in-base'], total)}) is already in the base: part of {overlay.id} was merged\n"
            "upstream; take a version of the diff that is made for this base"
        )
    if causes["blocked"]:
        return "the overlays are in the wrong order: see which one must come first, and move it up in the recipe"
    if causes["missing-file"] and causes["missing-file"] == len(failures):
        return f"{overlay.id} is made for another version of the package: it changes files that this base does not have"
    return f"{overlay.id} is made for other lines than this base and the overlays before it have: rebase it, or use the base it was made for"


def _of(count: int, total: int) -> str:
    return f"{count} of {total} hunks"


def _carried(selection: Selection, steps: Sequence[Step], owner: str) -> str | None:
    """How many of an earlier overlay's hunks this one brings itself, when it brings them all: `all 5 hunks`.

    It does when it applies where the earlier one was applied, and every hunk's result of the earlier one is there then.
    """
    step = next(step for step in steps if step.overlay.id == owner)
    tree: Tree = step.before
    for change in selection.changes:
        source = tree.get(change.old_path) if change.old_path is not None else None
        spots = placed(Text.of(source.data if source else b""), change)
        outcome = apply_change(tree, change, spots) if spots is not None else None
        if outcome is None:
            return None
        tree = outcome
    count = 0
    for change in step.selection.changes:
        content = tree.get(change.path)
        if content is None:
            if change.kind != "delete":
                return None
            count += 1
            continue
        text = Text.of(content.data)
        # What a hunk finds may stand elsewhere in the file too; that its result stands there is enough.
        if not all(places(text, new_lines(hunk), missing_newline=hunk.new_missing_newline) for hunk in change.hunks):
            return None
        count += max(1, len(change.hunks))
    return f"all {count} hunks"
