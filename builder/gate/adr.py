"""A verdict as a decision record in Markdown. Source of the headings: MADR 4 (Markdown Any Decision Records)."""

from __future__ import annotations

from builder.documents.verdict import Judged, Verdict
from builder.gate.requirements import show

_DECIDED = {
    "PASSED": "The image is accepted: every requirement holds.",
    "WARNED": "The image is accepted with reservations: no requirement failed, and what is marked *warned* was not shown.",
    "FAILED": "The image is not accepted: at least one requirement does not hold.",
}
_STATUS = {"PASSED": "accepted", "WARNED": "proposed", "FAILED": "rejected"}


def decision_record(verdict: Verdict, signed: str = "unsigned") -> str:
    """The record. `signed` is who signed the verdict. Everything in it comes from the verdict; texts are escaped for Markdown."""
    details = verdict.details
    images = (
        ", ".join(f"`{each}`" for each in verdict.image_digests)
        or "an image that is not known (the verdict is unbound)"
    )
    lines = [
        "---", f"status: {_STATUS[verdict.result]}", f"date: {details.ended[:10]}", "---", "",
        f"# {_text(verdict.suite)} on {_text(details.image.reference) if details.image else 'a server'}: {verdict.result}", "",
        "## Context and Problem Statement", "",
        f"May {images} serve {_text(details.model or 'its model')}"
        f"{f' with the profile {_text(verdict.profile)}' if verdict.profile else ''}"
        f"{f' on {_text(details.gpu_name)}' if details.gpu_name else ''}? "
        f"The suite {_text(verdict.suite)} (`{verdict.suite_digest}`) was run from {details.begun} to {details.ended}.", "",
        "## Decision Drivers", "",
        *(f"* {_text(test.name)}: {_text(test.wanted or 'as the profile promises')}" for test in details.tests), "",
        "## Considered Options", "", "* Accept the image", "* Refuse it", "",
        "## Decision Outcome", "", _DECIDED[verdict.result], "",
        "### Consequences", "",
        f"* The verdict is {_text(signed)}.",
        *_consequences(verdict), "",
        "### Confirmation", "",
        "| requirement | outcome | wanted | found |", "|---|---|---|---|",
        *(_row(test) for test in details.tests), "",
    ]  # fmt: skip
    if details.buckets:
        rows = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in details.buckets.items() if count)
        lines += [f"Rows: {details.rows}; {rows}.", ""]
    if details.metrics:
        lines += [
            "| metric | found |",
            "|---|---|",
            *(f"| {_text(each.name)} | {_text(show(each))} |" for each in details.metrics),
            "",
        ]
    lines += ["## More Information", "", *(f"* {_text(each.name)}: `{each.digest}`" for each in verdict.configuration)]
    lines += [f"* {_text(name)} {_text(version)}" for name, version in details.tools.items()]
    return "\n".join(lines) + "\n"


def _consequences(verdict: Verdict) -> list[str]:
    found = [f"* The verdict expires at {verdict.details.expires}; then the suite is to be run again."]
    if not verdict.bound:
        found.append("* The verdict names no image: it cannot be attached or promote a tag.")
    for test in verdict.details.tests:
        if test.outcome != "passed":
            found.append(f"* {_text(test.name)} was not shown: {_text(test.found)}.")
    if verdict.details.reference is not None:
        for each in verdict.details.reference.comparisons:
            if each.smallest_margin is not None:
                found.append(
                    f"* For {_text(each.metric)}, {each.pairs} pairs show a margin of {each.smallest_margin:.3f} and no less."
                )
    return found


def _row(test: Judged) -> str:
    return f"| {_text(test.name)} | {test.outcome} | {_text(test.wanted)} | {_text(test.found)} |"


def _text(text: str) -> str:
    """Text without meaning to Markdown or HTML, in one line."""
    escaped = "".join(
        f"\\{each}" if each in "\\`*_{}[]#|~" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(each, each)
        for each in text
    )
    return " ".join(escaped.split())
