"""The real engine as the short backend of a real router: its tokenizer, its template and its limit decide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from builder.documents.profile import load_profile
from builder.serve.router.backends import Target
from builder.serve.router.proxy import files
from tests.engine.conftest import packages
from tests.support.engine.packages import OLD
from tests.support.engine.server import FLAGS, environment, healthy, serving
from tests.support.router.backend import Backend, backends
from tests.support.router.proxy import Proxy, started

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

PROFILE = load_profile(Path(__file__).parents[2] / "profiles/smoke-cpu.yaml")
CAP, LIMIT, LONG_LIMIT = 1024, 2048, 8192
TOOL = {
    "name": "current_temperature",
    "description": "The temperature of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@dataclass
class Fleet:
    """The engine, a stand-in with its tokenizer and a larger limit, and the router before both."""

    engine: str
    long: Backend
    proxy: Proxy

    def count(self, body: dict[str, Any]) -> int:
        reply = requests.post(f"{self.engine}/tokenize", json=body, timeout=60)
        assert reply.ok, reply.text
        return int(reply.json()["count"])

    def messages(self, tokens: int, **more: Any) -> list[dict[str, Any]]:
        """Messages of exactly so many tokens, by the engine's own count."""
        words = tokens
        while words:
            found = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a " * words}]
            missing = tokens - self.count({"messages": found, **more})
            if missing == 0:
                return found
            words += missing if missing < 0 else max(1, missing // 2)
        raise AssertionError("no text has so many tokens")


@pytest.fixture(scope="module")
def fleet(room: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    env = environment([packages(OLD)], room / "router-work")
    program = [str(room / "router-work/bin/vllm"), "serve", str(tiny), *FLAGS, "--served-model-name", "/model"]
    with serving(program, env=env, log=folder / "engine.log") as engine, backends(1, LONG_LIMIT) as (_, long):
        assert healthy(engine), engine.text()[-3000:]
        long.counted_by = engine.url
        assert PROFILE.envelope is not None
        targets = [
            Target(
                "short-1",
                "short",
                engine.url,
                "/model",
                PROFILE,
                PROFILE.envelope.prompt,
                LIMIT,
                PROFILE.envelope.completion,
            ),
            Target("long-1", "long", long.url, "/model"),
        ]
        for name, document in files("tiny", targets, overflow="error", overlays=(), state={"backends": {}}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        with started(folder) as proxy:
            yield Fleet(engine.url, long, proxy)


def usage(reply: requests.Response) -> int:
    used = reply.json()["usage"]
    return int(used.get("prompt_tokens") or used["input_tokens"])


def test_the_engine_takes_what_the_router_counted(fleet: Fleet) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": TOOL["name"], "arguments": '{"city": "Brno"}'}}
    talk = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "A v Brně?"},
        {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "21"},
    ]  # fmt: skip
    block = {"type": "tool_use", "id": "c1", "name": TOOL["name"], "input": {"city": "Brno"}}
    requests_ = {
        "/v1/chat/completions": {"messages": talk, "tools": [{"type": "function", "function": TOOL}], "max_tokens": 5},
        "/v1/completions": {"prompt": "Kolik je 2+2? " * 20, "max_tokens": 5},
        "/v1/messages": {
            "max_tokens": 5, "system": "Be brief.",
            "tools": [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}],
            "messages": [
                {"role": "user", "content": "A v Brně?"}, {"role": "assistant", "content": [block]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "21"}]},
            ],
        },
        "/v1/responses": {"instructions": "Be brief.", "input": "A v Brně?", "max_output_tokens": 20},
    }  # fmt: skip
    counted = {}
    for path, body in requests_.items():
        reply = fleet.proxy.post(path, {"model": "tiny", "temperature": 0, **body})
        assert reply.status_code == 200, f"{path}: {reply.text}"
        assert reply.headers["x-envelope-route"] == "short"
        counted[path] = (int(reply.headers["x-envelope-tokens"]), usage(reply))
    assert {path: pair[0] for path, pair in counted.items()} == {path: pair[1] for path, pair in counted.items()}
    assert not fleet.long.seen


def test_the_thinking_switch_changes_the_count(fleet: Fleet) -> None:
    counts = []
    for kwargs in ({}, {"chat_template_kwargs": {"enable_thinking": False}}):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 5, **kwargs}
        reply = fleet.proxy.post("/v1/chat/completions", body)
        assert int(reply.headers["x-envelope-tokens"]) == usage(reply)
        counts.append(usage(reply))
    assert counts[0] != counts[1]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_cap_is_exact_by_the_engines_own_count(fleet: Fleet, stream: bool) -> None:
    for tokens, side in ((CAP, "short"), (CAP + 1, "long")):
        fleet.long.seen.clear()
        body = {"model": "tiny", "messages": fleet.messages(tokens), "max_tokens": 5, "stream": stream}
        reply = fleet.proxy.post("/v1/chat/completions", body)
        assert reply.status_code == 200, reply.text
        assert (reply.headers["x-envelope-tokens"], reply.headers["x-envelope-route"]) == (str(tokens), side)
        assert len(fleet.long.seen) == (side == "long")


def test_prompt_and_completion_together_meet_the_engines_limit(fleet: Fleet) -> None:
    messages = fleet.messages(1000)
    for output, side in ((LIMIT - 1000, "short"), (LIMIT - 999, "long")):
        fleet.long.seen.clear()
        body = {"model": "tiny", "messages": messages, "max_tokens": output, "stop": ["a"], "temperature": 0}
        reply = fleet.proxy.post("/v1/chat/completions", body)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-envelope-route"] == side
        assert len(fleet.long.seen) == (side == "long")
    refused = fleet.proxy.post(
        "/v1/chat/completions", {"model": "tiny", "messages": messages, "max_tokens": LONG_LIMIT}
    )
    assert refused.status_code == 400
    assert json.dumps(LONG_LIMIT) in refused.text


def test_an_image_is_refused_as_the_engine_refuses_it(fleet: Fleet) -> None:
    fleet.long.seen.clear()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    reply = fleet.proxy.post(
        "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": [image]}]}
    )
    assert reply.status_code == 400, reply.text
    assert reply.headers["x-envelope-reason"] == "refused-by-backend"
    assert not fleet.long.seen
