"""Which of several places is meant, where lines repeat: the hunks of a file are in order, and a heading names the place.

One solution is taken; two are a tie, which must not be settled here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from builder.patch.hunks import Text, found_at, old_index
from builder.patch.model import Hunk

# What git puts behind `@@` (xdiff/xemit.c, userdiff.c): by default the last line above that begins with a letter, `_` or
# `$`; for Python, where an attribute says so, the last `class` or `def`, without its indent.
_PLAIN = re.compile(rb"[A-Za-z_$]")
_PYTHON = re.compile(rb"[ \t]*(?:class|(?:async[ \t]+)?def)[ \t]")


def candidates(text: Text, hunk: Hunk) -> list[int]:
    """All places (index from 0, in order) where a hunk can go by itself, as `git apply` has it.

    A hunk without context behind it belongs to the file's end; one that begins the file to its beginning. Less context
    behind a change than before it means nothing (apply.c, `apply_one_fragment`).
    """
    if not hunk.old:
        expected = old_index(hunk)
        return [expected] if 0 <= expected <= len(text.lines) else []
    head, tail = hunk.context
    found = found_at(text, hunk)
    if head < tail and hunk.old_start <= 1:
        return [0] if found[:1] == [0] else []
    if head and not tail:
        last = len(text.lines) - len(hunk.old)
        return [last] if found[-1:] == [last] else []
    return found


def one_order(hunks: Sequence[Hunk], options: Sequence[Sequence[int]]) -> list[int] | None:
    """The only way to give each hunk one of its places so that they stay in order; None for no way, or more than one."""
    # From the last hunk to the first: for each place, how many ways (0, 1, or 2 for more) lead on from there.
    ways: list[list[int]] = []
    following: Sequence[int] = ()
    sums: list[int] = []
    for hunk, places in zip(reversed(hunks), reversed(options), strict=True):
        reach = hunk.old_count - hunk.context[1]
        counts = [1] * len(places) if not ways else [min(2, sums[bisect_left(following, at + reach)]) for at in places]
        ways.append(counts)
        following, sums = places, [0] * (len(places) + 1)
        for index in range(len(places) - 1, -1, -1):
            sums[index] = min(2, sums[index + 1] + counts[index])
    if not sums or sums[0] != 1:
        return None
    chosen: list[int] = []
    floor = 0
    for hunk, places, counts in zip(hunks, options, reversed(ways), strict=True):
        at = next(at for at, count in zip(places, counts, strict=True) if count and at >= floor)
        chosen.append(at)
        floor = at + hunk.old_count - hunk.context[1]
    return chosen


def under_heading(text: Text, places: Sequence[int], heading: bytes) -> list[int]:
    """Those of the places above which git would find this heading."""
    wanted = heading.strip()
    return [at for at in places if any(_above(text, at, rule) == wanted for rule in (_plain, _python))]


def _above(text: Text, index: int, rule: Callable[[bytes], bytes | None]) -> bytes | None:
    for line in reversed(text.lines[:index]):
        found = rule(line)
        if found is not None:
            # git prints 80 bytes of it at the most.
            return found[:80].strip()
    return None


def _plain(line: bytes) -> bytes | None:
    return line if _PLAIN.match(line) else None


def _python(line: bytes) -> bytes | None:
    return line.lstrip(b" \t") if _PYTHON.match(line) else None


def settled(text: Text, hunks: Sequence[Hunk], headings: Mapping[int, str]) -> tuple[list[int], list[str]] | None:
    """The places that the order of the hunks leaves, else their order and headings; and what settled each of them.

    `headings` are those that count, by the hunk's number from 1. None when there is no solution, or a tie.
    """
    options = [candidates(text, hunk) for hunk in hunks]
    by_order = one_order(hunks, options)
    if by_order is not None:
        return by_order, ["order" if len(places) > 1 else "" for places in options]
    narrowed = [
        under_heading(text, places, headings[number].encode("utf-8", "surrogateescape"))
        if number in headings and len(places) > 1
        else places
        for number, places in enumerate(options, 1)
    ]  # fmt: skip
    by_heading = one_order(hunks, narrowed)
    if by_heading is None:
        return None
    reason = [
        "" if len(places) == 1 else "heading" if len(left) < len(places) else "order"
        for places, left in zip(options, narrowed, strict=True)
    ]
    return by_heading, reason
