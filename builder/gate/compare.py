"""Two sides on the same rows: who lost rows, and paired numbers on those that both answered."""

from __future__ import annotations

from collections.abc import Mapping

from builder.documents.verdict import Comparison, Reference
from builder.gate.metrics import Figures
from builder.gate.statistics import bootstrap, mcnemar, smallest_margin, tango_low
from builder.gate.suite import Requirement


def compare(
    ours: Figures, theirs: Figures, confidences: Mapping[str, float], *, target: str, model: str | None
) -> Reference:
    """The other side, and one comparison for each metric. `confidences` has that of a "not worse" requirement, by metric."""
    pairs = list(zip(ours.judged, theirs.judged, strict=True))
    both = [(a, b) for a, b in pairs if a.bucket == b.bucket == "answered"]
    found = []
    for name in ours.metrics:
        concerned = [(a.right[name], b.right[name]) for a, b in both if name in a.right and name in b.right]
        confidence = confidences.get(name, 0.95)
        only_ours = sum(a and not b for a, b in concerned)
        only_theirs = sum(b and not a for a, b in concerned)
        interval = bootstrap(only_ours, only_theirs, len(concerned), confidence)
        discordant = (only_ours + only_theirs) / len(concerned) if concerned else 0.0
        found.append(
            Comparison(
                metric=name, pairs=len(concerned), ours=sum(a for a, _ in concerned), theirs=sum(b for _, b in concerned),
                only_ours=only_ours, only_theirs=only_theirs, p_value=mcnemar(only_ours, only_theirs) if concerned else None,
                difference=(only_ours - only_theirs) / len(concerned) if concerned else None,
                low=interval[0] if interval else None, high=interval[1] if interval else None,
                score_low=tango_low(only_ours, only_theirs, len(concerned), confidence) if concerned else None,
                score_high=-tango_low(only_theirs, only_ours, len(concerned), confidence) if concerned else None,
                confidence=confidence,
                smallest_margin=smallest_margin(len(concerned), discordant, confidence),
            )
        )  # fmt: skip
    return Reference(
        target=target, model=model, comparisons=tuple(found),
        lost_here=tuple(b.row.id for a, b in pairs if a.bucket != "answered" and b.bucket == "answered"),
        lost_there=tuple(a.row.id for a, b in pairs if b.bucket != "answered" and a.bucket == "answered"),
    )  # fmt: skip


def not_worse(found: Comparison, required: Requirement) -> bool:
    """Whether the lower ends of both intervals, bootstrap and Tango's, are above the margin's."""
    if found.low is None or found.score_low is None or required.margin is None:
        return False
    return min(found.low, found.score_low) > -required.margin


def matched(passed: bool) -> str:
    """The words for a comparison. Nothing is called equal that was not shown to be."""
    return "matched" if passed else "not shown to be worse, not shown to be equal"


def says(found: Comparison, passed: bool) -> str:
    """One comparison as a sentence. A difference whose whole interval is below 0 is called worse."""
    if found.difference is None or found.low is None or found.high is None:
        return "no row was answered by both"
    words = "worse" if max(found.high, found.score_high or 0.0) < 0 else matched(passed)
    margin = f"; {found.pairs} pairs can show a margin of {found.smallest_margin:.3f}" if found.smallest_margin else ""
    return (
        f"{words}: {found.ours} and {found.theirs} of {found.pairs}, only here {found.only_ours}, only there "
        f"{found.only_theirs}, difference {found.difference:+.4f} (bootstrap {found.low:+.4f} to {found.high:+.4f}, "
        f"score {found.score_low or 0.0:+.4f} to {found.score_high or 0.0:+.4f}), McNemar p {found.p_value:.3f}{margin}"
    )
