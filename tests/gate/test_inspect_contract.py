"""What inspect-ai does with its defaults, and why they are not used. A new minor version that changes a point fails here first.

Each test is a measured trap of 0.3.285. When one fails, read what inspect-ai does now, and builder/gate/engine.py again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import inspect_ai
import pytest
from inspect_ai import Task, eval_retry
from inspect_ai import eval as run_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.scorer import SampleScore, accuracy, match, metric, scorer
from inspect_ai.solver import generate

from builder.gate import engine
from tests.support.chatserver import ChatServer, chatting, prompt_of
from tests.support.suites import row, run, write_suite


def at_once(_state: object) -> float:
    return 0.0


def model(server: ChatServer, *, client_retries: int = 0, **config: Any) -> Model:
    made = get_model(
        "openai-api/gate/tiny", base_url=f"{server.url}/v1", api_key="none", memoize=False, max_retries=client_retries,
        config=GenerateConfig(**config),
    )  # fmt: skip
    made.api.retry_wait = lambda: at_once  # type: ignore[method-assign]
    return made


def silent(server: ChatServer, _body: Mapping[str, Any], _handler: Any) -> None:
    server.over.wait(60)


def late(server: ChatServer, _body: Mapping[str, Any], _handler: Any) -> str:
    server.over.wait(1.5)
    return "yes"


def ask(server: ChatServer, folder: Path, prompts: list[str], scoring: Any = None, **config: Any) -> EvalLog:
    dataset = MemoryDataset([Sample(id=each, input=each, target="yes") for each in prompts])
    task = Task(dataset=dataset, solver=generate(), scorer=scoring or match(), name="contract")
    return run_eval(
        task, model=model(server, **config), display="none", log_dir=str(folder), log_level="critical", fail_on_error=False,
        ctl_server=False, acp_server=False,
    )[0]  # fmt: skip


def failing(status: int, message: str, *, when: Callable[[str], bool] = lambda _prompt: True) -> Any:
    def script(server: ChatServer, body: Mapping[str, Any], handler: Any) -> str | None:
        if not when(prompt_of(body)):
            return "yes"
        handler.say(
            status,
            json.dumps({"error": {"message": message}}).encode(),
            Content_Type="application/json",
            Retry_After_Ms="1",
        )
        return None

    return script


def test_the_minor_version_is_the_one_that_was_measured() -> None:
    assert inspect_ai.__version__.split(".")[:2] == ["0", "3"]


def test_rows_with_errors_leave_the_denominator_of_a_run_that_succeeds(tmp_path: Path) -> None:
    with chatting(failing(500, "dead", when=lambda prompt: prompt > "c")) as server:
        log = ask(server, tmp_path, ["a", "b", "c", "d", "e"], max_retries=0)
    assert log.status == "success"
    assert log.results is not None
    found = log.results.scores[0].metrics["accuracy"].value
    # Three of five rows are right.
    assert found == 1.0


def test_retries_have_no_bound_unless_one_is_set(tmp_path: Path) -> None:
    assert GenerateConfig().max_retries is None
    with chatting(
        lambda server, body, handler: "yes" if len(server.asked) > 30 else failing(503, "busy")(server, body, handler)
    ) as server:
        log = ask(server, tmp_path, ["a"])
        assert len(server.asked) == 31
    assert log.samples is not None
    assert log.samples[0].error is None


def test_retries_of_the_client_multiply_with_those_of_inspect(tmp_path: Path) -> None:
    """`max_retries` counts retries: one of each makes four requests."""
    with chatting(failing(500, "dead")) as server:
        ask(server, tmp_path, ["a"], max_retries=1, client_retries=1)
        assert len(server.asked) == 4
        ask(server, tmp_path, ["a"], max_retries=1)
        assert len(server.asked) == 4 + 2


def test_timeout_does_not_limit_one_attempt(tmp_path: Path) -> None:
    with chatting(late) as server:
        log = ask(server, tmp_path, ["a"], timeout=1, max_retries=0)
        assert log.samples is not None
        assert log.samples[0].error is None
    with chatting(silent) as server:
        log = ask(server, tmp_path, ["a"], attempt_timeout=1, max_retries=0)
        assert log.samples is not None
        assert log.samples[0].error is not None
        assert "AttemptTimeoutError" in log.samples[0].error.message


def test_the_length_of_a_prompt_is_an_error_and_a_truncated_answer_is_a_wrong_row(tmp_path: Path) -> None:
    message = "This model's maximum context length is 4029 tokens."

    def script(server: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
        if prompt_of(body) == "long":
            return failing(400, message)(server, body, handler)
        return {"content": "", "finish_reason": "length"}

    with chatting(script) as server:
        log = ask(server, tmp_path, ["long", "short"], max_retries=0)
    assert log.samples is not None
    long, short = sorted(log.samples, key=lambda each: str(each.id))
    assert long.error is not None
    assert "maximum context length" in long.error.message
    assert short.error is None
    assert short.scores is not None
    assert short.scores["match"].value == "I"
    assert short.output.stop_reason == "max_tokens"


@metric
def raising() -> Any:
    def compute(_scores: list[SampleScore]) -> float:
        raise RuntimeError("a metric that raises")

    return compute


@scorer(metrics=[accuracy(), raising()])
def with_raising() -> Any:
    return match()


def test_a_metric_that_raises_ends_the_run(tmp_path: Path) -> None:
    with chatting(lambda _server, _body, _handler: "yes") as server:
        log = ask(server, tmp_path, ["a"], with_raising(), max_retries=0)
    assert log.status == "error"


TASK = """
import json, pathlib
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate

@task
def edited():
    lines = (pathlib.Path(__file__).parent / "rows.jsonl").read_text().splitlines()
    return Task(dataset=MemoryDataset([Sample(**json.loads(line)) for line in lines]), solver=generate(), scorer=match())
"""


def test_a_data_set_that_was_edited_is_mixed_in_by_eval_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)

    def write(**prompts: str) -> None:
        rows = [{"id": key, "input": text, "target": "yes"} for key, text in prompts.items()]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))

    write(a="old a", b="old b")
    with chatting(failing(500, "dead", when=lambda prompt: prompt == "old b")) as server:
        how: dict[str, Any] = {"display": "none", "log_dir": str(tmp_path / "logs"), "log_level": "critical"}
        first = run_eval(
            "task.py", model=model(server, max_retries=0), max_samples=1, ctl_server=False, acp_server=False, **how
        )[0]
        assert first.status == "error"
        write(a="new a", b="new b")
        monkeypatch.setenv("GATE_API_KEY", "none")
        second = eval_retry(first, max_retries=0, ctl_server=False, acp_server=False, **how)[0]
    assert second.status == "success"
    assert second.samples is not None
    assert sorted(str(each.input) for each in second.samples) == ["new b", "old a"]


def test_both_readers_of_a_log_find_the_same_replies(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row(f"r{number}", legal=True) for number in range(5)])
    with chatting(lambda _s, _b, _h: "yes") as server:
        run(tmp_path, suite, server)
    path, *others = engine.logs_of(tmp_path / "dist/gate/small.run/logs")
    assert others == []
    quick, slow = dict(engine._records(path)), dict(engine._slowly(path))
    assert len(quick) == 5
    assert quick == slow
