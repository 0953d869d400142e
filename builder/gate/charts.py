"""Figures of a page as geometry: shares, positions and labels, which the template draws as SVG."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.gate.suite import BUCKETS

Lines = Sequence[Mapping[str, Any]]
_LABELS = 12
_BINS = 6
_BARS = 24
NOT_ANSWERED = "(not answered)"


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its height as a share of the tallest, what it says on hover, and a class for its colour."""

    label: str
    share: float
    title: str
    kind: str = ""


@dataclass(frozen=True)
class Matrix:
    """Expected values (rows) against answered ones (columns), as counts."""

    field: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def share(self, row: int, column: int) -> float:
        """A cell as a share of its row, which its colour shows: a rare label is seen beside a frequent one."""
        return self.counts[row][column] / (sum(self.counts[row]) or 1)


@dataclass(frozen=True)
class Segment:
    """A part of one long bar: where it begins and how long it is, as shares."""

    name: str
    count: int
    at: float
    share: float


def segments(buckets: Mapping[str, int]) -> list[Segment]:
    """The buckets that have rows, in their order."""
    total, at, found = sum(buckets.values()) or 1, 0.0, []
    for name in BUCKETS:
        if count := buckets.get(name, 0):
            found.append(Segment(name, count, at / total, count / total))
            at += count
    return found


def passed(line: Mapping[str, Any]) -> bool:
    return line["bucket"] == "answered" and all(line["right"].values())


def matrices(lines: Lines) -> list[Matrix]:
    """A confusion matrix for each field that has few values. Rows over the cap were not asked, and are left out."""
    fields = list(dict.fromkeys(key for line in lines for key in line.get("expected", ())))
    found = []
    for field in fields:
        pairs = [
            (
                _label(line["expected"][field]),
                _label(line["fields"].get(field)) if line["bucket"] == "answered" else NOT_ANSWERED,
            )
            for line in lines
            if line.get("expected", {}).get(field) is not None and line["bucket"] != "over_cap"
        ]
        labels = tuple(sorted({expected for expected, _ in pairs}))
        others = sorted(
            {answered for _, answered in pairs} - set(labels), key=lambda each: (each == NOT_ANSWERED, each)
        )
        if not labels or len(labels) > _LABELS:
            continue
        if len(others) > _LABELS:
            pairs = [(a, b if b in labels or b == NOT_ANSWERED else "(another)") for a, b in pairs]
            others = ["(another)", *([NOT_ANSWERED] if NOT_ANSWERED in others else [])]
        counts = Counter(pairs)
        columns = (*labels, *others)
        found.append(
            Matrix(
                field, labels, columns, tuple(tuple(counts[label, column] for column in columns) for label in labels)
            )
        )
    return found


def by_length(lines: Lines) -> list[Bar]:
    """The share of rows that pass, by prompt tokens: bins of about as many rows each."""
    known = sorted(
        (line["tokens"], passed(line)) for line in lines if line.get("tokens") and line["bucket"] != "over_cap"
    )
    bins = min(_BINS, max(1, len(known) // 4))
    bars = []
    for number in range(bins):
        part = known[number * len(known) // bins : (number + 1) * len(known) // bins]
        if part:
            share = sum(good for _, good in part) / len(part)
            label = f"{part[0][0]:,}–{part[-1][0]:,}" if part[0][0] != part[-1][0] else f"{part[0][0]:,}"
            bars.append(Bar(label, share, f"{sum(good for _, good in part)} of {len(part)} rows pass"))
    return bars


@dataclass(frozen=True)
class Latency:
    """Seconds from request to response: a histogram, with median and 95th percentile as shares of the width."""

    bars: tuple[Bar, ...]
    most: float
    median: float
    p95: float


def latency(lines: Lines) -> Latency | None:
    seconds = sorted(line["seconds"] for line in lines if line.get("seconds") is not None)
    if not seconds:
        return None
    most = seconds[-1] or 0.001
    counts = Counter(min(_BARS - 1, int(each / most * _BARS)) for each in seconds)
    highest = max(counts.values())
    bars = tuple(
        Bar(f"{number * most / _BARS:.2f} s", counts[number] / highest, f"{counts[number]} rows within {(number + 1) * most / _BARS:.3f} s")
        for number in range(_BARS)
    )  # fmt: skip
    return Latency(bars, most, statistics.median(seconds), seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))])


def _label(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
