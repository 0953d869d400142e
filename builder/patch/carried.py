"""Where a stack has carried the lines of a base file: one look-up, however many overlays have changed the file.

A file's lines are kept as runs: lines of the base that were neither removed nor separated in any version so far. Each overlay
that changes the file splits and moves them in one pass, so that the work is that of the file's own versions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from builder.patch.model import FileChange, Hunk
from builder.patch.tree import Step


@dataclass(frozen=True)
class Runs:
    """The runs of one version of a file: where each begins in the base, where it is now, and its size. All in lines, from 0.

    The file's end counts as one more line, so that a block at the end is told from one that has something behind it.
    """

    bases: Sequence[int]
    places: Sequence[int]
    sizes: Sequence[int]

    @classmethod
    def of(cls, lines: int) -> Runs:
        return cls((0,), (0,), (lines + 1,))

    def block(self, index: int, size: int) -> int | None:
        """Where a block of base lines is, when it and the line behind it have stayed together; None when they have not."""
        number = bisect_right(self.bases, index) - 1
        if number < 0 or index + size + 1 > self.bases[number] + self.sizes[number]:
            return None
        return self.places[number] + index - self.bases[number]

    def after(self, hunks: Sequence[Hunk], spots: Sequence[int | None]) -> Runs:
        """The runs after hunks were applied at `spots`."""
        old = list(self.bases), list(self.places), list(self.sizes)
        bases, places, sizes = old
        new: tuple[list[int], list[int], list[int]] = [], [], []
        taken = shift = 0
        for begin, removed, added in _regions(hunks, spots):
            last = bisect_right(places, begin, taken) - 1
            if last >= taken:
                _take(new, old, taken, last, shift)
                _put(new, bases[last], places[last] + shift, min(sizes[last], begin - places[last]))
                taken = last
            end = begin + removed
            while taken < len(places) and places[taken] + sizes[taken] <= end:
                taken += 1
            if taken < len(places) and (gone := end - places[taken]) > 0:
                bases[taken] += gone
                places[taken] += gone
                sizes[taken] -= gone
            shift += added - removed
        _take(new, old, taken, len(places), shift)
        return Runs(*new)


def _take(
    new: tuple[list[int], list[int], list[int]],
    old: tuple[list[int], list[int], list[int]],
    begin: int,
    end: int,
    shift: int,
) -> None:
    new[0].extend(old[0][begin:end])
    new[1].extend([place + shift for place in old[1][begin:end]])
    new[2].extend(old[2][begin:end])


def _put(new: tuple[list[int], list[int], list[int]], base: int, place: int, size: int) -> None:
    if size > 0:
        for each, value in zip(new, (base, place, size), strict=True):
            each.append(value)


def _regions(hunks: Sequence[Hunk], spots: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """What the hunks change, in order: the index of the first line, how many lines are removed, how many are added."""
    for hunk, spot in zip(hunks, spots, strict=True):
        assert spot is not None  # noqa: S101  `carried` asks for hunks that have a place only
        at = spot
        for kept, removed, added in hunk.groups:
            at += kept
            yield at, removed, added
            at += removed


@dataclass(frozen=True)
class _State:
    """One base file after so many steps: its path, and its runs; no runs when it is gone, or nobody knows where its hunks went."""

    steps: int
    path: str
    runs: Runs | None


@dataclass
class _Trail:
    """What is known of the base's files after steps that are known so far. The first of them keeps it."""

    last: Step
    known: int = 0
    changing: dict[str, list[int]] = field(default_factory=dict)
    """Path -> the numbers (from 0) of the steps that change, move or delete it."""
    states: dict[str, _State] = field(default_factory=dict)
    """The base's path -> the newest state that was asked for."""

    def extend(self, steps: Sequence[Step]) -> None:
        for number in range(self.known, len(steps)):
            for path in steps[number].selection.sources:
                self.changing.setdefault(path, []).append(number)
        self.known, self.last = len(steps), steps[-1]


def carried(steps: Sequence[Step], path: str) -> Runs | None:
    """The runs of the base's file `path` after `steps`; None when it was removed, or a step does not say where its hunks went."""
    first = steps[0]
    trail: _Trail | None = first.__dict__.get("trail")
    # A step belongs to one row of steps: where the last known one is still in its place, so are those before it.
    if trail is None or trail.known > len(steps) or steps[trail.known - 1] is not trail.last:
        trail = first.__dict__["trail"] = _Trail(first)
    if trail.known < len(steps):
        trail.extend(steps)
    state = trail.states.get(path)
    if state is None:
        content = first.before.get(path)
        state = _State(0, path, Runs.of(len(content.text.lines)) if content is not None else None)
    trail.states[path] = state = _advanced(state, steps, trail.changing)
    return state.runs


def _advanced(state: _State, steps: Sequence[Step], changing: Mapping[str, Sequence[int]]) -> _State:
    """A file's state after all steps, of which only those are looked at that change it."""
    number, path, runs = state.steps, state.path, state.runs
    while runs is not None:
        numbers = changing.get(path, ())
        at = bisect_left(numbers, number)
        if at == len(numbers):
            break
        number = numbers[at]
        position = -1
        while runs is not None and (found := steps[number].selection.next_of(path, position)) is not None:
            position, change = found
            runs = _changed(runs, change, steps[number])
            path = change.path
        number += 1
    return _State(len(steps), path, runs)


def _changed(runs: Runs, change: FileChange, step: Step) -> Runs | None:
    if change.kind == "delete":
        return None
    spots = step.spots.get(change.diff_line, () if not change.hunks else None)
    if spots is None or None in spots or len(spots) != len(change.hunks):
        return None
    return runs.after(change.hunks, spots) if change.hunks else runs
