"""A tool-call round trip: the model asks for the tool, gets its result, and uses it."""

from __future__ import annotations

import json

from builder.documents.profile import Profile
from builder.serve.smoke.client import Completion, Server, ToolCall, UnansweredError
from builder.serve.smoke.prompts import TOOL, TOOL_PROMPT, TOOL_RESULT, TOOL_RESULT_SHOWS
from builder.serve.smoke.result import Check, failed, not_checked, passed

NAME = "tool call"


def check(server: Server, profile: Profile | None, max_tokens: int) -> Check:
    """Offer one tool, answer the call, and look for the result in what the model then says."""
    parser = profile.flags.get("tool-call-parser") if profile else None
    if profile is None or parser is None:
        return not_checked(NAME, "the profile has no tool-call-parser" if profile else "no profile was named")
    if profile.flags.get("enable-auto-tool-choice") is not True:
        return not_checked(NAME, f"{parser} has no effect: the profile lacks enable-auto-tool-choice")
    messages: list[dict[str, object]] = [{"role": "user", "content": TOOL_PROMPT}]
    try:
        first = server.chat(messages, max_tokens=max_tokens, thinking=False, tools=[TOOL])
        call, trouble = _the_call(first)
        details = (("prompt", TOOL_PROMPT), ("call", f"{call.name} {call.arguments}" if call else "(none)"))
        if call is None or trouble:
            return failed(NAME, trouble, *details, ("answer", first.content or "(none)"), seconds=first.seconds)
        messages += [
            {"role": "assistant", "content": first.content, "tool_calls": first.message["tool_calls"]},
            {"role": "tool", "tool_call_id": call.id, "content": json.dumps(TOOL_RESULT)},
        ]
        last = server.chat(messages, max_tokens=max_tokens, thinking=False, tools=[TOOL])
    except UnansweredError as error:
        return failed(NAME, "a request was not answered", ("prompt", TOOL_PROMPT), ("why", str(error)))
    seconds = first.seconds + last.seconds
    whole = (*details, ("result", json.dumps(TOOL_RESULT)), ("answer", last.content or "(none)"))
    if TOOL_RESULT_SHOWS not in last.content:
        return failed(NAME, "the answer does not use the tool's result", *whole, seconds=seconds)
    return passed(NAME, f"{parser} reads the call, and the answer uses its result", *whole, seconds=seconds)


def _the_call(answer: Completion) -> tuple[ToolCall | None, str]:
    """The one call of the answer, and what is wrong with it."""
    if not answer.tool_calls:
        return None, "the answer has no tool call"
    call = answer.tool_calls[0]
    wanted = TOOL["function"]["name"]
    if call.name != wanted:
        return call, f"the call is for {call.name}, not for {wanted}"
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return call, "the call's arguments are not JSON"
    if not isinstance(arguments, dict) or not isinstance(arguments.get("city"), str):
        return call, "the call's arguments are not those of the tool"
    return call, ""
