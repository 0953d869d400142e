"""From a response to a bucket and fields. Thoughts are never the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from builder.gate.suite import Bucket, LoadedSuite
from builder.util.errors import InputError
from builder.util.extras import install_hint
from builder.util.files import read_regular, unreadable
from builder.util.strictjson import strict_json

_SCHEMA_LIMIT = 1 << 20
_FENCE = re.compile(r"```[A-Za-z]*\s*\n(.*)\n\s*```", re.DOTALL)
_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """What came back for one row, as plain facts: a response with `finish` and `text`, or a failure.

    `failure` is `transport` (no whole response: refused, truncated, too slow, not the chat API), `server_error` (5xx, 429),
    `over_context` (400 for the prompt's length), `client_error` (another 4xx), or `over_cap` (not sent).
    """

    text: str = ""
    finish: str = ""
    failure: str = ""
    why: str = ""
    status: int | None = None
    tool_calls: int = 0
    thoughts: bool = False
    refused: bool = False
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None

    def record(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", False, 0)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reply:
        return cls(**record)


@dataclass(frozen=True)
class Answered:
    """A reply in its bucket; `fields` only when it is `answered`."""

    bucket: Bucket
    fields: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


Parse = Callable[[str], "Mapping[str, Any] | str"]
"""Text to fields, or why it has none."""


def make_parser(loaded: LoadedSuite) -> Parse:
    """The suite's way to read an answer. Raises `InputError` for a schema that is missing or does not compile."""
    answer = loaded.suite.answer
    if answer.exact:
        return lambda text: {"answer": text.strip()}
    if answer.pattern is not None:
        compiled = re.compile(answer.pattern)
        return lambda text: _matched(compiled, text)
    check = _checker(loaded)

    def parse(text: str) -> Mapping[str, Any] | str:
        fenced = _FENCE.fullmatch(text.strip())
        try:
            found = strict_json(fenced.group(1) if fenced else text)
        except (ValueError, RecursionError) as error:
            return f"not valid JSON: {error}"
        if not isinstance(found, dict):
            return "not a JSON object"
        return check(found) or found

    return parse


def schema_bytes(loaded: LoadedSuite) -> bytes | None:
    """The answer schema's file, None when the suite has none."""
    name = loaded.suite.answer.schema_file
    if name is None:
        return None
    path = loaded.beside(name)
    try:
        return read_regular(path, limit=_SCHEMA_LIMIT, name=name)
    except OSError as error:
        raise unreadable(f"the answer schema {name}", error, details=[("looked", str(path))]) from error


def _checker(loaded: LoadedSuite) -> Callable[[Mapping[str, Any]], str]:
    data, name = schema_bytes(loaded), loaded.suite.answer.schema_file
    if data is None:
        return lambda _found: ""
    try:
        import jsonschema
    except ImportError as error:
        raise InputError("an answer schema needs jsonschema", hint=install_hint("gates")) from error
    try:
        schema = json.loads(data)
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        validator = kind(schema)
        list(validator.iter_errors({}))  # a reference or a pattern that does not resolve shows only here
    except Exception as error:  # several libraries speak here; whatever they raise, the schema is the cause
        raise InputError(
            f"the answer schema {name} does not compile",
            details=[("why", str(error).splitlines()[0] if str(error) else type(error).__name__)],
            hint="it is a JSON Schema, draft 2020-12 unless it names another one",
        ) from error

    def check(found: Mapping[str, Any]) -> str:
        error = next(iter(validator.iter_errors(found)), None)
        return f"not by the schema: {error.message[:200]}" if error is not None else ""

    return check


def _matched(pattern: re.Pattern[str], text: str) -> Mapping[str, Any] | str:
    found = pattern.search(text)
    return dict(found.groupdict()) if found else "the pattern does not match"


_FAILED: Mapping[str, Bucket] = {
    "transport": "transport", "server_error": "server_error", "client_error": "server_error",
    "over_context": "over_context", "over_cap": "over_cap",
}  # fmt: skip


def judge_reply(reply: Reply, parse: Parse) -> Answered:
    """The one bucket of a reply."""
    if reply.failure:
        return Answered(_FAILED[reply.failure], why=reply.why)
    if reply.refused or reply.finish == "content_filter":
        return Answered("refused", why=reply.text[:200])
    if reply.finish in ("length", "max_tokens", "model_length"):
        return Answered("truncated", why=f"finish_reason {reply.finish}")
    # Where a template has opened the thoughts, the response has only their end.
    text = _THINK.sub("", reply.text).rpartition("</think>")[2]
    if not text.strip():
        return Answered("empty", why=_why_empty(reply))
    found = parse(text)
    return Answered("unparsable", why=found) if isinstance(found, str) else Answered("answered", found)


def _why_empty(reply: Reply) -> str:
    if reply.tool_calls:
        return "a tool call instead of text"
    return "thoughts without an answer" if reply.thoughts or reply.text.strip() else "no text"
