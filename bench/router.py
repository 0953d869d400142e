"""The router beside plain LiteLLM, in one run: a minute of 200 requests at once on loopback for each, in turns of ten seconds.

Both proxies run at the same time, each between two servers of its own, and only one of them is asked at a time. What was lost
or sent to the wrong side is counted by what arrived at the servers. The hook alone is timed without a proxy.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.measure import PAIRS, Row, Used, run
from tests.support.router.backend import Backend, backends, prompt_tokens
from tests.support.router.proxy import KEY, Proxy, started

AT_ONCE, TURNS, SECONDS, ALONE = 200, 6, 10, 30
CAP, SHORT, LONG = 10_000, 16_384, 131_072
SIZES = (100, 2_000, 9_000, 10_001, 100, 2_000, 9_000, 100, 2_000, 60_000)


@dataclass
class Side:
    """A proxy with its servers, and what it did: requests, those that were lost or misrouted, and its turns."""

    proxy: Proxy
    pair: Sequence[Backend]
    asked: int = 0
    lost: int = 0
    misrouted: int = 0
    loaded: list[Used] = field(default_factory=list)
    alone: list[Used] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def peak(self) -> int:
        """The largest memory of the proxy's process so far, in bytes."""
        lines = Path(f"/proc/{self.proxy.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def seconds(self) -> float:
        """The CPU time of the proxy's process so far."""
        fields = Path(f"/proc/{self.proxy.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def count(self, ok: int, sent: int) -> None:
        """Compare what was sent with what arrived, and forget it."""
        short, long = self.pair
        arrived = len(short.seen) + len(long.seen)
        self.asked += sent
        self.lost += (sent - ok) + max(0, ok - arrived)
        self.misrouted += sum(each.tokens > CAP for each in short.seen) + sum(each.tokens <= CAP for each in long.seen)
        short.seen, long.seen = [], []

    def said(self) -> str:
        rate = self.asked / (TURNS * SECONDS)
        why = f" ({'; '.join(sorted(set(self.errors))[:3])})" if self.errors else ""
        return f"{rate:.0f}/s, {self.lost} lost{why} and {self.misrouted} misrouted of {self.asked:,}"


def _body(tokens: int, salt: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"n{salt} "}]
    messages[0]["content"] += "kůň " * (tokens - prompt_tokens({"messages": messages}))
    return {"model": "qwen", "messages": messages, "max_tokens": 100}


async def _turn(side: Side, number: int, *, at_once: int, seconds: float, most: int | None = None) -> list[float]:
    """Ask for so many seconds, or `most` requests, with so many at once; what each that went well took."""
    took: list[float] = []
    sent = 0
    # Kept connections would be closed under a client that is late: the proxy waits five seconds for the next request.
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=0)
    head = {"Authorization": f"Bearer {KEY}"}
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:

        async def one() -> None:
            nonlocal sent
            while time.monotonic() < end and (most is None or sent < most):
                sent += 1
                body = _body(SIZES[sent % len(SIZES)], number * 1_000_000 + sent)
                begun = time.monotonic()
                try:
                    reply = await client.post(f"{side.proxy.url}/v1/chat/completions", json=body, headers=head)
                except httpx.HTTPError as error:
                    side.errors.append(repr(error))
                    continue
                if reply.status_code == 200:
                    took.append(time.monotonic() - begun)
                else:
                    side.errors.append(f"{reply.status_code} {reply.text[:200]}")

        await asyncio.gather(*(one() for _ in range(at_once)))
    side.count(len(took), sent)
    return took


def _timed(side: Side, number: int, *, at_once: int, seconds: float, most: int | None = None) -> Used:
    """A turn: the median of its requests, and the CPU time of the proxy."""
    before = side.seconds()
    took = asyncio.run(_turn(side, number, at_once=at_once, seconds=seconds, most=most))
    return Used(statistics.median(took), cpu=side.seconds() - before, peak=side.peak())


def _load(sides: Sequence[Side]) -> None:
    """All turns, each side in each of them; those with one request at a time come first, and are the warm-up of the others."""
    for number in range(PAIRS + 1):
        for side in sides:
            alone = _timed(side, 50 + number, at_once=1, seconds=60, most=ALONE)
            if number:
                side.alone.append(alone)
    for side in sides:
        side.asked = side.lost = side.misrouted = 0
        side.errors.clear()
    for number in range(TURNS):
        for side in sides:
            side.loaded.append(_timed(side, number, at_once=AT_ONCE, seconds=SECONDS))


def _configure(folder: Path, pair: Sequence[Backend], *, plain: bool) -> None:
    run(
        sys.executable, "-m", "builder", "deploy", "router", "demo", "--short", f"envelope-16k@{pair[0].url}", "--long", pair[1].url,
        "--model-name", "qwen", "--output", str(folder),
    )  # fmt: skip
    # Servers, load and proxy share this machine: a count that waits for a core is not a tokenizer that hangs.
    settings = folder / "envelope.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "count_seconds": 60.0}))
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


async def _hook(pair: Sequence[Backend], times: int = 60) -> tuple[float, float]:
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
    with ExitStack() as stack:
        pairs = [stack.enter_context(backends(SHORT, LONG)) for _ in range(2)]
        own, bare = asyncio.run(_hook(pairs[0]))
        for each in pairs[0]:
            each.reset()
        sides = []
        for pair, plain in zip(pairs, (False, True), strict=True):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _configure(folder, pair, plain=plain)
            sides.append(Side(stack.enter_context(started(folder)), pair))
        _load(sides)
    names = ("envelope hook in LiteLLM", "plain LiteLLM")
    ours, theirs = sides
    added = statistics.median(a.seconds - b.seconds for a, b in zip(ours.alone, theirs.alone, strict=True)) * 1000
    return [
        Row(
            f"router, {AT_ONCE} at once: median request",
            {name: side.loaded for name, side in zip(names, sides, strict=True)},
            f"ours {ours.said()}; plain {theirs.said()}",
        ),
        Row(
            f"router, one at a time: median of {ALONE} requests",
            {name: side.alone for name, side in zip(names, sides, strict=True)},
            f"the hook and the servers' counting add {added:.1f} ms",
        ),
        Row(
            "hook at 9,000 tokens",
            {"the hook": [Used(own / 1000)], "/tokenize of both alone": [Used(bare / 1000)]},
            f"the hook's own part: {own - bare:.2f} ms",
        ),
    ]
