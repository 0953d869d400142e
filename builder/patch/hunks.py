"""Applying hunks to bytes, strictly: no guessing, every line compared.

GNU patch does the work; this is the second opinion that its result is compared with, and the means to say why a hunk
does not fit. The lines of one version of a file are split and indexed once, however many hunks look for their place.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from builder.patch.model import Hunk

# Above this many candidates, one search through the bytes is faster than a comparison for each.
_MANY = 200
# The markers of a hunk that takes the file's first lines away.
_REMOVED_FIRST = re.compile(rb"-+(?: |$)")


@dataclass(frozen=True)
class Text:
    """A file as lines without their line endings, and whether the last one ends in a newline."""

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

    @cached_property
    def index(self) -> dict[bytes, list[int]]:
        """Line -> its positions (from 0), in order."""
        where: dict[bytes, list[int]] = {}
        for number, line in enumerate(self.lines):
            where.setdefault(line, []).append(number)
        return where

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was found out about this version of the file: it never changes, so nothing is computed twice."""
        return {}

    @cached_property
    def _haystack(self) -> tuple[bytes, list[int]]:
        """All lines with a newline on either side, and where the newline before each line is."""
        joined = b"\n" + b"\n".join(self.lines) + b"\n"
        return joined, list(accumulate((len(line) + 1 for line in self.lines[:-1]), initial=0))

    def find(self, block: tuple[bytes, ...]) -> list[int]:
        """All positions (from 0) of a block of lines, in order."""
        key = ("find", block)
        found: list[int] | None = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self._find(block)
        return found

    def _find(self, block: tuple[bytes, ...]) -> list[int]:
        offset, rarest = 0, self.index.get(block[0], [])
        for number, line in enumerate(block):
            positions = self.index.get(line)
            if positions is None:
                return []
            if len(positions) < len(rarest):
                offset, rarest = number, positions
        if len(rarest) > _MANY:
            return self._search(block)
        size = len(block)
        return [
            at - offset
            for at in rarest
            if at >= offset and self.lines[at - offset : at - offset + size] == block
        ]  # fmt: skip

    def _search(self, block: tuple[bytes, ...]) -> list[int]:
        joined, starts = self._haystack
        needle = b"\n" + b"\n".join(block) + b"\n"
        found: list[int] = []
        at = joined.find(needle)
        while at >= 0:
            found.append(bisect_left(starts, at))
            at = joined.find(needle, at + 1)
        return found


def old_lines(hunk: Hunk) -> tuple[bytes, ...]:
    """The lines that a hunk finds."""
    return hunk.old


def old_index(hunk: Hunk) -> int:
    """Where a hunk's old lines begin, from 0. A hunk without old lines names the line that it follows."""
    return hunk.old_start - 1 if hunk.old_count else hunk.old_start


def stands_at(text: Text, block: tuple[bytes, ...], index: int, *, missing_newline: bool) -> bool:
    """Whether `block` is at `index` of `text`, with the same kind of end when it reaches the end."""
    end = index + len(block)
    if index < 0 or end > len(text.lines) or text.lines[index:end] != block:
        return False
    at_end = bool(block) and end == len(text.lines)
    return (at_end and not text.ends) == missing_newline if at_end or missing_newline else True


def places(text: Text, block: tuple[bytes, ...], *, missing_newline: bool = False) -> list[int]:
    """All places (from 0) of `block` in `text`, in order."""
    if not block:
        return []
    found = text.find(block)
    if not found:
        return []
    # Only the last place can reach the end of the file, where the newline counts.
    if missing_newline:
        return found[-1:] if stands_at(text, block, found[-1], missing_newline=True) else []
    return found if stands_at(text, block, found[-1], missing_newline=False) else found[:-1]


def found_at(text: Text, hunk: Hunk) -> list[int]:
    """All places (from 0) of the lines that a hunk finds."""
    return places(text, hunk.old, missing_newline=hunk.old_missing_newline)


def result_at(text: Text, hunk: Hunk) -> list[int]:
    """All places (from 0) of the lines that a hunk leaves.

    Where it takes lines away at the file's end or beginning, no context tells that they are gone: what it leaves is in the
    file before it too. So its result is only at that end, or at that beginning.
    """
    found = places(text, hunk.new, missing_newline=hunk.new_missing_newline)
    if hunk.markers.endswith(b"-"):
        found = [at for at in found if at + len(hunk.new) == len(text.lines)]
    if _REMOVED_FIRST.match(hunk.markers):
        found = [at for at in found if at == 0]
    return found


def context(hunk: Hunk) -> tuple[int, int]:
    """How many lines of context a hunk begins and ends with."""
    return hunk.context


def apply_hunks(text: Text, hunks: Sequence[Hunk], offsets: Sequence[int], fuzzes: Sequence[int]) -> Text | None:
    """Apply every hunk at its stated line plus its offset, or return None when its lines are not there.

    `offsets` are in lines of the file as it was, as GNU patch reports them; `fuzzes` the context lines at either end
    that may differ and are kept as the file has them. One pass: a hunk may share context with the one before it, and
    never reaches back into what that one changed.
    """
    parts: list[bytes] = []
    done = 0
    lines, ends = text.lines, text.ends
    for hunk, offset, fuzz in zip(hunks, offsets, fuzzes, strict=True):
        head, tail = _ignored(hunk, fuzz) if fuzz else (0, 0)
        old, new = hunk.old, hunk.new
        if fuzz:
            old, new = old[head : len(old) - tail], new[head : len(new) - tail]
        start = old_index(hunk) + offset + head
        if not stands_at(text, old, start, missing_newline=hunk.old_missing_newline and not tail):
            return None
        # Context stays as it is; only what is between the first and the last change is written anew.
        first, last = hunk.context
        first, last = first - head, last - tail
        begin, end = start + first, start + len(old) - last
        if begin < done:
            return None
        parts += lines[done:begin]
        parts += new[first : len(new) - last]
        done = end
        if start + len(old) == len(lines):
            ends = not (hunk.new_missing_newline and not tail)
    parts += lines[done:]
    return Text(tuple(parts), ends if parts else True)


def _ignored(hunk: Hunk, fuzz: int) -> tuple[int, int]:
    """How many context lines at the head and the tail GNU patch ignores at a fuzz factor."""
    if not fuzz:
        return 0, 0
    head, tail = hunk.context
    longer = max(head, tail)
    return max(0, fuzz + head - longer), max(0, fuzz + tail - longer)
