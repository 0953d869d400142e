"""Start a server, ask it everything that any test wants to know, and end it again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.support.cli import Ran, builder
from tests.support.engine.contract import Reply, replies
from tests.support.engine.questions import Case, cases, questions
from tests.support.engine.server import Running, healthy, serving, stop

_PROFILE = Path(__file__).parents[3] / "profiles/smoke-cpu.yaml"


@dataclass(frozen=True)
class Answer:
    """What a server said to a case: tokens with their logprobs, and at each place the likeliest tokens."""

    wanted: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    likeliest: tuple[dict[str, float], ...]
    content: str


@dataclass
class Observation:
    """All that was seen of one server, from its start to its end. `served` is its log before it was told to end."""

    healthy: bool
    start_seconds: float
    answers: list[Answer] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)
    smoke: Ran | None = None
    gate: Ran | None = None
    overlays: Any = None
    stop_seconds: float = 0.0
    exit_code: int | None = None
    served: str = ""
    log: str = ""


def observe(
    command: Sequence[str], env: Mapping[str, str], log: Path, *, cwd: Path, smoke_only: bool = False
) -> Observation:
    """Run `command` as a server; ask it everything, or smoke only, when it becomes healthy; end it by SIGTERM."""
    begun = time.monotonic()
    with serving(command, env=env, log=log) as server:
        found = Observation(healthy(server), time.monotonic() - begun)
        if found.healthy:
            found.smoke = builder(
                "smoke", server.url, str(_PROFILE), "--log", str(server.log), "--gpu", "cpu", "--json", cwd=cwd
            )
            if not smoke_only:
                _ask(server, found, cwd)
            found.served = log.read_text(errors="replace")
            found.stop_seconds = stop(server.process)
        found.exit_code = server.ended()
    found.log = log.read_text(errors="replace")
    return found


def _ask(server: Running, found: Observation, cwd: Path) -> None:
    model = requests.get(f"{server.url}/v1/models", timeout=30).json()["data"][0]["id"]
    write_gates(cwd)
    found.gate = builder(
        "gate", server.url, str(_PROFILE), "--suite", "known", "--suite", "capped", "--gpu", "cpu", "--json", cwd=cwd
    )
    found.replies = replies(server.url, model)
    shown = requests.get(f"{server.url}/overlays", timeout=30)
    found.overlays = shown.json() if shown.ok else None
    # One at a time: what is in a batch together must not matter to what is compared.
    with ThreadPoolExecutor(1) as pool:
        found.answers = list(pool.map(lambda case: _answer(server.url, model, case), cases()))


def write_gates(root: Path) -> None:
    """Two suites of what the model knows and one prompt that is too long: `known` sends that, `capped` counts its tokens."""
    folder = root / "gates"
    folder.mkdir(exist_ok=True)
    asked = {f"r{number:02}": pair for number, pair in enumerate(questions().items())}
    asked["long"] = ("Kolik je 1+1? " * 20_000, "2")
    rows = [
        {"id": key, "messages": [{"role": "user", "content": prompt}], "expected": {"answer": answer}}
        for key, (prompt, answer) in asked.items()
    ]
    (folder / "known.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    for name, cap, bucket in (("known", "", "over_context"), ("capped", "prompt_cap: 100\n", "over_cap")):
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\nrows: known.jsonl\nanswer: {{exact: true}}\nsampling: {{max_tokens: 32, thinking: false}}\n{cap}"
            "metrics: {known: {kind: equal, field: answer}}\n"
            f"require: [{{rows: answered, min: 42}}, {{count: {bucket}, max: 1}}, {{metric: known, min: 0.97}}]\n"
        )


def _answer(url: str, model: str, case: Case) -> Answer:
    body: dict[str, Any] = {
        "model": model, "messages": [_sent(message) for message in case.messages], "temperature": 0, "max_tokens": 64, "logprobs": True,
        "top_logprobs": 5, "chat_template_kwargs": {"enable_thinking": case.thinking},
    }  # fmt: skip
    if case.tools:
        # The template gets the tools, the parser does not touch the answer.
        body |= {"tools": list(case.tools), "tool_choice": "none"}
    document = requests.post(f"{url}/v1/chat/completions", json=body, timeout=120).json()
    assert "choices" in document, document
    choice = document["choices"][0]
    places = choice["logprobs"]["content"]
    return Answer(
        wanted=case.answer,
        tokens=tuple(place["token"] for place in places),
        logprobs=tuple(place["logprob"] for place in places),
        likeliest=tuple({each["token"]: each["logprob"] for each in place["top_logprobs"]} for place in places),
        content=choice["message"]["content"] or "",
    )


def _sent(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the API has it: arguments are text, and a result names its call."""
    if message["role"] == "tool":
        return {**message, "tool_call_id": "1"}
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message
