"""Finding where a hunk would stand, without changing anything: the ground on which reports stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.patch.gnupatch import Placed
from builder.patch.hunks import Text, context, found_at, old_index, old_lines, result_at, stands_at
from builder.patch.model import FileChange, Hunk


@dataclass(frozen=True)
class Nearest:
    """The place that resembles a block most: its index from 0, how many lines agree, and the first that does not."""

    index: int
    agreeing: int
    differs_at: int


def locate(text: Text, hunk: Hunk, *, drift: int = 0, floor: int = 0) -> int | None:
    """Where GNU patch, without fuzz, puts a hunk (index from 0, into the old text); None when nowhere.

    It looks where the diff says plus `drift`, then further and further away, below before above; never above `floor`. A
    hunk with less context at its end than at its beginning goes to the file's end only, since a diff leaves context out
    nowhere else; one that begins the file with less at its beginning, to its beginning only (patch.c, `locate_hunk`).
    """
    block = old_lines(hunk)
    expected = old_index(hunk) + drift
    last = len(text.lines) - len(block)
    if not block:
        return expected if 0 <= expected <= len(text.lines) else None
    head, tail = context(hunk)
    if head < tail and hunk.old_start <= 1:
        found = [0] if floor == 0 and (not tail or last >= 0) else []
    elif tail < head:
        found = [last]
    else:
        found = found_at(text, hunk)
    fitting = [
        index
        for index in found
        if index >= floor and stands_at(text, block, index, missing_newline=hunk.old_missing_newline)
    ]
    return min(fitting, key=lambda index: (abs(index - expected), -index), default=None)


def locate_all(text: Text, hunks: Sequence[Hunk]) -> list[int | None]:
    """Where each hunk stands in the file as it is, before any of them is applied."""
    spots: list[int | None] = []
    drift = floor = 0
    for hunk in hunks:
        index = locate(text, hunk, drift=drift, floor=floor)
        if index is not None:
            drift = index - old_index(hunk)
            floor = max(floor, index + hunk.old_count - context(hunk)[1])
        spots.append(index)
    return spots


def placed(text: Text, change: FileChange) -> list[Placed] | None:
    """The places of all hunks in the form that `apply_change` takes, or None when one stands nowhere."""
    return as_placed(change.hunks, locate_all(text, change.hunks))


def as_placed(hunks: Sequence[Hunk], spots: Sequence[int | None]) -> list[Placed] | None:
    """Places that `locate_all` found, in the form that `apply_change` takes."""
    if any(spot is None for spot in spots):
        return None
    return [
        Placed(0, number, 0, (spot or 0) - old_index(hunk), 0)
        for number, (hunk, spot) in enumerate(zip(hunks, spots, strict=True), 1)
    ]


def has_result(text: Text, hunk: Hunk) -> bool:
    """Whether what the hunk leaves stands in the text already, and what it finds does not."""
    return locate(text, hunk) is None and bool(result_at(text, hunk))


def nearest(text: Text, block: Sequence[bytes], expected: int) -> Nearest | None:
    """The place where most lines of `block` agree; of equal ones the nearest to `expected`."""
    where: Mapping[bytes, list[int]] = _positions(text)
    votes: dict[int, int] = {}
    for offset, line in enumerate(block):
        # Blank lines and lone brackets stand everywhere and say nothing about the place.
        for position in where.get(line, []) if len(line.strip()) > 1 else []:
            votes[position - offset] = votes.get(position - offset, 0) + 1
    if not votes:
        return None
    index = max(votes, key=lambda start: (votes[start], -abs(start - expected)))
    differs = next(
        (
            offset
            for offset, line in enumerate(block)
            if not 0 <= index + offset < len(text.lines) or text.lines[index + offset] != line
        ),
        0,
    )
    return Nearest(index, votes[index], differs)


def _positions(text: Text) -> dict[bytes, list[int]]:
    where: dict[bytes, list[int]] = {}
    for number, line in enumerate(text.lines):
        where.setdefault(line, []).append(number)
    return where
