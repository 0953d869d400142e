"""What a suite can show before anything is asked: rows, labels, repeated prompts, and what each threshold means at this n."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.gate.answers import make_parser
from builder.gate.rows import Row, Rows, read_rows, same
from builder.gate.statistics import power, smallest_margin, smallest_passing, wilson
from builder.gate.suite import LoadedSuite, Metric, Requirement

_DISCORDANT = 0.1
"""The share of discordant pairs that two good checkpoints of one model had."""
_FEW = 30


@dataclass(frozen=True)
class Lint:
    """What was found: the rows, labels by field, warnings, and for each requirement what it can show."""

    rows: Rows
    labels: Mapping[str, Mapping[str, int]]
    warnings: tuple[str, ...]
    shows: tuple[tuple[str, str], ...]


def lint(loaded: LoadedSuite) -> Lint:
    """Check a suite with its rows. Raises `InputError` for what cannot be run."""
    rows = read_rows(loaded)
    make_parser(loaded)
    shows = tuple((each.name, _shows(each, loaded.suite.metrics, rows)) for each in loaded.suite.require)
    return Lint(rows, _labels(rows.rows), tuple(_warnings(loaded, rows)), shows)


def _labels(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for field, value in row.expected.items():
            label = "(none)" if value is None else value if isinstance(value, str) else json.dumps(value)
            counts.setdefault(field, Counter())[label] += 1
    return {field: dict(found.most_common()) for field, found in counts.items()}


def _warnings(loaded: LoadedSuite, rows: Rows) -> list[str]:
    found = []
    by_prompt: dict[str, list[str]] = {}
    for row in rows.rows:
        by_prompt.setdefault(row.digest, []).append(row.id)
    found += [f"the same prompt: {', '.join(ids)}" for ids in by_prompt.values() if len(ids) > 1]
    used = {metric.field for metric in loaded.suite.metrics.values()}
    found += [f"no metric is about {field!r}" for field in _labels(rows.rows) if field not in used]
    required = {each.metric for each in loaded.suite.require}
    found += [f"the metric {name} is not required" for name in loaded.suite.metrics if name not in required]
    for name, metric in loaded.suite.metrics.items():
        if (count := denominator(metric, rows.rows)) is not None and count < _FEW:
            found.append(f"{name} has a denominator of {count}: its interval is wide")
    if loaded.suite.rows_sha256 is None:
        found.append(f"the rows are not pinned: rows_sha256: {rows.sha256}")
    return found


def denominator(metric: Metric, rows: Sequence[Row]) -> int | None:
    """How many rows a metric concerns; None for precision, which depends on the answers."""
    values = [value for row in rows if (value := row.expected.get(metric.field)) is not None]
    if metric.kind == "equal":
        return len(values)
    positive = sum(same(value, metric.label) for value in values)
    return {"recall": positive, "false_positive_rate": len(values) - positive}.get(metric.kind)


def _shows(required: Requirement, metrics: Mapping[str, Metric], rows: Rows) -> str:
    if required.metric is None:
        return f"{required.wanted}, of {len(rows)} rows"
    count = denominator(metrics[required.metric], rows.rows)
    if count is None:
        return f"{required.wanted}; its denominator is what the model answers"
    if required.not_worse_than is not None:
        margin = required.margin or 0.0
        chance = power(count, _DISCORDANT, margin, required.confidence)
        smallest = smallest_margin(count, _DISCORDANT, required.confidence)
        return (
            f"{required.wanted}: with {count} pairs and {_DISCORDANT:.0%} discordant ones, two equal sides pass in {chance:.0%} of runs; "
            f"the smallest margin that passes in 80% is {smallest:.3f}"
        )
    if required.min is not None:
        least = smallest_passing(required.min, count)
        interval = wilson(least, count)
        return f"{required.wanted}: {least} of {count} at least, which is {least / count:.4f}{_interval(interval)}"
    most = int((required.max or 0) * count + 1e-9)
    return f"{required.wanted}: {most} of {count} at most, which is {most / count:.4f}{_interval(wilson(most, count))}"


def _interval(interval: tuple[float, float] | None) -> str:
    return f" (95 % {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
