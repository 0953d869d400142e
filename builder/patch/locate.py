"""Finding where a hunk would go, without changing anything: what reports are based on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from builder.patch.gnupatch import Placed
from builder.patch.hunks import Text, found_at, old_index, result_at, stands_at
from builder.patch.model import FileChange, Hunk

# How many lines away a hunk's place is looked for one by one.
_NEAR = 100
# A line that a file has more often does not tell where a block belongs.
_COMMON = 1000


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
    expected = old_index(hunk) + drift
    if not hunk.old:
        return expected if 0 <= expected <= len(text.lines) else None
    head, tail = hunk.context
    if head < tail and hunk.old_start <= 1:
        return 0 if floor == 0 and _stands(text, hunk, 0) else None
    if tail < head:
        last = len(text.lines) - len(hunk.old)
        return last if last >= floor and _stands(text, hunk, last) else None
    near = _near(text, hunk, expected, floor)
    return near if near is not None else closest(found_at(text, hunk), expected, floor)


def _near(text: Text, hunk: Hunk, expected: int, floor: int) -> int | None:
    """The closest place that is not far away: most hunks go there, and no index of the lines is needed for them."""
    lines, first = text.lines, hunk.old[0]
    if floor <= expected < len(lines) and lines[expected] == first and _stands(text, hunk, expected):
        return expected
    if "index" in text.__dict__:
        return None
    below = _first(text, hunk, range(max(expected + 1, floor), max(0, min(expected + _NEAR, len(lines)))))
    # What is above must be closer than what is below.
    least = expected - (below - expected if below is not None else _NEAR) + 1
    above = _first(text, hunk, range(min(expected, len(lines)) - 1, max(least, floor) - 1, -1))
    return above if above is not None else below


def _first(text: Text, hunk: Hunk, places: range) -> int | None:
    """The first of some places, one by one up or down, where a hunk fits."""
    first = hunk.old[0]
    around = (
        text.lines[places.start : places.stop]
        if places.step > 0
        else text.lines[places.stop + 1 : places.start + 1][::-1]
    )
    at = -1
    with suppress(ValueError):
        while True:
            at = around.index(first, at + 1)
            if _stands(text, hunk, places[at]):
                return places[at]
    return None


def _stands(text: Text, hunk: Hunk, index: int) -> bool:
    return stands_at(text, hunk.old, index, missing_newline=hunk.old_missing_newline)


def closest(found: Sequence[int], expected: int, floor: int = 0) -> int | None:
    """The one of sorted places that is closest to `expected` and not above `floor`; of two, the one below."""
    first = bisect_left(found, floor)
    at = bisect_left(found, expected, lo=first)
    around = [found[index] for index in (at, at - 1) if first <= index < len(found)]
    return min(around, key=lambda index: (abs(index - expected), -index), default=None)


def locate_all(text: Text, hunks: Sequence[Hunk]) -> list[int | None]:
    """Where each hunk belongs in the file as it is, before any of them is applied."""
    # The hunks of a change are one object through a whole run: kept in the entry, it keeps its id.
    known = text.memo.get(id(hunks))
    if known is not None and known[0] is hunks:
        return list(known[1])
    spots: list[int | None] = []
    drift = floor = 0
    for hunk in hunks:
        index = locate(text, hunk, drift=drift, floor=floor)
        if index is not None:
            drift = index - old_index(hunk)
            floor = max(floor, index + hunk.old_count - hunk.context[1])
        spots.append(index)
    text.memo[id(hunks)] = hunks, tuple(spots)
    return spots


def placed(text: Text, change: FileChange) -> list[Placed] | None:
    """The places of all hunks in the form that `apply_change` takes, or None when one fits nowhere."""
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
    """Whether what the hunk leaves is in the text already, and what it finds is not."""
    return locate(text, hunk) is None and bool(result_at(text, hunk))


def nearest(text: Text, block: Sequence[bytes], expected: int) -> Nearest | None:
    """The place where most lines of `block` agree; of equal ones the nearest to `expected`."""
    votes: dict[int, int] = {}
    for offset, line in enumerate(block):
        # Blank lines, lone brackets and whatever is everywhere say nothing about the place.
        where = text.index.get(line, []) if len(line.strip()) > 1 else []
        for position in where if len(where) <= _COMMON else []:
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
