"""Findings and envelopes as people read them."""

from __future__ import annotations

from builder.cli.console import Console
from builder.vllm.lint.findings import LEVELS, count
from builder.vllm.lint.run import Report


def show(report: Report, console: Console, *, brief: bool = False) -> None:
    """One report: each finding with its place and hint, then what the profile serves.

    `brief` gives a warning one line, and what was not checked none; its count is in the last line.
    """
    for finding in report.findings:
        if brief and finding.level != "error":
            if finding.level == "warning":
                console.out(f"{finding.level}: {report.profile}: {finding.message} [{finding.rule}]")
            continue
        if finding.level == "error":
            console.fail(f"{finding.message} [{finding.rule}]")
        else:
            console.out(f"{finding.level}: {finding.message} [{finding.rule}]")
        where = ", ".join(each for each in (finding.place, finding.source) if each)
        if where:
            console.out(f"  where  {where}")
        if finding.hint:
            console.out(f"  next   {finding.hint}")
    for each in report.serves:
        console.out(each.sentence(report.profile))
    counts = count(report.findings)
    summary = ", ".join(
        f"{counts[level]} {level}{'s' if counts[level] != 1 and level != 'not-checked' else ''}"
        for level in LEVELS
        if counts[level]
    )
    console.out(f"{report.profile}: {summary or 'no findings'} (against {report.against})")
