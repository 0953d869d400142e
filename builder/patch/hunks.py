"""Applying hunks to bytes, strictly: no guessing, every line compared.

GNU patch does the work; this is the second opinion that its result is compared with, and the means to say why a hunk
does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.patch.model import Hunk


@dataclass(frozen=True)
class Text:
    """A file as lines without their ends, and whether the last one ends in a newline."""

    lines: tuple[bytes, ...]
    ends: bool = True

    @classmethod
    def of(cls, data: bytes) -> Text:
        if not data:
            return cls(())
        lines = data.split(b"\n")
        if lines[-1] == b"":
            return cls(tuple(lines[:-1]))
        return cls(tuple(lines), ends=False)

    def join(self) -> bytes:
        if not self.lines:
            return b""
        return b"\n".join(self.lines) + (b"\n" if self.ends else b"")


def old_lines(hunk: Hunk) -> tuple[bytes, ...]:
    """The lines that a hunk finds."""
    return tuple(line[1:] for line in hunk.lines if line[:1] in b" -")


def new_lines(hunk: Hunk) -> tuple[bytes, ...]:
    """The lines that a hunk leaves."""
    return tuple(line[1:] for line in hunk.lines if line[:1] in b" +")


def old_index(hunk: Hunk) -> int:
    """Where a hunk's old lines begin, from 0. A hunk without old lines names the line that it follows."""
    return hunk.old_start - 1 if hunk.old_count else hunk.old_start


def stands_at(text: Text, block: Sequence[bytes], index: int, *, missing_newline: bool) -> bool:
    """Whether `block` stands at `index` of `text`, with the same kind of end when it reaches the end."""
    if index < 0 or index + len(block) > len(text.lines):
        return False
    if text.lines[index : index + len(block)] != tuple(block):
        return False
    at_end = bool(block) and index + len(block) == len(text.lines)
    return (at_end and not text.ends) == missing_newline if at_end or missing_newline else True


def places(text: Text, block: Sequence[bytes], *, missing_newline: bool = False) -> list[int]:
    """All places (from 0) where `block` stands in `text`."""
    if not block:
        return []
    first = block[0]
    return [
        index
        for index, line in enumerate(text.lines)
        if line == first and stands_at(text, block, index, missing_newline=missing_newline)
    ]


def found_at(text: Text, hunk: Hunk) -> list[int]:
    """All places (from 0) where what a hunk finds stands."""
    return places(text, old_lines(hunk), missing_newline=hunk.old_missing_newline)


def result_at(text: Text, hunk: Hunk) -> list[int]:
    """All places (from 0) where what a hunk leaves stands."""
    return places(text, new_lines(hunk), missing_newline=hunk.new_missing_newline)


def context(hunk: Hunk) -> tuple[int, int]:
    """How many lines of context a hunk begins and ends with."""
    markers = [line[:1] for line in hunk.lines]
    head = next((index for index, marker in enumerate(markers) if marker != b" "), len(markers))
    tail = next((index for index, marker in enumerate(reversed(markers)) if marker != b" "), len(markers))
    return head, tail


def apply_hunks(text: Text, hunks: Sequence[Hunk], offsets: Sequence[int], fuzzes: Sequence[int]) -> Text | None:
    """Apply every hunk at its stated line plus its offset, or return None when one does not stand there.

    `offsets` are in lines of the file as it was, as GNU patch reports them; `fuzzes` the context lines at either end
    that may differ and are kept as the file has them.
    """
    current = text
    shift = 0
    for hunk, offset, fuzz in zip(hunks, offsets, fuzzes, strict=True):
        placed = _apply_one(current, hunk, old_index(hunk) + offset + shift, fuzz)
        if placed is None:
            return None
        current = placed
        shift += hunk.new_count - hunk.old_count
    return current


def _apply_one(text: Text, hunk: Hunk, start: int, fuzz: int) -> Text | None:
    head, tail = _ignored(hunk, fuzz)
    old, new = old_lines(hunk), new_lines(hunk)
    old, new = old[head : len(old) - tail], new[head : len(new) - tail]
    start += head
    if not stands_at(text, old, start, missing_newline=hunk.old_missing_newline and not tail):
        return None
    lines = text.lines[:start] + new + text.lines[start + len(old) :]
    reaches_end = start + len(old) == len(text.lines)
    ends = not (hunk.new_missing_newline and not tail) if reaches_end else text.ends
    return Text(lines, ends if lines else True)


def _ignored(hunk: Hunk, fuzz: int) -> tuple[int, int]:
    """How many context lines at the head and the tail GNU patch ignores at a fuzz factor."""
    if not fuzz:
        return 0, 0
    head, tail = context(hunk)
    longer = max(head, tail)
    return max(0, fuzz + head - longer), max(0, fuzz + tail - longer)
