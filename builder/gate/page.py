"""A verdict as one page for people: inline SVG, no script, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from builder.documents.verdict import Verdict
from builder.gate import charts
from builder.gate.compare import says
from builder.gate.metrics import LOWER_IS_BETTER

_ROWS = 300
_TEXT = 6000
_PLAIN = {"true", "false", "null", charts.NOT_ANSWERED}
"""Labels that say nothing about a private row."""


def page(
    verdict: Verdict, results: Sequence[Mapping[str, Any]], *, redact: bool = False, signed: str = "unsigned"
) -> str:
    """The page. `results` are the lines of the rows' file; with `redact` the page shows their ids and hashes only.

    Text that a row expects or gets is private too: a confusion matrix of such labels is left out then. A chart whose figures are not in `results` (they may be redacted, or absent) is left out.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("builder.gate", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    failed = [line for line in results if not charts.passed(line) and line["bucket"] != "over_cap"]
    details = verdict.details
    return environment.get_template("page.html.j2").render(
        verdict=verdict, details=details, signed=signed, segments=charts.segments(details.buckets),
        matrices=[
            each
            for each in charts.matrices([line for line in results if "fields" in line])
            if not redact or set(each.columns) <= _PLAIN
        ],
        lengths=charts.by_length(results), latency=charts.latency(results),
        failed=[_shown(line, redact=redact) for line in failed[:_ROWS]], left_out=max(0, len(failed) - _ROWS), redact=redact,
        has_results=bool(results), lower=LOWER_IS_BETTER,
        comparisons=[(each, says(each, _passed(verdict, each.metric))) for each in details.reference.comparisons]
        if details.reference else [],
    )  # fmt: skip


def _passed(verdict: Verdict, metric: str) -> bool:
    return any(test.name == f"{metric}-not-worse" and test.outcome == "passed" for test in verdict.details.tests)


def _shown(line: Mapping[str, Any], *, redact: bool) -> dict[str, Any]:
    """A row as the page shows it: both sides, texts of bounded length."""
    shown = {
        "id": line["id"],
        "sha256": line["sha256"],
        "tokens": line.get("tokens"),
        "hidden": redact or "prompt" not in line,
    }
    shown["prompt"] = _short(line.get("prompt", ""))
    shown["expected"] = line.get("expected", {})
    shown["sides"] = [
        ("this image", _side(line)),
        *([("reference", _side(line["reference"]))] if "reference" in line else []),
    ]
    return shown


def _side(line: Mapping[str, Any]) -> dict[str, Any]:
    wrong = [name for name, right in line["right"].items() if not right]
    return {
        "bucket": line["bucket"], "wrong": wrong, "flaky": line["flaky"], "answer": _short(line.get("answer", "")),
        "why": line.get("why", ""), "passed": charts.passed(line), "sha256": line["answer_sha256"],
    }  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}\n… {len(text) - _TEXT:,} characters more"
