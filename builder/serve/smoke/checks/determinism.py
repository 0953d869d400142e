"""A short prompt twice: the same answer both times, and the one that is expected."""

from __future__ import annotations

import unicodedata

from builder.serve.smoke.client import Server, UnansweredError
from builder.serve.smoke.result import Check, failed, passed

NAME = "deterministic prompt"
_MAX_TOKENS = 256


def normal(text: str) -> str:
    """Composed Unicode, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def check(server: Server, prompt: str, expected: str) -> Check:
    """Ask `prompt` twice at temperature 0 without thinking. `expected` must be part of the answer."""
    asked = ("prompt", prompt)
    answers = []
    for turn in ("first", "second"):
        try:
            answers.append(server.chat([{"role": "user", "content": prompt}], max_tokens=_MAX_TOKENS, thinking=False))
        except UnansweredError as error:
            return failed(NAME, f"the {turn} request was not answered", asked, ("why", str(error)))
    first, second = answers
    details = (asked, ("first", first.content), ("second", second.content))
    seconds = first.seconds + second.seconds
    if (first.content, first.reasoning) != (second.content, second.reasoning):
        return failed(NAME, "the second answer is another one", *details, seconds=seconds)
    if normal(expected) not in normal(first.content):
        truncated = "; it was truncated" if first.finish_reason == "length" else ""
        return failed(
            NAME, f"the answer is not the expected one{truncated}", ("wanted", expected), *details, seconds=seconds
        )
    return passed(NAME, f"equal answers, with {expected!r}", asked, ("answer", first.content), seconds=seconds)
