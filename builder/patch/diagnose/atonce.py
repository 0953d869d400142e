"""Renames and copies that mean the files as they are before the whole diff, whatever the order of its sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.patch.model import FileChange, HunkFailure
from builder.patch.sequence import in_sequence
from builder.patch.tree import Content


def at_once(
    changes: Sequence[FileChange], failures: Sequence[HunkFailure], before: Mapping[str, Content]
) -> FileChange | None:
    """A rename or copy whose meaning depends on that, when it or nothing else is what fails; None without one.

    git takes a diff as one change: what it copies is what the file was, and two files can change their names. A series of
    mails is several changes, with the same sections. Without the mails' headers nothing tells which is meant.
    """
    in_turn = in_sequence(changes, before)
    failed = {failure.path for failure in failures}
    for number, change in enumerate(changes):
        if (
            number in in_turn
            or change.kind not in ("rename", "copy")
            or (failures and failed.isdisjoint({change.path, change.old_path or ""}))
        ):
            continue
        above = any(each.path == change.old_path for each in changes[:number])
        below = any(each.old_path == change.path for each in changes[number + 1 :])
        if above or below:
            return change
    return None


def said_of(change: FileChange) -> str:
    what = "copies" if change.kind == "copy" else "renames"
    return f"it {what} {change.old_path} to {change.path}, and changes one of them elsewhere too: before or after that is not said"
