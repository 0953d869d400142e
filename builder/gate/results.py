"""The rows of a run with their outcomes, one JSON object in each line: what the page shows, and what a verdict's figures come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.gate.metrics import Figures, Judged
from builder.util.errors import InputError
from builder.util.files import read_regular, sha256

_LIMIT = 1 << 30


def result_lines(ours: Figures, theirs: Figures | None, tokens: Mapping[str, int], *, redact: bool) -> bytes:
    """All rows. With `redact`, ids and hashes only: neither prompts nor answers nor what is expected."""
    others = {each.row.id: each for each in theirs.judged} if theirs is not None else {}
    lines = []
    for each in ours.judged:
        line: dict[str, Any] = {
            "id": each.row.id, "sha256": each.row.digest, "tokens": tokens.get(each.row.id) or each.replies[0].prompt_tokens,
            **_outcome(each, redact=redact),
        }  # fmt: skip
        if not redact:
            line |= {"prompt": each.row.prompt, "expected": dict(each.row.expected)}
        if each.row.id in others:
            line["reference"] = _outcome(others[each.row.id], redact=redact)
        lines.append(json.dumps(line, ensure_ascii=False, sort_keys=True))
    return "\n".join(lines).encode() + b"\n"


def _outcome(judged: Judged, *, redact: bool) -> dict[str, Any]:
    first = judged.replies[0]
    found: dict[str, Any] = {
        "bucket": judged.bucket, "right": dict(judged.right), "flaky": judged.flaky, "seconds": first.seconds,
        "answer_sha256": sha256(first.text.encode()),
    }  # fmt: skip
    if not redact:
        found |= {
            "answer": first.text, "fields": dict(judged.answered[0].fields),
            "why": next((each.why for each in judged.answered if each.bucket != "answered"), ""),
        }  # fmt: skip
    return found


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that `result_lines` wrote. Raises `InputError`."""
    try:
        return list(_lines(read_regular(path, limit=_LIMIT)))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} does not have the rows of a run", details=[("why", str(error))]) from error


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("a line is not a JSON object")  # noqa: TRY004  as for other lines that are not rows
        yield found
