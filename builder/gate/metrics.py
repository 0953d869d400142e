"""Metrics: for each row right, wrong or not concerned; a fraction over the rows that are concerned.

A row that was asked and not answered is wrong in every metric that its expectation concerns, precision and the rate of false
positives included. A row over the prompt cap was not asked and concerns no metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.documents import verdict as documents
from builder.gate.answers import Answered, Parse, Reply, judge_reply
from builder.gate.rows import Row, same
from builder.gate.statistics import wilson
from builder.gate.suite import BUCKETS, Bucket, Metric

LOWER_IS_BETTER = ("false_positive_rate",)


@dataclass(frozen=True)
class Judged:
    """A row's outcome: its bucket, and whether it is right by metric (absent: not concerned). `replies` has one of each repeat."""

    row: Row
    bucket: Bucket
    right: Mapping[str, bool]
    answered: tuple[Answered, ...]
    replies: tuple[Reply, ...]
    flaky: bool = False

    @property
    def passed(self) -> bool:
        """Answered, and right in every metric that it concerns."""
        return self.bucket == "answered" and all(self.right.values())


def outcome(metric: Metric, row: Row, found: Answered) -> bool | None:
    """Whether the row is right by the metric; None when it is not concerned."""
    expected = row.expected.get(metric.field)
    if expected is None or found.bucket == "over_cap":
        return None
    if metric.kind == "equal":
        return found.bucket == "answered" and same(found.fields.get(metric.field), expected)
    positive = same(expected, metric.label)
    claimed = found.bucket == "answered" and same(found.fields.get(metric.field), metric.label)
    if metric.kind == "recall":
        return claimed if positive else None
    if metric.kind == "precision":
        return positive if claimed else (None if found.bucket == "answered" else False)
    return None if positive else found.bucket == "answered" and not claimed


def judge_row(metrics: Mapping[str, Metric], row: Row, replies: Sequence[Reply], parse: Parse) -> Judged:
    """One row with the replies to all its repeats.

    A row whose repeats differ is flaky, and wrong in each metric in which they differ. It is answered only when all are.
    """
    found = [judge_reply(reply, parse) for reply in replies]
    right: dict[str, bool] = {}
    flaky = len({each.bucket for each in found}) > 1
    for name, metric in metrics.items():
        outcomes = {outcome(metric, row, each) for each in found}
        if outcomes != {None}:
            right[name] = outcomes == {True}
        flaky = flaky or len(outcomes) > 1
    bucket: Bucket = next((each.bucket for each in found if each.bucket != "answered"), "answered")
    return Judged(row, bucket, right, tuple(found), tuple(replies), flaky)


def count_buckets(judged: Sequence[Judged]) -> dict[str, int]:
    """Rows in each bucket, in the order of `BUCKETS`."""
    counts = Counter(each.bucket for each in judged)
    return {bucket: counts[bucket] for bucket in BUCKETS}


def measure(name: str, metric: Metric, judged: Sequence[Judged], confidence: float = 0.95) -> documents.Metric:
    """A metric over all rows. Of a rate of false positives the numerator counts what is wrong."""
    concerned = [each.right[name] for each in judged if name in each.right]
    count = sum(concerned)
    numerator = len(concerned) - count if metric.kind in LOWER_IS_BETTER else count
    interval = wilson(numerator, len(concerned), confidence)
    return documents.Metric(
        name=name, kind=metric.kind, numerator=numerator, denominator=len(concerned), confidence=confidence,
        low=interval[0] if interval else None, high=interval[1] if interval else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Everything that is counted on one side."""

    judged: tuple[Judged, ...]
    buckets: Mapping[str, int]
    metrics: Mapping[str, documents.Metric]
    repeats: documents.Repeats | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def compute(
    metrics: Mapping[str, Metric], rows: Sequence[Row], replies: Mapping[str, Sequence[Reply]], parse: Parse
) -> Figures:
    """Judge every row. `replies` has, by the row's id, one reply for each repeat.

    Raises `AssertionError` when the buckets do not add up to the rows: that is an error of this tool.
    """
    judged = tuple(judge_row(metrics, row, replies[row.id], parse) for row in rows)
    buckets = count_buckets(judged)
    if sum(buckets.values()) != len(rows):
        raise AssertionError(f"the buckets hold {sum(buckets.values())} rows of {len(rows)}")
    times = max((len(each.replies) for each in judged), default=1)
    return Figures(
        judged, buckets, {name: measure(name, metric, judged) for name, metric in metrics.items()},
        repeated(metrics, judged, times) if times > 1 else None,
    )  # fmt: skip


def repeated(metrics: Mapping[str, Metric], judged: Sequence[Judged], times: int) -> documents.Repeats:
    """pass@1 is the mean share of single repeats that pass; agreement is the share of rows whose repeats are all alike."""
    asked = [each for each in judged if each.bucket != "over_cap"]
    singles = [_passes(metrics, each.row, answered) for each in asked for answered in each.answered]
    alike = sum(all((a.bucket, a.fields) == (each.answered[0].bucket, each.answered[0].fields) for a in each.answered) for each in asked)  # fmt: skip
    return documents.Repeats(
        times=times, pass_at_1=sum(singles) / len(singles) if singles else None,
        agreement=alike / len(asked) if asked else None, flaky=tuple(each.row.id for each in asked if each.flaky),
    )  # fmt: skip


def _passes(metrics: Mapping[str, Metric], row: Row, found: Answered) -> bool:
    return found.bucket == "answered" and all(outcome(metric, row, found) is not False for metric in metrics.values())
