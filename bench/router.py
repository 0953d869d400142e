"""The router beside plain LiteLLM, in one run: 200 requests at once on loopback, and what the hook takes by itself."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.measure import Row, Used, run
from tests.support.router.backend import Backend, backends, prompt_tokens
from tests.support.router.proxy import KEY, Proxy, started

AT_ONCE, SECONDS = 200, 20
CAP, SHORT, LONG = 10_000, 16_384, 131_072
SIZES = (100, 2_000, 9_000, 10_001, 100, 2_000, 9_000, 100, 2_000, 60_000)


@dataclass(frozen=True)
class Load:
    """What a proxy did under load: requests, those that were lost or misrouted, median seconds, peak memory in bytes."""

    requests: int
    lost: int
    misrouted: int
    median: float
    per_second: float
    peak: int


def _body(tokens: int, salt: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"n{salt} "}]
    messages[0]["content"] += "kůň " * (tokens - prompt_tokens({"messages": messages}))
    return {"model": "qwen", "messages": messages, "max_tokens": 100}


async def _load(proxy: Proxy, pair: Sequence[Backend]) -> Load:
    took: list[float] = []
    lost = number = 0
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    head = {"Authorization": f"Bearer {KEY}"}
    end = time.monotonic() + SECONDS
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:

        async def one() -> None:
            nonlocal lost, number
            while time.monotonic() < end:
                number += 1
                body = _body(SIZES[number % len(SIZES)], number)
                begun = time.monotonic()
                reply = await client.post(f"{proxy.url}/v1/chat/completions", json=body, headers=head)
                took.append(time.monotonic() - begun)
                lost += reply.status_code != 200

        begun = time.monotonic()
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        spent = time.monotonic() - begun
    wrong = sum(each.tokens > CAP for each in pair[0].seen) + sum(each.tokens <= CAP for each in pair[1].seen)
    lines = Path(f"/proc/{proxy.process.pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return Load(
        number,
        lost + number - len(pair[0].seen) - len(pair[1].seen),
        wrong,
        statistics.median(took),
        number / spent,
        peak,
    )


def _configure(folder: Path, pair: Sequence[Backend], *, plain: bool) -> None:
    run(
        sys.executable, "-m", "builder", "deploy", "router", "demo", "--short", f"envelope-16k@{pair[0].url}", "--long", pair[1].url,
        "--model-name", "qwen", "--output", str(folder),
    )  # fmt: skip
    if plain:
        # What LiteLLM has itself: a limit for the first of two, counted by tiktoken.
        path = folder / "config.yaml"
        document = yaml.safe_load(path.read_text())
        del document["litellm_settings"]["callbacks"]
        document["router_settings"]["enable_pre_call_checks"] = True
        for order, each in enumerate(document["model_list"], 1):
            each["litellm_params"]["order"] = order
            each["model_info"]["max_input_tokens"] = (CAP, LONG)[order - 1]
        path.write_text(yaml.safe_dump(document))


async def _hook(pair: Sequence[Backend], times: int = 30) -> tuple[float, float]:
    """The median time of the hook for 9,000 tokens that it has not counted yet, and of a bare request to `/tokenize`, in ms."""
    from builder.serve.router.envelope import Backend as Known
    from builder.serve.router.envelope import Envelope, Settings

    known = [
        Known("short-1", "short", pair[0].url, max_prompt=CAP, max_model_len=SHORT),
        Known("long-1", "long", pair[1].url),
    ]
    envelope = Envelope(Settings(completion=6144, health_seconds=60), known)
    deployments = [{"model_info": {"id": each.name, "role": each.role}} for each in known]
    ours, bare = [], []
    for number in range(times):
        body = _body(9_000, number)
        begun = time.perf_counter()
        await envelope.async_filter_deployments("qwen", deployments, body["messages"], {"max_tokens": 100})
        ours.append(time.perf_counter() - begun)
        data = json.dumps({"messages": body["messages"], "add_generation_prompt": True}).encode()
        begun = time.perf_counter()
        # As the hook does: both are asked at once, and both count.
        await asyncio.gather(*(envelope._post(each, data) for each in known))
        bare.append(time.perf_counter() - begun)
    return statistics.median(ours[3:]) * 1000, statistics.median(bare[3:]) * 1000


def router() -> list[Row]:
    found: dict[bool, Load] = {}
    with backends(SHORT, LONG) as pair:
        own, bare = asyncio.run(_hook(pair))
        for plain in (False, True):
            for each in pair:
                each.reset()
            with tempfile.TemporaryDirectory() as name:
                _configure(Path(name), pair, plain=plain)
                with started(Path(name)) as proxy:
                    found[plain] = asyncio.run(_load(proxy, pair))
    ours, theirs = found[False], found[True]

    def said(load: Load) -> str:
        return f"{load.per_second:.0f}/s, {load.lost} lost and {load.misrouted} misrouted of {load.requests:,}"

    return [
        Row(
            f"router, {AT_ONCE} at once: median request",
            {
                "envelope hook in LiteLLM": [Used(ours.median, peak=ours.peak)],
                "plain LiteLLM": [Used(theirs.median, peak=theirs.peak)],
            },
            f"ours {said(ours)}; plain {said(theirs)}",
        ),
        Row("hook at 9,000 tokens", {"the hook": [Used(own / 1000)], "/tokenize of both alone": [Used(bare / 1000)]}),
    ]
