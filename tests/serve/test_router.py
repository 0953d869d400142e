"""The router's rule, its counting and its files, without LiteLLM: the hook is one file that can be imported."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.serve.router import envelope as envelope_module
from builder.serve.router.backends import Target, check_together
from builder.serve.router.envelope import (
    PROMOTED,
    Backend,
    Counts,
    Envelope,
    Metrics,
    RefusedError,
    Settings,
    decide,
    load,
    payloads,
    reserved,
)
from builder.util.errors import InputError
from builder.util.files import write_file
from tests.support.cli import Ran, builder
from tests.support.router.backend import Backend as Server
from tests.support.router.backend import backends as servers

ROOT = Path(__file__).parents[2]
CAP, SHORT, LONG = 10_000, 16_384, 147_456
tokens = st.integers(0, 300_000)
small = st.integers(1, 12)


def two(short: int | None = SHORT, long: int | None = LONG, cap: int | None = CAP) -> list[Backend]:
    return [
        Backend("short-1", "short", "http://s", max_prompt=cap, max_model_len=short),
        Backend("long-1", "long", "http://l", max_model_len=long),
    ]


@given(tokens, tokens, st.booleans(), st.booleans(), st.sampled_from(["error", "long"]))
def test_the_rule(prompt: int, output: int, short_up: bool, long_up: bool, overflow: str) -> None:
    found = decide(prompt, output, two(), up={"short-1": short_up, "long-1": long_up}, overflow=overflow)
    within = prompt <= CAP and prompt + output <= SHORT
    fits_long = prompt + output <= LONG
    if within:
        wanted = (200, "short") if short_up else (200, "long") if overflow == "long" and long_up else (503, "none")
    elif fits_long:
        wanted = (200, "long") if long_up else (503, "none")
    else:
        wanted = (400, "none")
    assert (found.status, found.route) == wanted
    assert found.backends == (() if found.status != 200 else (f"{found.route}-1",))
    if found.route == "long":
        assert found.reason == ("short-down" if within else "prompt-over-cap" if prompt > CAP else "output-over-limit")


@given(small, small, st.lists(st.tuples(small, small, st.booleans()), min_size=1, max_size=3), st.lists(st.tuples(small, st.booleans()), max_size=2))  # fmt: skip
def test_with_many_servers_nothing_goes_where_it_does_not_fit_or_is_down(
    prompt: int, output: int, shorts: list[tuple[int, int, bool]], longs: list[tuple[int, bool]]
) -> None:
    known = [
        Backend(f"short-{at}", "short", "", max_prompt=cap, max_model_len=length)
        for at, (cap, length, _) in enumerate(shorts)
    ]
    known += [Backend(f"long-{at}", "long", "", max_model_len=length) for at, (length, _) in enumerate(longs)]
    up = dict(
        zip((each.name for each in known), [*(each[2] for each in shorts), *(each[1] for each in longs)], strict=True)
    )
    found = decide(prompt, output, known, up=up, overflow="error")
    by_name = {each.name: each for each in known}
    for name in found.backends:
        assert up[name]
        assert by_name[name].fits(prompt, output)
        assert by_name[name].role == found.route
    fitting = [each for each in known if each.fits(prompt, output)]
    assert (found.status == 400) is (not fitting)


def test_an_unknown_limit_is_no_reason_to_refuse_for_good() -> None:
    up = {"short-1": True, "long-1": False}
    assert decide(20_000, 10, two(long=None), up=up, overflow="error").status == 503
    assert decide(200_000, 10, two(long=None), up=up, overflow="error").status == 503
    assert decide(100, 10, two(long=None), up=up, overflow="error").route == "short"


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({}, 6144), ({"max_tokens": 7}, 7), ({"max_completion_tokens": 9}, 9), ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_output_tokens": 100}, 100), ({"max_output_tokens": 7}, 16), ({"max_tokens": None}, 6144), ({"max_tokens": True}, 6144),
        ({"max_tokens": -1}, 6144), ({"max_tokens": "7"}, 7), ({"max_tokens": " 15000 "}, 15_000), ({"max_tokens": 15_000.0}, 15_000),
        ({"max_tokens": 0}, 1), ({"max_tokens": 0, "max_completion_tokens": 9}, 9), ({"max_output_tokens": 0}, 16), ({"max_tokens": 7.5}, 6144),
        ({"max_tokens": "x"}, 6144), ({"max_tokens": "9" * 30}, 6144), ({"max_tokens": float("inf")}, 6144), ({"max_tokens": [7]}, 6144),
        ({"max_tokens": 10**30}, 10**30),
    ],
)  # fmt: skip
def test_what_is_reserved(request_: dict[str, Any], wanted: int) -> None:
    assert reserved(request_, 6144) == wanted


def test_what_is_asked_of_the_tokenizer() -> None:
    text = {"proxy_server_request": {"url": "http://r/v1/completions"}}
    both = [{"prompt": each, "add_special_tokens": True} for each in ("a", "b c")]
    assert payloads(text, [{"content": ["a", "b c"]}]) == both
    assert payloads({**text, "add_special_tokens": False}, [{"content": "a"}]) == [
        {"prompt": "a", "add_special_tokens": False}
    ]
    chat = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "reasoning_effort": "low",
        "documents": [{"a": "b"}],
        "chat_template_kwargs": {"x": 1},
    }
    found = payloads(chat, [{"role": "user", "content": "u"}])
    assert found == [
        {
            "messages": [{"role": "user", "content": "u"}], "add_generation_prompt": True, "tools": chat["tools"],
            "chat_template_kwargs": {"documents": [{"a": "b"}], "reasoning_effort": "low", "x": 1},
        }
    ]  # fmt: skip
    # The route says which part is the prompt.
    talk, other = (
        {"proxy_server_request": {"url": "http://r/v1/chat/completions?x=1"}, "input": "i", "system": "s"},
        [{"role": "user", "content": "u"}],
    )
    assert payloads(talk, other) == [{"messages": other, "add_generation_prompt": True}]
    anthropic = {**talk, "proxy_server_request": {"url": "http://r/v1/messages/"}}
    assert payloads(anthropic, other) == [
        {"messages": [{"role": "system", "content": "s"}, *other], "add_generation_prompt": True}
    ]
    going_on = payloads({"continue_final_message": True}, [{"role": "assistant", "content": "u"}])
    assert going_on == [{"messages": [{"role": "assistant", "content": "u"}], "add_generation_prompt": False, "continue_final_message": True}]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "messages"),
    [
        ({}, None), ({"input": "x", "previous_response_id": "r"}, None), ({"input": [{"type": "computer_call"}]}, None),
        ({"proxy_server_request": {"url": "http://r/v1/completions"}}, [{"content": []}]),
        *(({"proxy_server_request": {"url": "http://r/v1/completions"}}, [{"content": content}]) for content in ({"a": 1}, "", ["a", ""], [1, 2], [[1]], None)),
        ({"input": [{"role": "user", "content": ["a"]}]}, None), ({"tools": 5}, [{"role": "user", "content": "u"}]),
        ({"chat_template_kwargs": 5}, [{"role": "user", "content": "u"}]), ({"system": ["x"]}, [{"role": "user", "content": "u"}]),
        ({}, [{"role": "user", "content": ["a", {"type": "image"}]}]),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_not_guessed(request_: dict[str, Any], messages: Any) -> None:
    with pytest.raises(ValueError, match=r"count|prompt|cannot be read"):
        payloads(request_, messages)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 9))), st.integers(1, 4))
def test_the_cache_is_bounded_and_keeps_the_newest(puts: list[tuple[str, int]], entries: int) -> None:
    cache = Counts(entries)
    for key, count in puts:
        cache.put(key, count)
    assert len(cache) <= entries
    if puts:
        assert cache.get(puts[-1][0]) == puts[-1][1]


def test_every_metric_that_is_written_is_declared() -> None:
    source = Path(envelope_module.__file__).read_text()
    written = set(re.findall(r'metrics\.(?:add|put|observe)\(\s*"(\w+)"', source))
    assert written == set(re.findall(r'metrics\.declare\(\s*"(\w+)"', source))
    asked = set(re.findall(r"envelope_\w+", (ROOT / "builder/serve/router/dashboard.json").read_text()))
    assert {re.sub("_(bucket|sum|count)$", "", each) for each in asked} <= written


def test_a_counter_that_is_large_still_counts() -> None:
    metrics = Metrics()
    metrics.declare("a_total", "counter", "A.")
    metrics.add("a_total", 12_345_678, route="short")
    metrics.add("a_total", route="short")
    metrics.put("a_total", 0.25, route="long")
    assert metrics.text().splitlines()[2:] == ['a_total{route="short"} 12345679', 'a_total{route="long"} 0.25']


def test_metrics_are_escaped_and_complete() -> None:
    metrics = Metrics()
    metrics.declare("a_total", "counter", "A.")
    metrics.declare("h", "histogram", "H.")
    metrics.add("a_total", where='"\\\n')
    metrics.observe("h", 3, (1, 5))
    assert metrics.text().splitlines() == [
        "# HELP a_total A.", "# TYPE a_total counter", 'a_total{where="\\"\\\\\\n"} 1', "# HELP h H.", "# TYPE h histogram",
        'h_bucket{le="1"} 0', 'h_bucket{le="5"} 1', 'h_bucket{le="+Inf"} 1', "h_sum 3", "h_count 1",
    ]  # fmt: skip


# With servers that count.

DEPLOYMENTS = [{"model_info": {"id": f"{role}-1", "role": role}} for role in ("short", "long")]


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    with servers(SHORT, LONG) as found:
        yield found


def hook(pair: tuple[Server, Server], folder: Path, **settings: Any) -> Envelope:
    known = [
        Backend("short-1", "short", pair[0].url, max_prompt=CAP, max_model_len=SHORT, image=IMAGE, overlays=("a", "b")),
        Backend("long-1", "long", pair[1].url),
    ]
    return Envelope(
        Settings(completion=6144, **{"health_seconds": 0.0, "patience_seconds": 60.0, **settings}), known, folder
    )


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


async def route(envelope: Envelope, words: int, **more: Any) -> str:
    """The role that a prompt of so many words goes to, or what the router says instead."""
    request = {"proxy_server_request": {"url": "http://r/v1/chat/completions"}, **more}
    try:
        kept = await envelope.async_filter_deployments(
            "m", DEPLOYMENTS, [{"role": "user", "content": "a " * words}], request
        )
    except RefusedError as refused:
        return f"{refused.status_code} {refused.reason}"
    return ",".join(each["model_info"]["role"] for each in kept)


def test_short_requests_may_use_the_long_path_where_that_is_wanted(pair: tuple[Server, Server], tmp_path: Path) -> None:
    async def work() -> None:
        willing, unwilling = hook(pair, tmp_path, overflow_when_down="long"), hook(pair, tmp_path)
        assert [await route(each, 10) for each in (willing, unwilling)] == ["short", "short"]
        pair[0].die()
        assert [await route(each, 11) for each in (willing, unwilling)] == ["long", "503 short-down"]
        # What was counted before is not asked again.
        assert await route(willing, 10) == "long"
        pair[1].die()
        assert [await route(each, 12) for each in (willing, unwilling)] == ["503 uncounted", "503 uncounted"]
        pair[0].start()
        assert [await route(each, 12) for each in (willing, unwilling)] == ["short", "short"]

    run(work)


def test_the_servers_own_limit_decides_where_it_is_smaller(pair: tuple[Server, Server], tmp_path: Path) -> None:
    pair[0].max_model_len = 8000

    async def work() -> None:
        envelope = hook(pair, tmp_path)
        assert await route(envelope, 1000, max_tokens=6990) == "short"
        assert await route(envelope, 1000, max_tokens=7000) == "long"
        assert await route(envelope, LONG, max_tokens=1) == "400 fits-nowhere"

    run(work)


def test_a_server_that_comes_back_with_another_tokenizer_is_not_used(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path)
        assert await route(envelope, 10) == "short"
        pair[0].die()
        assert await route(envelope, 11) == "503 short-down"
        pair[0].probe_differs = True
        pair[0].start()
        assert await route(envelope, 12) == "503 short-down"
        assert envelope.backends[0].mismatch
        pair[0].probe_differs = False
        assert await route(envelope, 12) == "short"

    run(work)


def test_one_that_hangs_makes_no_other_late(pair: tuple[Server, Server], tmp_path: Path) -> None:
    pair[1].health_held.clear()

    async def work() -> None:
        # Its check would take an hour.
        envelope = hook(pair, tmp_path, patience_seconds=0.2, health_limit_seconds=3600.0)
        envelope.backends[0].up = await envelope._healthy(envelope.backends[0]) and await envelope._verified(envelope.backends[0])  # fmt: skip
        assert [await route(envelope, 10 + number) for number in range(5)] == ["short"] * 5
        assert await route(envelope, 10_100) == "503 long-down"
        pair[1].health_held.set()
        await envelope.look()
        assert await route(envelope, 10_100) == "long"

    run(work)


def test_one_that_is_down_keeps_no_other_from_serving(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """Both get another tokenizer, one after the other, and the second is not back yet."""

    async def work() -> None:
        envelope = hook(pair, tmp_path)
        assert await route(envelope, 10) == "short"
        for each in pair:
            each.die()
            each.probe_differs = True
        assert await route(envelope, 11) == "503 uncounted"
        pair[0].start()
        assert await route(envelope, 12) == "short"
        pair[1].start()
        assert await route(envelope, 10_100) == "long"

    run(work)


def test_counts_of_a_tokenizer_that_was_replaced_are_forgotten(pair: tuple[Server, Server], tmp_path: Path) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path)
        assert await route(envelope, 9_000) == "short"
        for each in pair:
            each.die()
            each.probe_differs, each.counts = True, lambda count: count * 2
        assert await route(envelope, 11) == "503 uncounted"
        for each in pair:
            each.start()
        assert await route(envelope, 9_000) == "long"

    run(work)


def test_a_tokenizer_that_changes_while_it_serves_is_found(pair: tuple[Server, Server], tmp_path: Path) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path, verify_seconds=-1)
        assert await route(envelope, 10) == "short"
        pair[0].probe_differs = True
        for _ in range(100):
            if (said := await route(envelope, 10)) != "short":
                break
            await asyncio.sleep(0.01)
        assert said == "503 short-down"

    run(work)


def test_counts_that_differ_send_nothing(pair: tuple[Server, Server], tmp_path: Path) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path)
        assert await route(envelope, 10) == "short"
        pair[0].counts = lambda count: count - 1
        assert await route(envelope, 11) == "503 uncounted"
        pair[0].counts = lambda _: 1
        # No text has a token for so many characters: the other one is believed.
        assert await route(envelope, 10_100) == "long"

    run(work)


def test_one_request_is_sent_to_the_long_path_once(pair: tuple[Server, Server], tmp_path: Path) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path)
        shared = {"url": "http://r/v1/chat/completions"}
        said = await asyncio.gather(*(route(envelope, 10_100, proxy_server_request=shared) for _ in range(5)))
        assert sorted(said) == ["503 sent-once"] * 4 + ["long"]

    run(work)


def test_what_was_not_routed_is_stopped_before_it_is_sent(pair: tuple[Server, Server], tmp_path: Path) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path)
        shared: dict[str, Any] = {"url": "http://r/v1/chat/completions"}
        sent = {"proxy_server_request": shared, "model_info": {"role": "short"}}
        with pytest.raises(RefusedError):
            await envelope.async_pre_call_deployment_hook(sent, None)
        assert await route(envelope, 10, proxy_server_request=shared) == "short"
        await envelope.async_pre_call_deployment_hook(sent, None)
        with pytest.raises(RefusedError):
            await envelope.async_pre_call_deployment_hook({**sent, "model_info": {"role": "long"}}, None)
        # Other models of the same proxy are not its business.
        await envelope.async_pre_call_deployment_hook({"model_info": {"id": "other"}}, None)
        others = [{"model_info": {"id": "other"}}]
        assert await envelope.async_filter_deployments("x", others, None, {}) == others

    run(work)


IMAGE = f"registry.example/team/vllm@sha256:{'1' * 64}"


def promote(folder: Path, digest: str | None, *verdicts: tuple[str, str], image: str = IMAGE, **more: Any) -> None:
    """Write what is promoted, as `builder deploy promoted` does: another file takes the name."""
    listed = [{"suite": suite, "reason": reason, "verdict": None} for suite, reason in verdicts]
    found = {"image": image, "tag": "production", "promoted": digest, "verdicts": listed}
    write_file(folder / PROMOTED, json.dumps({"backends": {"short-1": found}, **more}).encode())


def shown(envelope: Envelope, name: str) -> list[str]:
    return [line for line in envelope.metrics.text().splitlines() if line.startswith(f"envelope_{name}")]


def test_what_runs_is_compared_with_what_was_built_and_promoted(pair: tuple[Server, Server], tmp_path: Path) -> None:
    own, other = (f"sha256:{each * 64}" for each in "12")
    backend = 'backend="short-1",role="short"'

    async def work() -> None:
        envelope = hook(pair, tmp_path)
        await envelope.look()
        assert shown(envelope, "backend_as_built") == [f"envelope_backend_as_built{{{backend}}} 1"]
        assert shown(envelope, "backend_info") == [f'envelope_backend_info{{{backend},image="{IMAGE}"}} 1']
        # Nobody has said what is promoted.
        assert (
            not shown(envelope, "backend_promoted") + shown(envelope, "promotion") + shown(envelope, "backend_verdict")
        )
        for digest, wanted in ((own, 1), (other, 0), (None, 0), (own, 1)):
            promote(tmp_path, digest)
            await envelope.look()
            assert shown(envelope, "backend_promoted") == [f"envelope_backend_promoted{{{backend}}} {wanted}"]
        promote(tmp_path, own, ("sample", "passed"), ("other", "expired"), checked="1970-01-01T00:01:40+00:00")
        await envelope.look()
        assert set(shown(envelope, "backend_verdict")) == {
            f'envelope_backend_verdict{{{backend},suite="sample",reason="passed"}} 1',
            f'envelope_backend_verdict{{{backend},suite="other",reason="expired"}} 0',
        }
        assert shown(envelope, "promotion_checked") == ["envelope_promotion_checked_timestamp_seconds 100"]
        # What it was is not shown beside what it is.
        promote(tmp_path, own, ("sample", "failed"))
        await envelope.look()
        assert shown(envelope, "backend_verdict") == [
            f'envelope_backend_verdict{{{backend},suite="sample",reason="failed"}} 0'
        ]
        # Verdicts of an image that was deployed before.
        promote(tmp_path, other, ("sample", "passed"), image=f"registry.example/team/vllm@{other}")
        await envelope.look()
        assert not shown(envelope, "backend_verdict")
        assert shown(envelope, "backend_promoted") == [f"envelope_backend_promoted{{{backend}}} 0"]

    run(work)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"backends": []}', '{"backends": {"short-1": 3}}', '{"backends": {"short-1": {"verdicts": [1]}}}', '{"backends": {}, "checked": "soon"}'])  # fmt: skip
def test_what_is_no_state_stops_nothing(pair: tuple[Server, Server], tmp_path: Path, text: str) -> None:
    async def work() -> None:
        envelope = hook(pair, tmp_path)
        promote(tmp_path, "sha256:" + "1" * 64)
        await envelope.look()
        write_file(tmp_path / PROMOTED, text.encode())
        await envelope.look()
        assert await route(envelope, 10) == "short"

    run(work)


def test_an_idle_router_shows_what_happens_to_its_backends(pair: tuple[Server, Server], tmp_path: Path) -> None:
    envelope = hook(pair, tmp_path, watch_seconds=0.01)
    envelope.watch()

    def until(*wanted: str) -> None:
        for _ in range(1000):
            if all(
                any(line == f"envelope_backend_up{each}" for line in shown(envelope, "backend_up")) for each in wanted
            ):
                return
            threading.Event().wait(0.01)
        raise AssertionError(envelope.metrics.text())

    short, long = '{backend="short-1",role="short"}', '{backend="long-1",role="long"}'
    until(f"{short} 1", f"{long} 1")
    pair[0].die()
    until(f"{short} 0", f"{long} 1")
    pair[0].start()
    until(f"{short} 1", f"{long} 1")
    # Requests come by another event loop.
    run(lambda: _both(envelope))
    envelope.ended.set()


async def _both(envelope: Envelope) -> None:
    assert await asyncio.gather(*(route(envelope, 10 + number) for number in range(20))) == ["short"] * 20


def test_the_hook_starts_with_servers_that_are_not_up(pair: tuple[Server, Server], tmp_path: Path) -> None:
    pair[1].die()
    envelope = hook(pair, tmp_path)
    envelope.start()
    assert [each.up for each in envelope.backends] == [True, False]
    run(lambda: _routed(envelope))
    pair[1].start()
    pair[1].probe_differs = True
    other = hook(pair, tmp_path)
    with pytest.raises(SystemExit, match="different tokenizers"):
        other.start()


async def _routed(envelope: Envelope) -> None:
    assert await route(envelope, 10) == "short"
    assert await route(envelope, 10_100) == "503 long-down"


# The files.


def deploy(*arguments: str) -> Ran:
    return builder("deploy", "router", *arguments, cwd=ROOT)


def test_the_files_are_what_the_hook_reads(tmp_path: Path) -> None:
    done = deploy("demo", "--short", "envelope-16k@http://a:8000", "--long", "http://b:9000/v1/", "--long-max-model-len", "131072", "--output", str(tmp_path), "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "envelope.py").read_text() == (ROOT / "builder/serve/router/envelope.py").read_text()
    envelope = load(tmp_path / "envelope.json")
    assert [(each.name, each.url, each.max_prompt, each.max_model_len) for each in envelope.backends] == [
        ("short-1", "http://a:8000", 10_000, 16_384), ("long-1", "http://b:9000", None, 131_072),
    ]  # fmt: skip
    assert envelope.settings.completion == 6144
    assert envelope.settings.overflow_when_down == "error"
    assert envelope.settings.metrics_host == "127.0.0.1"
    models = done.document["documents"]["config.yaml"]["model_list"]
    assert {each["model_name"] for each in models} == {"demo"}
    assert [each["model_info"] for each in models] == [
        {"id": each.name, "role": each.role} for each in envelope.backends
    ]
    assert json.loads((tmp_path / PROMOTED).read_text()) == {"backends": {}}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--short", "http://a:8000", "--long", "http://b"], "names no profile"),
        (["--short", "none@http://a:8000", "--long", "http://b"], "has no profile"),
        (["--short", "smoke", "--long", "http://b"], "where is smoke served"),
        (["--short", "smoke@ftp://a", "--long", "http://b"], "not the URL of a server"),
        (["--short", "smoke@http://u:p@a", "--long", "http://b"], "not the URL of a server"),
        (["--short", "smoke@http://a", "--long", "http://b/path"], "not the URL of a server"),
        (["--short", "smoke@http://a"], "--long"),
        (["--short", "envelope-16k@http://a", "--long", "http://a/v1"], "short-1 and long-1 are one server"),
        (["--short", "envelope-16k@http://a", "--long", "http://b", "--model-name", ""], "not a model's name"),
        (["--engine", "llm-d", "--short", "smoke@http://a", "--long", "http://b"], "has no max-model-len"),
        (["--engine", "llm-d", "--short", "smoke@http://a", "--long", "smoke@http://b"], "takes no longer prompts"),
    ],
)
def test_wrong_input(tmp_path: Path, arguments: list[str], why: str) -> None:
    done = deploy("demo", *arguments, "--output", str(tmp_path / "out"))
    assert done.code == 2
    assert why in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "urls", "why"),
    [
        ("qwen", ("http://a", "http://a", "http://b"), "short-1 and short-2 are one server"), ("", ("http://a",), "not a model's name"),
        ("a,b", ("http://a",), "not a model's name"), ("a b", ("http://a",), "not a model's name"), ("a\n", ("http://a",), "not a model's name"),
        ("short-1", ("http://a",), "the name of a backend"),
    ],
)  # fmt: skip
def test_what_cannot_be_one_router(model: str, urls: tuple[str, ...], why: str) -> None:
    targets = [Target(f"short-{number}", "short", url, "/model") for number, url in enumerate(urls, 1)]
    with pytest.raises(InputError, match=why):
        check_together(model, targets)
    check_together("team/qwen:3", targets[-1:])


def test_llm_d_gets_ranges_without_the_reserve_and_is_told_what_it_does_not_do(tmp_path: Path) -> None:
    image = f"registry.example/team/vllm@sha256:{'ab' * 32}"
    done = deploy("demo", "--engine", "llm-d", "--short", "envelope-16k", "--image", image, "--long", "http://b", "--long-max-model-len", "131072", "--output", str(tmp_path), "--json")  # fmt: skip
    assert done.code == 0, done.err
    documents = done.document["documents"]
    picker = documents["epp.yaml"]
    plugins = {each["type"]: each.get("parameters", {}) for each in picker["plugins"]}
    assert (picker["kind"], picker["apiVersion"]) == ("EndpointPickerConfig", "llm-d.ai/v1alpha1")
    assert plugins["context-length-aware"] == {"label": "llm-d.ai/context-length-range", "enableFiltering": True}
    assert plugins["token-producer"]["vllm"] == {"url": "http://demo-envelope-16k:8000"}
    assert {each["pluginRef"] for each in picker["schedulingProfiles"][0]["plugins"]} <= set(plugins)
    deployment = documents["demo-envelope-16k.deployment.yaml"]
    kubernetes_validate.validate(deployment, "1.33", strict=True)
    label = deployment["spec"]["template"]["metadata"]["labels"]["llm-d.ai/context-length-range"]
    assert label == "0-10000"
    text = (tmp_path / "README.md").read_text()
    assert "10001-124928" in text
    assert "fails open" in text
    assert "ignores the completion" in text
