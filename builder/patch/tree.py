"""The files that a stack concerns, as values: a tree, one overlay's step from tree to tree, and the error of one that fails."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from builder.patch import gnupatch
from builder.patch.hunks import Text, apply_hunks, old_index
from builder.patch.locate import locate_all
from builder.patch.model import AppliedHunk, FileChange, Hunk, HunkFailure, Overlay
from builder.patch.select import Selection
from builder.util.errors import ApplyError


class StackError(ApplyError):
    """An overlay does not apply; `failures` says why, hunk by hunk. Nothing was written."""

    def __init__(
        self,
        message: str,
        *,
        overlay: str,
        failures: Sequence[HunkFailure] = (),
        details: Sequence[tuple[str, str]] = (),
        hint: str | None = None,
        data: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, details=details, hint=hint, data={"overlay": overlay, **dict(data or {})})
        self.overlay = overlay
        self.failures = tuple(failures)


@dataclass(frozen=True)
class Content:
    """A file of the tree while the stack is applied: its bytes and whether it is executable."""

    data: bytes = field(repr=False)
    executable: bool = False

    @property
    def mode(self) -> int:
        return 0o755 if self.executable else 0o644

    @cached_property
    def text(self) -> Text:
        """The content as lines, split once."""
        return Text.of(self.data)


Tree = dict[str, Content]


@dataclass(frozen=True)
class Step:
    """The tree as one overlay found it, and what it selected. Reports look back over these."""

    overlay: Overlay
    selection: Selection
    before: Tree
    after: Tree
    hunks: tuple[AppliedHunk, ...] = ()
    spots: Mapping[int, Sequence[int | None]] = field(default_factory=dict)
    """Where the hunks of a change went in the file before it (index from 0), by the change's line in the diff."""

    def note(self, hunks: tuple[AppliedHunk, ...]) -> None:
        """GNU patch has ended, and reported where the hunks went."""
        self.__dict__["hunks"] = hunks

    def moved(self, change: FileChange, index: int) -> int | None:
        """Where the line `index` (from 0) of a file is after one of this overlay's changes; None when it is gone."""
        return self._moves(change).of(index)

    def _moves(self, change: FileChange) -> Moves:
        known: dict[int, Moves] = self.__dict__.setdefault("known_moves", {})
        if change.diff_line not in known:
            source = self.before.get(change.old_path or "", Content(b""))
            spots = self.spots.get(change.diff_line) or locate_all(source.text, change.hunks)
            known[change.diff_line] = Moves.of_hunks(change.hunks, spots)
        return known[change.diff_line]


@dataclass(frozen=True)
class Moves:
    """Where a file's lines go when its hunks are applied."""

    starts: Sequence[int]
    hunks: Sequence[Hunk]
    shifts: Sequence[int]
    """By how many lines what comes before each hunk has moved; the last one is for what comes after all of them."""

    @classmethod
    def of_hunks(cls, hunks: Sequence[Hunk], spots: Sequence[int | None]) -> Moves:
        placed = [(spot, hunk) for spot, hunk in zip(spots, hunks, strict=True) if spot is not None]
        shifts = list(accumulate((hunk.new_count - hunk.old_count for _, hunk in placed), initial=0))
        return cls([spot for spot, _ in placed], [hunk for _, hunk in placed], shifts)

    def of(self, index: int) -> int | None:
        """The new index of a line, from 0, or None when a hunk removes it."""
        number = bisect_right(self.starts, index) - 1
        if number < 0:
            return index
        hunk, old = self.hunks[number], self.starts[number]
        if old + hunk.old_count <= index:
            return index + self.shifts[number + 1]
        shift = self.shifts[number]
        for line in hunk.lines:
            if line[:1] == b"+":
                shift += 1
            elif old == index:
                return index + shift if line[:1] == b" " else None
            else:
                shift -= line[:1] == b"-"
                old += 1
        return index + shift


def apply_change(tree: Tree, change: FileChange, spots: Sequence[gnupatch.Placed | None]) -> Tree | None:
    """One file change on a copy of a tree, strictly, or None when it does not fit."""
    result = dict(tree)
    return result if change_in(result, change, spots) else None


def change_in(tree: Tree, change: FileChange, spots: Sequence[gnupatch.Placed | None]) -> bool:
    """Make one file change in a tree, strictly; False, with the tree as it was, when it does not fit."""
    offsets, fuzzes = [spot.offset if spot else 0 for spot in spots], [spot.fuzz if spot else 0 for spot in spots]
    return _change(tree, change, offsets, fuzzes)


def change_at(tree: Tree, change: FileChange, spots: Sequence[int | None]) -> bool:
    """As `change_in`, with the hunks at these places (index from 0); False when one of them has none."""
    if None in spots:
        return False
    offsets = [(spot or 0) - old_index(hunk) for hunk, spot in zip(change.hunks, spots, strict=True)]
    return _change(tree, change, offsets, [0] * len(offsets))


def _change(tree: Tree, change: FileChange, offsets: Sequence[int], fuzzes: Sequence[int]) -> bool:
    source = tree.get(change.old_path) if change.old_path is not None else None
    if change.kind == "add":
        if change.path in tree:
            return False
        source = Content(b"")
    if source is None or (change.kind in ("rename", "copy") and change.new_path in tree):
        return False
    text = apply_hunks(source.text, change.hunks, offsets, fuzzes)
    if text is None or (change.kind == "delete" and text.lines and not change.carried_out):
        return False
    if change.kind in ("delete", "rename") and change.old_path is not None:
        del tree[change.old_path]
    if change.kind != "delete":
        executable = change.new_mode == "100755" if change.new_mode is not None else source.executable
        made = Content(text.join(), executable)
        # The lines are known already: they need not be split again.
        made.__dict__["text"] = text
        tree[change.path] = made
    return True
