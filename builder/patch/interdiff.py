"""What changed in a change: two versions of one overlay's diff, compared file by file as `git range-diff` does.

Where a hunk is does not count: a change that only moved with its base is the same change.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from builder.patch.model import Diff, FileChange
from builder.patch.paths import quote


def same_change(old: Diff, new: Diff, *, context: bool = False) -> bool:
    """Whether two diffs add and remove the same lines in the same files, wherever these are.

    With `context`, the lines around them must be the same too.
    """
    signs = b"+- " if context else b"+-"
    return [_essence(change, signs) for change in old.changes] == [_essence(change, signs) for change in new.changes]


def interdiff(old: Diff, new: Diff) -> str:
    """The difference between two diffs as text: a line with `+` in front was added to the diff. Empty when there is none."""
    before = {change.path: change for change in old.changes}
    after = {change.path: change for change in new.changes}
    parts: list[str] = []
    for path in dict.fromkeys([*before, *after]):
        left, right = _lines(before.get(path)), _lines(after.get(path))
        if left == right:
            continue
        name = quote(path).decode()
        mark = (
            "no longer changed" if path not in after else "changed now" if path not in before else "changed otherwise"
        )
        parts.append(f"{name}: {mark}")
        body = list(difflib.unified_diff(left, right, lineterm="", n=3))[2:]
        parts += [line for line in body if not line.startswith("@@ ")]
    return "".join(f"{line}\n" for line in parts)


def _essence(change: FileChange, signs: bytes) -> tuple[object, ...]:
    moved: Sequence[bytes] = [line for hunk in change.hunks for line in hunk.lines if line[:1] in signs]
    return change.kind, change.old_path, change.new_path, change.new_mode, change.binary, tuple(moved)


def _lines(change: FileChange | None) -> list[str]:
    if change is None:
        return []
    lines = [
        f"{change.kind} {change.old_path or '/dev/null'} -> {change.new_path or '/dev/null'} {change.new_mode or ''}".rstrip()
    ]
    for hunk in change.hunks:
        lines.append("@@")
        lines += [line.decode("utf-8", "replace") for line in hunk.lines]
    return lines
