"""Findings and envelopes as people read them."""

from __future__ import annotations

from builder.console import Console
from builder.serving.lint.findings import LEVELS, count
from builder.serving.lint.run import Report


def show(report: Report, console: Console) -> None:
    """One report: a line per finding with its hint, then what the profile serves."""
    for finding in report.findings:
        console.out(f"{finding.level}: {finding.message} [{finding.rule}]")
        where = ", ".join(each for each in (finding.place, finding.source) if each)
        if where:
            console.out(f"  where  {where}")
        if finding.hint:
            console.out(f"  next   {finding.hint}")
    for each in report.serves:
        console.out(each.sentence(report.profile))
    counts = count(report.findings)
    said = ", ".join(
        f"{counts[level]} {level}{'s' if counts[level] != 1 and level != 'not-checked' else ''}"
        for level in LEVELS
        if counts[level]
    )
    console.out(f"{report.profile}: {said or 'nothing to say'} (against {report.against})")
