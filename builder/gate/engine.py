"""The running part: inspect-ai asks, retries and logs. What a response is worth is decided from the log's samples, elsewhere.

inspect-ai's own defaults are not used where they give wrong verdicts (0.3.285, tests/gate/test_inspect_contract.py): errors are
caught in the solver and become facts of the sample, retries are bounded and the client's own are off, the limit is on one attempt,
and there are no metrics. It is imported when a run begins, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.documents.verdict import clean
from builder.gate.answers import Reply
from builder.gate.control import Control
from builder.gate.rows import Row
from builder.gate.suite import Suite
from builder.net.trouble import UNKNOWN, reason
from builder.util.context import Context, Progress
from builder.util.errors import InputError
from builder.util.extras import install_hint
from builder.util.limits import Limits

if TYPE_CHECKING:
    from inspect_ai.model import Model, ModelOutput
    from inspect_ai.solver import Solver

_SIZE = 16 << 20
"""Bytes of one response. A body that never ends is cut off there, or by the limit of the attempt."""
_GIVEN_UP = re.compile(rb'(?<!\\)"finish_reason"\s*:\s*(null|"abort"|"error")')
CONTEXT = re.compile(r"context[ _]length|max(?:imum)?[ _]model[ _]len|context_length_exceeded", re.IGNORECASE)
OF_THE_ROW = (400, 413, 415, 422)
"""Refusals of one request. Every other one (no key, no such address, a redirect) concerns all rows: the server is not usable."""
_LATE = re.compile(r"attempt_timeout '?(\d+)'? exceeded\.?")
_NO_COMPLETION = "Unexpected non-ChatCompletion response:"
_KEY = "reply"
_WHY = 300
_FLUSHES = 50
_MISSING = "builder gate needs inspect-ai"


@dataclass(frozen=True)
class Side:
    """A server that is asked: the address without `/v1`, the id of its model, and what goes out as authorization."""

    name: str
    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    basic: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ask:
    """One request: a row, on one side, for the `turn`th time (from 0)."""

    side: str
    row: Row
    turn: int

    @property
    def id(self) -> str:
        return f"{self.side}/{self.turn}/{self.row.id}"


Replies = dict[str, Reply]
"""By the id of what was asked."""


def inspect_version() -> str:
    """The version of inspect-ai. Raises `InputError` when it is not installed."""
    from importlib import metadata

    try:
        return metadata.version("inspect-ai")
    except metadata.PackageNotFoundError as error:
        raise InputError(_MISSING, hint=install_hint("gates")) from error


def ask_all(
    asks: Sequence[Ask], sides: Sequence[Side], suite: Suite, log_dir: Path, control: Control, *, context: Context
) -> None:
    """Ask everything, in order, at most `connections` at once on each side; inspect-ai's log in `log_dir` has the replies.

    Raises `KeyboardInterrupt` when the user ended it; what was answered is in the log.
    """
    try:
        from inspect_ai import Task
        from inspect_ai import eval as run_eval
        from inspect_ai.dataset import MemoryDataset, Sample
        from inspect_ai.model import ChatMessageUser
    except ImportError as error:
        raise InputError(_MISSING, hint=install_hint("gates")) from error
    models = {side.name: _model(side, suite, context.limits) for side in sides}
    dataset = MemoryDataset(
        [
            Sample(id=ask.id, input=[ChatMessageUser(content=ask.row.prompt)], metadata={"side": ask.side, "index": index})
            for index, ask in enumerate(asks)
        ],
        name=suite.name,
    )  # fmt: skip
    log_dir.mkdir(parents=True, exist_ok=True)
    with (
        _own_environment(),
        warnings.catch_warnings(),
        context.console.progress("rows", total=len(asks), unit="rows") as progress,
    ):
        # pydantic warns on standard error with the text of a response that has another type than it should have.
        warnings.simplefilter("ignore")
        logs = run_eval(
            Task(dataset=dataset, solver=_solver(asks, models, suite, control, progress), name=suite.name),
            model=models[sides[0].name], display="none", log_level="critical", log_dir=str(log_dir), log_format="eval",
            log_buffer=max(1, len(asks) // _FLUSHES), log_realtime=False, log_model_api=False, log_images=False,
            max_samples=suite.limits.connections * len(sides), fail_on_error=False, score=False,
            acp_server=False, ctl_server=False,
        )  # fmt: skip
    # A run that the user ended gives no log, or a cancelled one.
    if not logs or any(log.status == "cancelled" for log in logs):
        raise KeyboardInterrupt
    for log in logs:
        if log.error is not None:
            raise InputError(
                "inspect-ai could not finish the run", details=[("why", log.error.message[:_WHY])],
                hint="make room where the output goes, then run the same command again: it continues",
            )  # fmt: skip


@contextmanager
def _own_environment() -> Iterator[None]:
    """inspect-ai reads a `.env` file of any folder above into the environment: proxies, keys and its own settings. Not here.

    It also writes what servers respond, which may repeat a private prompt, into a trace in the user's home folder. Not here either.
    """
    before = dict(os.environ)
    os.environ.update({"PYTHON_DOTENV_DISABLED": "1", "INSPECT_TRACE_LEVEL": "critical"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _model(side: Side, suite: Suite, limits: Limits) -> Model:
    from inspect_ai.model import GenerateConfig, get_model
    from openai import DefaultAsyncHttpxClient

    sampling = suite.sampling

    async def authorize(request: Any) -> None:
        # Not among the model's arguments: inspect-ai logs those.
        if side.basic and not side.key:
            request.headers["Authorization"] = side.basic

    hooks: dict[str, list[Callable[..., Any]]] = {"request": [authorize], "response": [_bound]}
    model = get_model(
        f"openai-api/gate/{side.model}", base_url=f"{side.url}/v1", api_key=side.key or "none", memoize=False,
        max_retries=0, http_client=DefaultAsyncHttpxClient(
            event_hooks=hooks, follow_redirects=False, headers={"Accept-Encoding": "identity"}
        ),
        config=GenerateConfig(
            max_retries=suite.limits.tries - 1, attempt_timeout=suite.limits.attempt_seconds,
            max_connections=suite.limits.connections, temperature=sampling.temperature, top_p=sampling.top_p,
            seed=sampling.seed, max_tokens=sampling.max_tokens,
        ),
    )  # fmt: skip
    model.api.retry_wait = lambda: _Wait(limits)  # type: ignore[method-assign]
    return model


class _Wait:
    """The pause between two attempts: what the server asks for, up to the longest wait, else a growing one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(self, state: Any) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
        if asked.isdecimal():
            return min(float(asked), self._limits.longest_wait)
        return self._limits.pause(state.attempt_number)


async def _bound(response: Any) -> None:
    """End a body that is larger than any completion, and fail one of a completion that the server has given up.

    vLLM says `abort` and `error`, and a response that has not ended says null; inspect-ai calls all of them `unknown` and takes
    the text as an answer.
    """
    import httpx2

    inner = response.stream
    coding = response.headers.get("Content-Encoding", "identity")

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> Any:
            if coding != "identity":
                # A few kilobytes of it can become gigabytes.
                raise httpx2.ReadError(f"the response is compressed ({coding}), which was not asked for")
            size, body = 0, []
            async for chunk in inner:
                size += len(chunk)
                if size > _SIZE:
                    raise httpx2.ReadError(f"the response is larger than {_SIZE >> 20} MiB")
                body.append(chunk)
                yield chunk
            if given_up := _GIVEN_UP.search(b"".join(body)):
                raise httpx2.ReadError(f"the response was not finished: finish_reason {given_up[1].decode()}")

        async def aclose(self) -> None:
            await inner.aclose()

    response.stream = Bounded()


def _solver(
    asks: Sequence[Ask], models: Mapping[str, Model], suite: Suite, control: Control, progress: Progress
) -> Solver:
    from inspect_ai.solver import Generate, TaskState, solver

    @solver
    def ask_row() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:  # noqa: ARG001  inspect-ai's signature
            ask = asks[state.metadata["index"]]
            if control.may_ask():
                reply = await _ask(ask.row, models[ask.side], suite, state)
                state.store.set(_KEY, reply.record())
                control.note(ask.side, reply)
                progress.advance(1)
            return state

        return solve

    return ask_row()


async def _ask(row: Row, model: Model, suite: Suite, state: Any) -> Reply:
    from inspect_ai.model import GenerateConfig

    # What goes out is the row as it is written, not what inspect-ai would make of it.
    body: dict[str, Any] = {"messages": list(row.messages)}
    if row.tools:
        body["tools"] = list(row.tools)
    if suite.sampling.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": suite.sampling.thinking}
    try:
        output = await model.generate(state.messages, config=GenerateConfig(extra_body=body))
    except Exception as error:  # noqa: BLE001  whatever a server makes a client raise is a fact about this row
        return failure(error)
    state.output = output
    return read_output(output)


def read_output(output: ModelOutput) -> Reply:
    """The facts of a completion as inspect-ai has it."""
    if not output.choices:
        return Reply(failure="transport", why="a response without choices")
    choice = output.choices[0]
    content = choice.message.content
    texts, thoughts, refused = [content] if isinstance(content, str) else [], False, False
    for part in content if not isinstance(content, str) else ():
        if part.type == "text":
            texts.append(part.text)
            refused = refused or bool(part.refusal)
        thoughts = thoughts or part.type == "reasoning"
    usage = output.usage
    why = clean("".join(texts))[:_WHY] or "the prompt is too long" if choice.stop_reason == "model_length" else ""
    return Reply(
        text=clean("".join(texts)), finish=str(choice.stop_reason), failure="over_context" if why else "", why=why,
        tool_calls=len(choice.message.tool_calls or ()), thoughts=thoughts, refused=refused, model=output.model or None,
        prompt_tokens=usage.input_tokens if usage else None, completion_tokens=usage.output_tokens if usage else None,
        seconds=round(output.time, 4) if output.time is not None else None,
    )  # fmt: skip


def failure(error: BaseException) -> Reply:
    """Why a row has no completion. What is no status of the server is transport: the response is missing, or is not the API's."""
    attempt = getattr(error, "last_attempt", None)
    if attempt is not None:
        error = attempt.exception() or error
    status = getattr(error, "status_code", None)
    # inspect-ai puts the request before what the server says: a prompt about context lengths is not such a refusal.
    said = str(getattr(error, "provider_message", None) or error)
    if not isinstance(status, int):
        return Reply(failure="transport", why=clean(_transport(error, said)[:_WHY]))
    why = clean(said[:_WHY])
    if status in (400, 413, 422) and CONTEXT.search(said):
        return Reply(failure="over_context", why=why, status=status)
    return Reply(failure="client_error" if status in OF_THE_ROW else "server_error", why=why, status=status)


def _transport(error: BaseException, said: str) -> str:
    """Why there is no response of the chat API, in words: what happened to the connection, or what the client stumbled over."""
    if isinstance(error, TypeError | ValueError | AttributeError | LookupError):
        return f"not a response of the chat API: a value is missing or has another type ({said})"
    if late := _LATE.fullmatch(said):
        return f"no response within {late[1]} s (the suite's attempt_seconds)"
    if _NO_COMPLETION in said:
        return f"not a response of the chat API:{said.partition(_NO_COMPLETION)[2]}"
    known = reason(error)
    if known != UNKNOWN:
        return f"no response: {known}"
    return f"no whole response: {error.__cause__ or said or 'the client gave up'}"


def session(log_dir: Path) -> Path:
    """The folder of the next session's log."""
    return log_dir / f"{len(list(log_dir.glob('*'))) + 1:04}"


def logs_of(log_dir: Path) -> list[Path]:
    """The logs of a run's sessions, oldest first."""
    return sorted(log_dir.glob("*/*.eval"))


def read_replies(log_dir: Path) -> Replies:
    """What all sessions of a run have got, the latest reply to each request. A log that a killed run left unreadable is skipped."""
    replies: Replies = {}
    for path in logs_of(log_dir):
        for identity, record in _records(path):
            replies[identity] = Reply.of(record)
    return replies


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Id and reply of each sample.

    A log is a zip with a JSON file for each sample. inspect-ai's own reader takes ten times as long, since it makes every event;
    it is asked where the zip is not what it was (tests/gate/test_inspect_contract.py holds both to the same replies).
    """
    try:
        with zipfile.ZipFile(path) as log:
            samples = [json.loads(log.read(name)) for name in log.namelist() if name.startswith("samples/")]
        found = [(str(sample["id"]), sample["store"].get(_KEY)) for sample in samples]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, NotImplementedError, zipfile.BadZipFile):
        found = _slowly(path)
    for identity, record in found:
        if isinstance(record, Mapping):
            yield identity, record


def _slowly(path: Path) -> list[tuple[str, Any]]:
    """The same by inspect-ai's reader. A log that it cannot read has no replies."""
    from inspect_ai.log import read_eval_log

    try:
        samples = read_eval_log(str(path)).samples or ()
    except Exception:  # noqa: BLE001  whatever is broken in it, its rows are asked again
        return []
    return [(str(sample.id), sample.store.get(_KEY)) for sample in samples]


def settled(reply: Reply) -> bool:
    """Whether a resumed run keeps this reply. A row that only a sick server has lost is asked again."""
    return reply.failure not in ("transport", "server_error")
