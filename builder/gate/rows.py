"""Rows: a JSONL file of prompts with what is expected of each, read whole and checked before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.gate.suite import LoadedSuite, Metric
from builder.util.errors import InputError
from builder.util.files import read_regular, sha256, unreadable
from builder.util.strictjson import strict_json

_LIMIT = 512 << 20
_KEYS = {"id", "messages", "expected", "tools"}
_ROLES = {"system", "user", "assistant", "tool", "developer"}


@dataclass(frozen=True)
class Row:
    """One prompt. `expected` has a value for each field; None: metrics of that field do not apply. `line` is from 1."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    expected: Mapping[str, Any]
    tools: tuple[Mapping[str, Any], ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of what is sent."""
        return sha256(json.dumps([self.messages, self.tools], sort_keys=True, ensure_ascii=False).encode())

    @property
    def prompt(self) -> str:
        """The messages as text, for people."""
        return "\n\n".join(f"{each['role']}: {_text(each.get('content'))}" for each in self.messages)


@dataclass(frozen=True)
class Rows:
    """All rows in the order of the file, and the SHA-256 of the file."""

    rows: tuple[Row, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)


def read_rows(loaded: LoadedSuite) -> Rows:
    """The rows of a suite. Raises `InputError` for the first line that is not one, and for what no metric can use."""
    path = loaded.beside(loaded.suite.rows)
    name = f"{loaded.folder.name}/{loaded.suite.rows}"
    if not path.exists():
        raise InputError(
            f"the rows of {loaded.name} are missing",
            details=[("looked", str(path)), ("suite", loaded.shown)],
            hint=f"put the JSONL file there: `{loaded.shown}` and docs/acceptance.md say what it holds",
        )
    try:
        data = read_regular(path, limit=_LIMIT, name=name)
    except OSError as error:
        raise unreadable(name, error) from error
    digest = sha256(data)
    if loaded.suite.rows_sha256 not in (None, digest):
        raise InputError(
            f"{name} is not the file that the suite pins",
            details=[("wanted", str(loaded.suite.rows_sha256)), ("found", digest)],
            hint="restore the rows, or change rows_sha256 if this is the new file",
        )
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            row = parse_row(line, number, name)
            if row.id in seen:
                raise InputError(
                    f"{name}:{number}: the id {row.id!r} is repeated", hint=f"it is first in line {seen[row.id]}"
                )
            seen[row.id] = number
            rows.append(row)
    if not rows:
        raise InputError(f"{name} has no rows", hint="write one JSON object in each line")
    for required in loaded.suite.require:
        if required.rows is not None and required.min is not None and required.min > len(rows):
            raise InputError(
                f"{loaded.shown} requires {required.min:g} rows to be answered, and {name} has {len(rows)}",
                hint="no run can meet that: lower it, or restore the rows",
            )
    for key, metric in loaded.suite.metrics.items():
        _check_metric(key, metric, rows, name)
        if loaded.suite.answer.format is None:
            _check_text(key, metric, rows, name)
    return Rows(tuple(rows), digest)


def parse_row(line: bytes, number: int, name: str) -> Row:
    """One line as a row. Raises `InputError` that begins with `NAME:NUMBER: `."""

    def refuse(why: str) -> InputError:
        return InputError(f"{name}:{number}: {why}", hint='a row is {"id": ..., "messages": [...], "expected": {...}}')

    try:
        found = strict_json(line)
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise refuse("is not a JSON object")
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise refuse("has characters that UTF-8 does not have (lone surrogates)") from error
    if unknown := sorted(set(found) - _KEYS):
        raise refuse(f"unknown key {unknown[0]!r}")
    identity = found.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity or len(identity) > 200 or not identity.isprintable():
        raise refuse("'id' is a short text")
    messages = found.get("messages")
    expected, tools = ({} if found.get("expected") is None else found["expected"]), found.get("tools", [])
    if not isinstance(messages, list) or not messages:
        raise refuse("'messages' is a list of at least one message")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or message["role"] not in _ROLES:
            raise refuse(f"each message has a role of {', '.join(sorted(_ROLES))}")
    if not isinstance(expected, dict) or any(isinstance(each, dict | list) for each in expected.values()):
        raise refuse("'expected' has plain values, such as {\"legal\": true}")
    if not isinstance(tools, list) or any(not isinstance(each, dict) for each in tools):
        raise refuse("'tools' is a list of tools as the chat API takes them")
    return Row(identity, tuple(messages), expected, tuple(tools), number)


def _check_metric(key: str, metric: Metric, rows: list[Row], name: str) -> None:
    """Refuse a metric that no row of the file can speak for."""
    values = [value for row in rows if (value := row.expected.get(metric.field)) is not None]
    if not values:
        fields = sorted({each for row in rows for each in row.expected})
        raise InputError(
            f"{name}: no row expects a {metric.field!r}, which the metric {key} is about",
            hint=f"fields of the rows: {', '.join(fields) or 'none'}",
        )
    if metric.label is not None and not any(same(value, metric.label) for value in values):
        labels = sorted({json.dumps(value, ensure_ascii=False) for value in values})
        raise InputError(
            f"{name}: no row has {metric.field} = {json.dumps(metric.label, ensure_ascii=False)}, the label of {key}",
            hint=f"labels of {metric.field}: {', '.join(labels[:20])}",
        )


def _check_text(key: str, metric: Metric, rows: list[Row], name: str) -> None:
    """Refuse what an answer that is text never equals: `true`, or a number."""
    for row in rows:
        value = row.expected.get(metric.field)
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"{name}:{row.line}: {metric.field} is {json.dumps(value)}, and the suite reads text: {key} would be wrong in every row",
                hint=f"write it as text: {json.dumps(json.dumps(value))}; or read answers with 'format: json'",
            )


def same(one: object, other: object) -> bool:
    """Equality of JSON values: `true` is not 1, and text is compared after Unicode composition and trimming."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, str) and isinstance(other, str):
        return _normal(one) == _normal(other)
    return one == other


def _normal(text: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", text).strip()


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(each.get("text", "")) if isinstance(each, dict) else str(each) for each in content)
    return "" if content is None else json.dumps(content, ensure_ascii=False)
