"""Renames and copies in a series of commits: what comes before them, and what goes on with their result.

GNU patch makes all renames of a diff at once, and looks for no file that one of them has made. Where a file can only be
meant as it is after the sections before it, the rename is given to it as what it does: a new file, and a deleted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from builder.patch.model import FileChange, Hunk
from builder.patch.tree import Content

_MOVES = ("rename", "copy")


def in_sequence(changes: Sequence[FileChange], before: Mapping[str, Content]) -> frozenset[int]:
    """The numbers (from 0) of the renames and copies that mean the files after the sections before them.

    One commit is one change: with a file that exists before it, its sections mean that one, whatever their order. A file
    that does not is the one that an earlier section made, and so is every file of an earlier commit.
    """
    moves = [number for number, change in enumerate(changes) if change.kind in _MOVES]
    if not moves or len(changes) == 1:
        return frozenset()
    making: dict[str, list[int]] = {}
    using: dict[str, list[int]] = {}
    for number, change in enumerate(changes):
        making.setdefault(change.path, []).append(number)
        if change.old_path is not None:
            using.setdefault(change.old_path, []).append(number)
    found = set()
    for number in moves:
        change = changes[number]
        source = change.old_path or ""
        others = [(each, source) for each in making.get(source, ()) if each < number]
        others += [(each, change.path) for each in using.get(change.path, ()) if each > number]
        if others and all(path not in before or changes[each].commit != change.commit for each, path in others):
            found.add(number)
    return frozenset(found)


def source_as_it_was(changes: Sequence[FileChange], number: int, before: Mapping[str, Content]) -> Content | None:
    """The file that a copy copies, before the section of the same commit that changes it; None when none does.

    That is what git means. It counts where the copy does not fit what the file is after that section.
    """
    change = changes[number]
    if change.kind != "copy":
        return None
    makers = [each for each in changes[:number] if each.path == change.old_path]
    if not makers or any(each.kind != "modify" or each.commit != change.commit for each in makers):
        return None
    return before.get(change.old_path or "")


def spelled_out(change: FileChange, source: Content) -> tuple[FileChange, ...]:
    """A rename or copy as sections that name one file each: what is made, what the hunks (if any) change, what is deleted."""
    mode = "100755" if source.executable else "100644"
    made = FileChange("add", None, change.path, _whole(source, b"+"), None, mode, change.diff_line)
    parts = [made]
    if change.hunks or change.new_mode is not None:
        kind = "modify" if change.hunks else "mode"
        parts.append(replace(change, kind=kind, old_path=change.path, old_mode=None))  # type: ignore[arg-type]
    if change.kind == "rename":
        parts.append(FileChange("delete", change.old_path, None, _whole(source, b"-"), mode, None, change.diff_line))
    return tuple(parts)


def never_filled(
    changes: Sequence[FileChange], sections: Sequence[int], before: Mapping[str, Content]
) -> tuple[Sequence[FileChange], Sequence[int]]:
    """The changes without those of a file that is empty before them and gone after them, and the numbers of what is left.

    GNU patch looks for a file that it deletes as it was before the diff: one that was empty then is "already empty", though
    an earlier section has filled it.
    """
    gone = {
        change.old_path: number
        for number, change in enumerate(changes)
        if change.kind == "delete" and change.hunks and _is_empty(before.get(change.old_path or ""))
    }
    made = {change.path for change in changes if change.kind in ("add", *_MOVES)}
    gone = {path: number for path, number in gone.items() if path not in made}
    if not gone:
        return changes, sections
    left_out = [
        n for n, change in enumerate(changes) if change.kind in ("modify", "mode") and n < gone.get(change.path, 0)
    ]
    kept = [
        replace(change, hunks=()) if gone.get(change.old_path) == number else change
        for number, change in enumerate(changes)
        if number not in left_out
    ]
    return kept, [-1 if n in left_out else n - sum(each < n for each in left_out) for n in sections]


def _is_empty(content: Content | None) -> bool:
    return content is not None and not content.text.lines


def _whole(content: Content, sign: bytes) -> tuple[Hunk, ...]:
    text = content.text
    if not text.lines:
        return ()
    lines, size = tuple(sign + line for line in text.lines), len(text.lines)
    if sign == b"+":
        return (Hunk(0, 0, 1, size, lines, False, not text.ends),)
    return (Hunk(1, size, 0, 0, lines, not text.ends, False),)
