"""A reasoning round trip: the parser of the profile takes the thinking out of the answer."""

from __future__ import annotations

from builder.documents.profile import Profile
from builder.serve.smoke.client import Server, UnansweredError
from builder.serve.smoke.prompts import REASONING_PROMPT
from builder.serve.smoke.result import Check, failed, not_checked, passed

NAME = "reasoning"


def check(server: Server, profile: Profile | None, max_tokens: int) -> Check:
    """Ask with thinking: the thoughts are in a field of their own, the answer is in `content`, without marks."""
    parser = profile.flags.get("reasoning-parser") if profile else None
    if parser is None:
        return not_checked(NAME, "the profile has no reasoning-parser" if profile else "no profile was named")
    try:
        answer = server.chat([{"role": "user", "content": REASONING_PROMPT}], max_tokens=max_tokens, thinking=True)
    except UnansweredError as error:
        return failed(NAME, "the request was not answered", ("prompt", REASONING_PROMPT), ("why", str(error)))
    details = (
        ("prompt", REASONING_PROMPT),
        ("reasoning", answer.reasoning or "(none)"),
        ("answer", answer.content or "(none)"),
    )
    if not answer.reasoning:
        return failed(NAME, f"the answer has no reasoning: {parser} took none out", *details, seconds=answer.seconds)
    if not answer.content.strip():
        truncated = f": thinking did not end within {max_tokens:,} tokens" if answer.finish_reason == "length" else ""
        return failed(NAME, f"reasoning without an answer{truncated}", *details, seconds=answer.seconds)
    if "<think>" in answer.content or "</think>" in answer.content:
        return failed(NAME, f"{parser} left the marks of thinking in the answer", *details, seconds=answer.seconds)
    return passed(NAME, f"{parser} takes the thinking out of the answer", *details, seconds=answer.seconds)
