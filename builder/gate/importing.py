"""Logs of people who have run a suite's rows already, with lm-eval or inspect: judged by the suite as if we had asked.

A log is evidence of what a model said, not of which image said it: the verdict is unbound unless the log names the image by digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from builder.documents.verdict import ImageIdentity, clean
from builder.gate.answers import Reply, make_parser, schema_bytes
from builder.gate.engine import CONTEXT, inspect_version, read_output
from builder.gate.metrics import compute
from builder.gate.rows import Row, Rows, read_rows
from builder.gate.run import About, Run
from builder.gate.suite import LoadedSuite
from builder.gate.target import Served
from builder.util.errors import InputError
from builder.util.files import read_regular

Kind = Literal["lm-eval", "inspect"]
IMAGE_KEY: Final = "image"
"""The key of an inspect log's metadata that names the image, as REFERENCE@sha256:HEX."""
_NAMED = re.compile(r"[^@\s]+@(sha256:[0-9a-f]{64})")
_LIMIT = 1 << 30
_ABSENT = Reply(failure="transport", why="the log does not have this row")


@dataclass(frozen=True)
class _Log:
    """What a log holds: replies by row id, each with the prompt that it says was asked (None: it does not say)."""

    replies: Mapping[str, list[Reply]]
    prompts: Mapping[str, str]
    model: str
    begun: datetime
    ended: datetime
    image: ImageIdentity | None = None


def import_log(kind: Kind, path: Path, loaded: LoadedSuite) -> Run:
    """Judge a log. A row that the log lacks was asked and not answered. Raises `InputError` for a log of other rows."""
    rows, parse, schema = read_rows(loaded), make_parser(loaded), schema_bytes(loaded)
    inspect_version()
    log = _inspect(path) if kind == "inspect" else _lm_eval(path)
    _check_rows(rows, log, path)
    if not any(log.replies.values()):
        raise InputError(f"{path} has no responses to the rows of {loaded.name}", hint="name the log of a run of them")
    times = max(len(each) for each in log.replies.values())
    replies = {row.id: [*log.replies.get(row.id, ()), *[_ABSENT] * times][:times] for row in rows.rows}
    figures = compute(loaded.suite.metrics, rows.rows, replies, parse)
    served = Served(None, log.model, None, log.image)
    notes = (f"judged from a log of {kind}; when and where it ran is what the log says",)
    return Run(
        loaded, rows, figures, None, served, None, {}, None, log.begun, log.ended, schema, (f"a log of {kind}", None), About(),
        notes, "import", (path,), kind,
    )  # fmt: skip


def _check_rows(rows: Rows, log: _Log, path: Path) -> None:
    known = {row.id: row for row in rows.rows}
    if strange := [identity for identity in log.replies if identity not in known]:
        raise InputError(
            f"{path} has {len(strange)} rows that the suite does not have", details=[("first", strange[0])],
            hint="samples need the ids of the suite's rows",
        )  # fmt: skip
    for identity, prompt in log.prompts.items():
        if not _asks(prompt, known[identity]):
            raise InputError(
                f"{path}: row {identity} was asked something else than the suite's row",
                hint="the rows were edited since: run the suite again",
            )


def _asks(prompt: str, row: Row) -> bool:
    """Whether a prompt is the row's: its last message is in it, as every template leaves it."""
    content = row.messages[-1].get("content")
    return content.strip() in prompt if isinstance(content, str) else True


def _inspect(path: Path) -> _Log:
    from inspect_ai.log import read_eval_log

    try:
        log = read_eval_log(str(path))
    except Exception as error:
        raise InputError(
            f"{path} is not a log of inspect", details=[("why", str(error)[:300])],
            hint="name the .eval or .json file that `inspect eval` wrote",
        ) from error  # fmt: skip
    replies: dict[str, list[Reply]] = {}
    prompts: dict[str, str] = {}
    for sample in sorted(log.samples or (), key=lambda each: each.epoch):
        identity = str(sample.id)
        if sample.error is not None:
            why = clean(sample.error.message[:300])
            reply = Reply(failure="over_context" if CONTEXT.search(why) else "transport", why=why)
        else:
            reply = read_output(sample.output)
        replies.setdefault(identity, []).append(reply)
        prompts[identity] = (
            sample.input if isinstance(sample.input, str) else "\n".join(each.text for each in sample.input)
        )
    begun, ended = _time(log.stats.started_at), _time(log.stats.completed_at)
    return _Log(
        replies, prompts, log.eval.model, begun, max(begun, ended), image_of((log.eval.metadata or {}).get(IMAGE_KEY))
    )


def _lm_eval(path: Path) -> _Log:
    """The samples file of `lm_eval --log_samples`: one JSON object in each line (lm-evaluation-harness 0.4)."""
    replies: dict[str, list[Reply]] = {}
    prompts: dict[str, str] = {}
    try:
        lines = [json.loads(line) for line in read_regular(path, limit=_LIMIT).splitlines() if line.strip()]
        for line in lines:
            doc = line.get("doc") if isinstance(line.get("doc"), Mapping) else {}
            identity = str(doc.get("id", line["doc_id"]))
            replies.setdefault(identity, []).extend(_texts(line["resps"]))
            if (prompt := _prompt(line.get("arguments"))) is not None:
                prompts[identity] = prompt
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a samples file of lm-eval", details=[("why", str(error)[:300])],
            hint="run lm_eval with --log_samples, and name samples_TASK_TIME.jsonl",
        ) from error  # fmt: skip
    return _Log(replies, prompts, "not named by the log", made, made)


def _texts(responses: Any) -> Iterable[Reply]:
    if not isinstance(responses, list):
        raise TypeError("'resps' is not a list")
    for each in responses:
        text = each[0] if isinstance(each, list) else each
        if not isinstance(text, str):
            raise TypeError("a response is not text; tasks that generate have text (output_type: generate_until)")
        yield Reply(text=clean(text), finish="stop")


def _prompt(arguments: Any) -> str | None:
    """The prompt of the first request: a list of argument lists, or a mapping `gen_args_0` -> `arg_0`."""
    first = next(iter(arguments.values()), None) if isinstance(arguments, Mapping) else (arguments or [None])[0]
    found = first.get("arg_0") if isinstance(first, Mapping) else (first or [None])[0]
    return None if found is None else found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def image_of(named: object) -> ImageIdentity | None:
    """The image that a log's metadata names. Raises `InputError` for a digest that is none."""
    if not isinstance(named, str) or "@sha256:" not in named:
        return None
    found = _NAMED.fullmatch(named)
    if found is None:
        raise InputError(
            f"the log names an image that is not one: {clean(named)[:200]!r}",
            hint="write image=REFERENCE@sha256:HEX",
        )
    return ImageIdentity(reference=found[0], digest=found[1], id=found[1])
