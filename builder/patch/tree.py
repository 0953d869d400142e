"""The files that a stack concerns, as values: a tree, one overlay's step from tree to tree, and the error of one that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builder.patch import gnupatch
from builder.patch.hunks import Text, apply_hunks
from builder.patch.model import AppliedHunk, FileChange, HunkFailure, Overlay
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


Tree = dict[str, Content]


@dataclass(frozen=True)
class Step:
    """The tree as one overlay found it, and what it selected. Reports look back over these."""

    overlay: Overlay
    selection: Selection
    before: Tree
    after: Tree
    hunks: tuple[AppliedHunk, ...] = ()


def apply_change(tree: Tree, change: FileChange, spots: Sequence[gnupatch.Placed | None]) -> Tree | None:
    """One file change on a tree, strictly, or None when it does not fit."""
    result = dict(tree)
    source = result.get(change.old_path) if change.old_path is not None else None
    if change.kind == "add":
        if change.path in result:
            return None
        source = Content(b"")
    if source is None:
        return None
    if change.kind in ("rename", "copy") and change.new_path in result:
        return None
    text = apply_hunks(
        Text.of(source.data),
        change.hunks,
        [spot.offset if spot else 0 for spot in spots],
        [spot.fuzz if spot else 0 for spot in spots],
    )
    if text is None:
        return None
    if change.kind in ("delete", "rename") and change.old_path is not None:
        del result[change.old_path]
    if change.kind == "delete":
        return result if not text.lines else None
    executable = change.new_mode == "100755" if change.new_mode is not None else source.executable
    result[change.path] = Content(text.join(), executable)
    return result
