"""What a suite requires, against what was counted."""

from __future__ import annotations

from fractions import Fraction

from builder.documents import verdict as documents
from builder.gate.compare import not_worse, says
from builder.gate.metrics import Figures
from builder.gate.suite import Requirement, Suite


def check(suite: Suite, figures: Figures, reference: documents.Reference | None) -> tuple[documents.Judged, ...]:
    """Each requirement with its outcome. What needs a reference that was not run was not shown: it warns."""
    return tuple(_one(required, figures, reference) for required in suite.require)


def _one(required: Requirement, figures: Figures, reference: documents.Reference | None) -> documents.Judged:
    if required.not_worse_than is not None:
        if reference is None:
            return _judged(required, "warned", "not checked: no --reference was named")
        found = next(each for each in reference.comparisons if each.metric == required.metric)
        passed = not_worse(found, required)
        return _judged(required, _outcome(required, passed), says(found, passed))
    if required.metric is not None:
        metric = figures.metrics[required.metric]
        holds = metric.denominator > 0 and required.holds(Fraction(metric.numerator, metric.denominator))
        return _judged(required, _outcome(required, holds), show(metric))
    rows = len(figures.judged)
    count = figures.buckets[required.count or "answered"]
    value = Fraction(count, rows) if required.share is not None else count
    return _judged(required, _outcome(required, required.holds(value)), f"{count} of {rows} rows")


def _outcome(required: Requirement, holds: bool) -> documents.Outcome:
    return "passed" if holds else "warned" if required.warn else "failed"


def _judged(required: Requirement, outcome: documents.Outcome, found: str) -> documents.Judged:
    return documents.Judged(name=required.name, outcome=outcome, wanted=required.wanted, found=found)


def show(metric: documents.Metric) -> str:
    """A metric as `20/24 = 0.8333 (95 % 0.641 to 0.933)`."""
    if metric.value is None or metric.low is None or metric.high is None:
        return "0/0: no row concerns it"
    interval = f"({metric.confidence * 100:g} % {metric.low:.3f} to {metric.high:.3f})"
    return f"{metric.numerator}/{metric.denominator} = {metric.value:.4f} {interval}"
