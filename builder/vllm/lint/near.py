"""The existing flag that a wrong one may mean."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from functools import lru_cache

# Two words for yes and two for no: a flag is never suggested for one that means the opposite.
_ON, _OFF = ("enable", "use", "with"), ("disable", "no", "without", "skip")
_ALIKE = 0.82
"""How alike two words are when one is the other with a typing error (`difflib`'s ratio)."""
_SAME = 0.92
"""How alike two whole names are of which one has its dashes elsewhere."""
_MORE = 2
"""Words that a name may lack, if it has more than that."""


def sense(name: str) -> int:
    """1 for a flag that switches something on by its first word, -1 for one that switches it off, else 0."""
    first = name.partition("-")[0]
    return (first in _ON) - (first in _OFF)


def near_name(name: str, names: Collection[str]) -> str | None:
    """The existing flag that a wrong one may mean, or None; never one of the opposite sense.

    Each word of the wrong name must be in the other one, typing errors allowed. A name with a word that the other one lacks
    (`enable-lora-bias`, `sleep-mode-backend`) is of something else.
    """
    words = _content(name)
    run = "".join(words)
    best: tuple[float, str] | None = None
    for each in sorted(names):
        if (sense(each) < 0) != (sense(name) < 0):
            continue
        others = _content(each)
        likeness = _words(words, others)
        if len(words) != len(others):
            likeness = max(likeness, _letters(run, "".join(others)))
        if likeness and (best is None or likeness > best[0]):
            best = (likeness, each)
    return best[1] if best is not None else None


def _words(words: Sequence[str], others: Sequence[str]) -> float:
    """How well the words are among the others: 0 when one is not, or when too much is missing."""
    left = list(others)
    total = 0.0
    for word in words:
        ratio, other = max(((_ratio(word, other), other) for other in left), default=(0.0, ""))
        if ratio < _ALIKE or (len(word) < 4 and not other.startswith(word)):
            return 0
        total += ratio
        left.remove(other)
    if len(left) > min(_MORE, len(words) - 1):
        return 0
    return total / (len(words) + len(left))


@lru_cache(1 << 16)
def _ratio(word: str, other: str) -> float:
    # Flags share few words, so that each pair is met many times.
    matcher = difflib.SequenceMatcher(None, word, other)
    return matcher.ratio() if word == other or matcher.quick_ratio() >= _ALIKE else 0


def _letters(run: str, other: str) -> float:
    """For names whose dashes are missing or elsewhere."""
    if abs(len(run) - len(other)) > 2:
        return 0
    matcher = difflib.SequenceMatcher(None, run, other)
    return matcher.ratio() if matcher.quick_ratio() >= _SAME and matcher.ratio() >= _SAME else 0


def _content(name: str) -> list[str]:
    """The words of a flag without the ones in front that switch on or off."""
    words = [each for each in name.split("-") if each]
    while len(words) > 1 and words[0] in (*_ON, *_OFF):
        words = words[1:]
    return words
