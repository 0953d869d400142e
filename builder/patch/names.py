"""Names in diffs that were not made from the repository's root: which folders come off, and which one goes before them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from builder.patch.model import FileChange


def moved(path: str, strip: int, under: str) -> str | None:
    """A name without its first `strip` folders, below `under`; None when it has no more than that."""
    parts = path.split("/")
    if strip >= len(parts):
        return None
    rest = "/".join(parts[max(strip, 0) :])
    return f"{under}/{rest}" if under else rest


def relocated(changes: Iterable[FileChange], strip: int, under: str) -> tuple[FileChange, ...]:
    """Changes whose names have lost their a/ and b/, with `strip` - 1 more folders taken off, below `under`.

    What has too few folders keeps its name, and is outside the package.
    """
    return tuple(_relocated(change, strip - 1, under) for change in changes)


def _relocated(change: FileChange, strip: int, under: str) -> FileChange:
    if change.outside:
        return change
    old = moved(change.old_path, strip, under) if change.old_path is not None else None
    new = moved(change.new_path, strip, under) if change.new_path is not None else None
    if (old is None) != (change.old_path is None) or (new is None) != (change.new_path is None):
        return replace(change, outside=True)
    return replace(change, old_path=old, new_path=new)


def plain_name(old: str, new: str) -> str:
    """Which of the two names of a plain diff is the file: of `x` and `x.orig`, `x.new` or `x~`, in either order, it is `x`.

    git's rule (apply.c, `find_name_common`), which GNU patch's agrees with: the shorter one, when the other begins with it.
    """
    return old if new.startswith(old) else new


def beside(old: str, new: str) -> bool:
    """Whether one of two names is the other with an ending that people and tools add: `.orig`, `~`, `_new`."""
    longer, shorter = sorted((old, new), key=len, reverse=True)
    return longer.startswith(shorter) and longer[len(shorter) : len(shorter) + 1] in (".", "~", "_", "-")
