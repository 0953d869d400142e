"""The hunks of one file in the order of their lines: people put them together from several diffs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from builder.patch.model import Hunk


def overlap(one: Hunk, other: Hunk) -> bool:
    """Whether the hunk `other` begins before `one` ends, or before it begins.

    So does one that goes on where the other ends: context before a change and none behind it is for the file's end.
    """
    end = _begin(one) + one.old_count
    head, tail = one.context
    return _begin(other) < end or (_begin(other) == end and bool(head) and not tail and bool(other.old_count))


def in_order(hunks: Sequence[Hunk]) -> tuple[Hunk, ...] | None:
    """The hunks sorted, and those that share context, or that nothing is between, as one; None when two change the same lines, or contradict each other.

    Each names its lines in the file as it was, so that sorted hunks say the same.
    """
    found: list[Hunk] = []
    for hunk in sorted(hunks, key=_begin):
        if found and overlap(found[-1], hunk):
            merged = _merged(found[-1], hunk)
            if merged is None:
                return None
            found[-1] = merged
        else:
            found.append(hunk)
    shift = 0
    for number, hunk in enumerate(found):
        start = _begin(hunk) + shift + (1 if hunk.new_count else 0)
        found[number] = replace(hunk, new_start=start, heading=hunk.heading, header=hunk.header)
        shift += hunk.new_count - hunk.old_count
    return tuple(found)


def _begin(hunk: Hunk) -> int:
    """Where a hunk begins, from 0. One without old lines names the line that it follows."""
    return hunk.old_start - 1 if hunk.old_count else hunk.old_start


def _merged(one: Hunk, other: Hunk) -> Hunk | None:
    """Two hunks that share lines of context, or have none between them, as one."""
    begin, follows = _begin(one), _begin(other)
    changed_to = begin + one.old_count - one.context[1]
    if (
        changed_to > follows + other.context[0]
        or one.old_missing_newline
        or one.new_missing_newline
        or not other.old_count
    ):
        return None
    shared = min(begin + one.old_count, follows + other.old_count) - follows
    at = follows - begin
    if at < 0 or one.old[at : at + shared] != other.old[:shared]:
        return None
    kept = one.lines[: len(one.lines) - one.context[1]]
    between = one.old[changed_to - begin : max(at, changed_to - begin)]
    rest = other.lines[max(0, changed_to - follows) :]
    behind = one.old[follows + other.old_count - begin :] if follows + other.old_count - begin < one.old_count else ()
    if behind and (other.old_missing_newline or other.new_missing_newline):
        return None
    lines = (*kept, *(b" " + line for line in between), *rest, *(b" " + line for line in behind))
    old, new = sum(line[:1] != b"+" for line in lines), sum(line[:1] != b"-" for line in lines)
    return Hunk(
        one.old_start, old, one.new_start, new, lines, other.old_missing_newline, other.new_missing_newline,
        one.diff_line, heading=one.heading,
    )  # fmt: skip
