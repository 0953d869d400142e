"""A verdict for people on a terminal, and its summary as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from builder.cli.console import Console
from builder.documents.verdict import Verdict


def summary(verdict: Verdict) -> dict[str, Any]:
    """What programs read first: the result, what it is about, and each requirement."""
    details = verdict.details
    return {
        "suite": verdict.suite,
        "suite_digest": verdict.suite_digest,
        "result": verdict.result,
        "bound": verdict.bound,
        "images": list(verdict.image_digests),
        "profile": verdict.profile,
        "gpu": verdict.gpu,
        "ended": details.ended,
        "expires": details.expires,
        "buckets": details.buckets,
        "metrics": [each.model_dump(mode="json") for each in details.metrics],
        "tests": [each.model_dump(mode="json") for each in details.tests],
    }


def show_tests(verdict: Verdict, console: Console) -> None:
    """The requirements as a table."""
    tests = verdict.details.tests
    console.table(
        ["", "requirement", "wanted", "found"],
        [(test.outcome, f"{verdict.suite}/{test.name}", test.wanted, test.found) for test in tests],
    )


def show_verdict(verdict: Verdict, signed: str, now: datetime, console: Console) -> None:
    """The whole verdict: requirements, what it is about, who signed, age and expiry."""
    show_tests(verdict, console)
    details = verdict.details
    age = now - verdict.ended
    days = f"{age.days} days" if age.days != 1 else "1 day"
    left = verdict.expires - now
    expiry = "expired" if verdict.expired(now) else f"expires in {left.days} days"
    console.out(f"{verdict.suite}: {verdict.result}{'' if verdict.bound else ' (unbound)'}")
    images = ", ".join(verdict.image_digests) or f"not known: a server at {details.target}"
    served = [
        details.model or "",
        f"vLLM {details.vllm}" if details.vllm else "",
        details.gpu_name or details.gpu or "",
    ]
    rows = ", ".join(f"{name} {count}" for name, count in details.buckets.items() if count)
    for label, text in (
        ("image", images),
        ("profile", verdict.profile or "none"),
        ("served", ", ".join(each for each in served if each)),
        ("rows", f"{details.rows}: {rows}" if details.rows is not None else ""),
        ("suite", verdict.suite_digest),
        ("signed", signed),
        ("age", f"{days}, made {details.ended}; {expiry} ({details.expires})"),
    ):
        if text:
            console.out(f"  {label:<8} {text}")
