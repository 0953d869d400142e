"""The hook in a real LiteLLM proxy, between two servers that count what really arrives."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.cli import builder
from tests.support.router.backend import Backend, backends, prompt_tokens
from tests.support.router.proxy import KEY, Proxy, started

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.service("litellm"), pytest.mark.timeout(600)]

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
SIZES = (100, 9_999, 10_001, 60_000, 140_000)
CAP, SHORT_LIMIT, LONG_LIMIT, COMPLETION = 10_000, 16_384, 131_072 + 16_384, 6_144


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Backend, Backend]]:
    with backends(SHORT_LIMIT, LONG_LIMIT) as found:
        yield found


@pytest.fixture(scope="module")
def proxy(pair: tuple[Backend, Backend], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("router")
    render(folder, pair)
    with started(folder) as found:
        yield found


def render(folder: Path, pair: tuple[Backend, Backend], *more: str) -> None:
    done = builder("deploy", "router", "demo", "--short", f"envelope-16k@{pair[0].url}", "--long", pair[1].url, "--model-name", "qwen", "--output", str(folder), *more, cwd=ROOT)  # fmt: skip
    assert done.code == 0, done.err


@pytest.fixture(autouse=True)
def fresh(pair: tuple[Backend, Backend], proxy: Proxy) -> None:
    """Both are up, honest and known to be, and have seen nothing."""
    for each in pair:
        each.reset()
    assert until_up(proxy, ROUTES[0], request(ROUTES[0], 101)) == "short"
    assert until_up(proxy, ROUTES[0], request(ROUTES[0], 10_003)) == "long"
    for each in pair:
        each.reset()


def until_up(proxy: Proxy, path: str, body: dict[str, Any]) -> str:
    """The route of a request once a backend that came back has been seen: what was seen is believed for a second."""
    for _ in range(100):
        reply = proxy.post(path, body)
        if reply.status_code == 200:
            return reply.headers["x-envelope-route"]
        assert reply.status_code == 503, reply.text
        threading.Event().wait(0.1)
    raise AssertionError("the backend was not seen again")


def text(tokens: int, *, salt: str = "") -> str:
    """A text of so many tokens of the stand-in's; each word is several tokens of tiktoken's."""
    return " ".join([f"nejneobhospodařovávatelnějšími{salt}"] * tokens)


def request(path: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A request whose prompt has so many tokens, all parts of it counted."""
    body: dict[str, Any] = {"model": "qwen", **more}
    if path == "/v1/completions":
        return {**body, "prompt": text(tokens)}
    if path == "/v1/responses":
        plain = {"instructions": "Answer in Czech, briefly.", "input": ""}
        missing = tokens - prompt_tokens(plain)
        return {**body, **plain, "input": text(missing)}
    if path == "/v1/messages":
        system, body["max_tokens"] = (
            [{"type": "text", "text": "Answer in Czech, briefly."}],
            more.get("max_tokens", COMPLETION),
        )
        seen = {"messages": [{"content": system}, {"content": ""}]}
        return {**body, "system": system, "messages": [{"role": "user", "content": text(tokens - prompt_tokens(seen))}]}
    messages = [{"role": "system", "content": "Answer in Czech, briefly."}, {"role": "user", "content": ""}]
    messages[1]["content"] = text(tokens - prompt_tokens({"messages": messages, "tools": body.get("tools")}))
    return {**body, "messages": messages}


def side(tokens: int) -> str:
    return "short" if tokens <= CAP else "long" if tokens + COMPLETION <= LONG_LIMIT else "none"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ROUTES)
def test_every_prompt_goes_where_its_own_count_belongs(
    proxy: Proxy, pair: tuple[Backend, Backend], path: str, stream: bool
) -> None:
    for tokens in SIZES:
        for each in pair:
            each.reset()
        reply = proxy.post(path, request(path, tokens, stream=stream))
        assert reply.status_code == 200, reply.text
        assert "well" in reply.text
        assert "said" in reply.text
        seen = {each.name: [one.tokens for one in each.seen] for each in pair}
        assert seen == {"short-1": [], "long-1": [], f"{side(tokens)}-1": [tokens]}
        assert reply.headers["x-envelope-tokens"] == str(tokens)
        assert reply.headers["x-envelope-route"] == side(tokens)
        assert reply.headers["x-envelope-reason"] == ("fits" if tokens <= CAP else "prompt-over-cap")


TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def conversations() -> dict[str, tuple[str, dict[str, Any]]]:
    """Requests with all that has tokens, in each dialect: system text, tools, calls and their results, images."""
    chat_call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Brno"}'}}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    return {
        "chat": ("/v1/chat/completions", {
            "tools": [{"type": "function", "function": TOOL}], "max_completion_tokens": 100,
            "chat_template_kwargs": {"enable_thinking": False}, "response_format": {"type": "json_object"},
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": "And Brno?"},
                {"role": "assistant", "content": None, "tool_calls": [chat_call]},
                {"role": "tool", "tool_call_id": "c1", "content": "21 degrees, sunny"}, {"role": "user", "content": "Thanks. And?"},
            ],
        }),
        "chat with an image": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]}),
        "messages": ("/v1/messages", {
            "max_tokens": 100, "system": "Be brief.",
            "tools": [{"name": "weather", "description": TOOL["description"], "input_schema": TOOL["parameters"]}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "And Brno?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Brno"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "21 degrees, sunny"}, {"type": "text", "text": "So?"}]},
            ],
        }),
        "messages with an image": ("/v1/messages", {"max_tokens": 100, "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is it?"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]}]}),
        "responses": ("/v1/responses", {
            "instructions": "Be brief.", "max_output_tokens": 100, "tools": [{"type": "function", **TOOL}],
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "And Brno?"}]},
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Brno"}'},
                {"type": "function_call_output", "call_id": "c1", "output": "21 degrees, sunny"},
            ],
        }),
        "responses with an image": ("/v1/responses", {"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]}]}),
        "several prompts": ("/v1/completions", {"prompt": ["one two three", "one two three four"], "max_tokens": 100}),
    }  # fmt: skip


@pytest.mark.parametrize("name", conversations())
def test_all_that_has_tokens_is_counted(proxy: Proxy, pair: tuple[Backend, Backend], name: str) -> None:
    path, body = conversations()[name]
    reply = proxy.post(path, {"model": "qwen", **body})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-envelope-tokens"] == str(pair[0].seen[0].tokens)
    assert not pair[1].seen


def test_an_image_that_the_short_backend_does_not_take_is_refused_and_not_paid_for(
    proxy: Proxy, pair: tuple[Backend, Backend]
) -> None:
    pair[0].refuses_images = True
    path, body = conversations()["chat with an image"]
    content = body["messages"][0]["content"]
    reply = proxy.post(
        path,
        {"model": "qwen", "messages": [{"role": "user", "content": [*content, {"type": "text", "text": "Really?"}]}]},
    )
    assert reply.status_code == 400
    assert "At most 0 image(s)" in reply.text
    assert not pair[0].seen + pair[1].seen


@pytest.mark.parametrize("path", ROUTES)
def test_what_fits_nowhere_is_refused_with_all_numbers(proxy: Proxy, pair: tuple[Backend, Backend], path: str) -> None:
    reply = proxy.post(path, request(path, 142_000))
    assert reply.status_code == 400, reply.text
    for number in ("142000", "6144", "10000", "16384", str(LONG_LIMIT)):
        assert number in reply.text
    assert reply.headers["x-envelope-reason"] == "fits-nowhere"
    assert not pair[0].seen + pair[1].seen


def test_the_reserve_counts(proxy: Proxy, pair: tuple[Backend, Backend]) -> None:
    for tokens, output, where, why in (
        (9_000, 7_384, "short", "fits"), (9_000, 7_385, "long", "output-over-limit"), (10_000, None, "short", "fits"), (2_000, 15_000, "long", "output-over-limit"),
    ):  # fmt: skip
        for each in pair:
            each.reset()
        more = {} if output is None else {"max_tokens": output}
        reply = proxy.post("/v1/chat/completions", request("/v1/chat/completions", tokens, **more))
        assert reply.status_code == 200, reply.text
        assert (reply.headers["x-envelope-route"], reply.headers["x-envelope-reason"]) == (where, why)
        assert [len(each.seen) for each in pair] == [where == "short", where == "long"]


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/v1/completions", {"prompt": ""}, "the prompt is empty"), ("/v1/completions", {"prompt": []}, "the prompt is empty"),
        ("/v1/completions", {"prompt": [1, 2, 3]}, "token ids"), ("/v1/completions", {"prompt": [[1, 2], [3]]}, "token ids"),
        ("/v1/responses", {"input": [1, 2]}, "cannot be counted"), ("/v1/responses", {"input": [{"role": "user", "content": ["a"]}]}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_the_clients_error(
    proxy: Proxy, pair: tuple[Backend, Backend], path: str, body: dict[str, Any], why: str
) -> None:
    reply = proxy.post(path, {"model": "qwen", **body})
    assert reply.status_code == 400, reply.text
    assert why in reply.text
    assert reply.headers["x-envelope-reason"] == "uncountable"
    assert not pair[0].seen + pair[1].seen


@pytest.mark.parametrize("path", ROUTES)
def test_the_route_says_which_part_is_the_prompt(proxy: Proxy, pair: tuple[Backend, Backend], path: str) -> None:
    """What other dialects have, a client can send too; the server reads its own."""
    for tokens in (9_999, 10_001):
        body = request(path, tokens)
        stray: dict[str, Any] = {"input": "one", "prompt": "one two"}
        if path != "/v1/completions":  # where LiteLLM itself fails on it
            stray["messages"] = [{"role": "user", "content": "one"}]
        if path == "/v1/chat/completions":
            stray["system"] = "x " * 5000
        reply = proxy.post(path, {**stray, **body})
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-envelope-tokens"] == str(tokens)
    assert [len(each.seen) for each in pair] == [1, 1]


@pytest.mark.parametrize("model", ["qwen", "long-1"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", {"prompt": "a"}), ("/v1/embeddings", {"input": ["a b"]}), ("/v1/audio/speech", {"input": "a", "voice": "x"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}), ("/v1/moderations", {"input": "a"}), ("/v1/responses/compact", {"input": "a"}),
    ],
)  # fmt: skip
def test_other_routes_of_the_proxy_reach_no_backend(
    proxy: Proxy, pair: tuple[Backend, Backend], path: str, body: dict[str, Any], model: str
) -> None:
    reply = proxy.post(path, {"model": model, **body})
    assert reply.status_code == 400, reply.text
    assert "serves chat completions" in reply.text
    assert not pair[0].seen + pair[1].seen


@pytest.mark.parametrize(
    "more", [{"n": 3}, {"n": 2, "best_of": 3}, {"echo": True, "max_tokens": 0}, {"max_tokens": "15000"}]
)
def test_what_changes_the_completion_is_sent_once_where_it_fits(
    proxy: Proxy, pair: tuple[Backend, Backend], more: dict[str, Any]
) -> None:
    for tokens in (9_000, 10_001):
        reply = proxy.post("/v1/completions", {**request("/v1/completions", tokens), **more})
        assert reply.status_code == 200, reply.text
    short = more.get("max_tokens") != "15000"
    assert [[each.tokens for each in one.seen] for one in pair] == (
        [[9_000], [10_001]] if short else [[], [9_000, 10_001]]
    )


def test_ten_megabytes_are_counted_too(proxy: Proxy, pair: tuple[Backend, Backend]) -> None:
    reply = proxy.post(
        "/v1/chat/completions", {"model": "qwen", "messages": [{"role": "user", "content": "slovo " * 1_750_000}]}
    )
    assert reply.status_code == 400, reply.text[:500]
    assert "1750004 tokens" in reply.text
    assert not pair[0].seen + pair[1].seen


@pytest.mark.parametrize("path", ROUTES)
def test_a_backend_cannot_be_named_past_the_hook(proxy: Proxy, pair: tuple[Backend, Backend], path: str) -> None:
    """LiteLLM takes a deployment's id, which its responses show, as the name of a model, and filters nothing then."""
    reply = proxy.post(path, {**request(path, 100), "model": "long-1"})
    assert reply.status_code == 400, reply.text
    assert not pair[0].seen + pair[1].seen


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "more", [{}, {"num_retries": 3, "max_retries": 3, "fallbacks": ["qwen"]}], ids=["plain", "asks for retries"]
)
def test_what_dies_with_a_backend_is_not_sent_again(
    proxy: Proxy, pair: tuple[Backend, Backend], path: str, stream: bool, more: dict[str, Any]
) -> None:
    """Before, while and after the long backend dies."""
    long = pair[1]
    body = request(path, 10_001, stream=stream, **more)
    long.held.clear()
    replies: list[Any] = []

    def ask() -> None:
        try:
            replies.append(proxy.post(path, body))
        except requests.RequestException as error:
            replies.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert long.arrived.wait(60)
    long.die()
    long.held.set()
    asking.join(60)
    assert len(replies) == 1
    if not stream:
        assert replies[0].status_code == 503, replies[0].text
    assert len(long.seen) == 1
    after = proxy.post(path, body)
    assert after.status_code == 503, after.text
    # Down for good: what the router itself says has a time for the next attempt.
    down = proxy.post(path, body)
    assert down.headers["retry-after"]
    assert down.headers["x-envelope-reason"] == "long-down"
    assert not pair[0].seen
    assert len(long.seen) == 1
    long.start()
    assert until_up(proxy, path, request(path, 10_001)) == "long"
    assert not pair[0].seen


def _status(code: int, **head: str) -> Any:
    def respond(handler: Any) -> None:
        data = json.dumps({"error": {"message": "no", "type": "x", "code": code}}).encode()
        handler.send_response(code)
        for name, text in {"Content-Length": str(len(data)), "Content-Type": "application/json", **head}.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def _sent(head: bytes) -> Any:
    """So many bytes of a response, and the connection ends."""

    def respond(handler: Any) -> None:
        handler.wfile.write(head)
        handler.close_connection = True

    return respond


FAULTS = {
    "500": _status(500), "502": _status(502), "503": _status(503, Retry_After="0"), "429": _status(429, Retry_After="0"), "408": _status(408), "409": _status(409),
    "closed": _sent(b""), "half a header": _sent(b"HTTP/1.1 200 OK\r\nContent-"),
    "half a body": _sent(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"id": "x", '),
    "not JSON": _sent(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nno"),
    "nothing in it": _sent(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ROUTES)
def test_whatever_the_long_path_responds_is_asked_once(
    proxy: Proxy, pair: tuple[Backend, Backend], path: str, stream: bool
) -> None:
    asked: dict[str, list[int]] = {}
    names = ["503", "closed", "half a body"] if stream else [*FAULTS]
    for name in names:
        for each in pair:
            each.reset()
        pair[1].fault = FAULTS[name]
        # A stream that ends is the client's to see.
        with suppress(requests.RequestException):
            proxy.post(path, request(path, 10_001, stream=stream, num_retries=2))
        asked[name] = [len(each.seen) for each in pair]
    assert asked == {name: [0, 1] for name in names}


def test_short_requests_do_not_move_to_the_long_path_while_short_is_down(
    proxy: Proxy, pair: tuple[Backend, Backend]
) -> None:
    pair[0].die()
    for path in ROUTES:
        for _ in range(30):
            reply = proxy.post(path, request(path, 103))
            if reply.headers.get("x-envelope-reason") == "short-down":
                break
        assert reply.status_code == 503, reply.text
        assert reply.headers["retry-after"]
    # The other one counts, so what is long still goes there.
    assert proxy.post(ROUTES[0], request(ROUTES[0], 10_002)).headers["x-envelope-route"] == "long"
    assert [each.tokens for each in pair[1].seen] == [10_002]
    pair[0].start()
    assert until_up(proxy, ROUTES[0], request(ROUTES[0], 103)) == "short"


@pytest.mark.parametrize(
    "lie",
    [lambda count: count // 7, lambda count: count * 7, lambda _: 0, lambda _: -5],
    ids=["few", "many", "none", "negative"],
)
@pytest.mark.parametrize("liar", [0, 1], ids=["short", "long"])
def test_a_lie_sends_nothing_to_the_wrong_side(
    proxy: Proxy, pair: tuple[Backend, Backend], liar: int, lie: Any
) -> None:
    pair[liar].counts = lie
    for tokens in (9_000 + liar, 12_000 + liar):
        body = request(ROUTES[0], tokens)
        body["messages"][-1]["content"] += f" {id(lie)}"  # not from the cache
        reply = proxy.post(ROUTES[0], body)
        assert reply.status_code in (200, 503), reply.text
        if reply.status_code == 503:
            assert reply.headers["retry-after"]
    assert all(side(each.tokens) == "short" for each in pair[0].seen)
    assert all(side(each.tokens) == "long" for each in pair[1].seen)


def test_a_slow_tokenizer_is_passed_by(proxy: Proxy, pair: tuple[Backend, Backend]) -> None:
    pair[0].count_held.clear()
    assert until_up(proxy, ROUTES[0], request(ROUTES[0], 777)) == "short"
    assert len(pair[0].seen) == 1
    assert not pair[1].seen


def test_two_hundred_in_flight_lose_nothing(proxy: Proxy, pair: tuple[Backend, Backend]) -> None:
    """All of them are at the servers before one is done: the servers hold them until the last one has arrived."""
    sizes = [100 + number if number % 5 else 10_001 + number for number in range(200)]
    for each in pair:
        each.held.clear()
    replies: dict[int, requests.Response] = {}

    def ask(tokens: int) -> None:
        content = "kůň " * (tokens - prompt_tokens({"messages": [{"content": ""}]}))
        body = {"model": "qwen", "messages": [{"role": "user", "content": content}], "stream": tokens % 2 == 1}
        replies[tokens] = proxy.post(ROUTES[0], body)

    threads = [threading.Thread(target=ask, args=(tokens,)) for tokens in sizes]
    for thread in threads:
        thread.start()
    for _ in range(2400):
        if sum(len(each.seen) for each in pair) == len(sizes):
            break
        threading.Event().wait(0.1)
    assert [len(each.seen) for each in pair] == [160, 40]
    assert not replies
    for each in pair:
        each.held.set()
    for thread in threads:
        thread.join()
    assert {tokens: reply.status_code for tokens, reply in replies.items()} == dict.fromkeys(sizes, 200)
    assert all("said" in reply.text for reply in replies.values())
    assert {tokens: reply.headers["x-envelope-route"] for tokens, reply in replies.items()} == {
        tokens: side(tokens) for tokens in sizes
    }
    assert sorted(each.tokens for each in pair[0].seen) == sorted(tokens for tokens in sizes if tokens <= CAP)
    assert sorted(each.tokens for each in pair[1].seen) == sorted(tokens for tokens in sizes if tokens > CAP)


def test_the_same_prompt_is_counted_once(proxy: Proxy, pair: tuple[Backend, Backend]) -> None:
    body = request(ROUTES[0], 1_234)
    counted = [proxy.post(ROUTES[0], body).status_code for _ in range(3)]
    assert counted == [200, 200, 200]
    assert len(pair[0].seen) == 3
    bodies = [each.body for each in pair[0].seen]
    assert bodies[0] == bodies[1] == bodies[2]


def _shown_after(proxy: Proxy, name: str) -> str:
    """The metrics once a streamed request has been noted, which LiteLLM does after it has responded."""
    proxy.post(ROUTES[0], request(ROUTES[0], 100, stream=True))
    for _ in range(100):
        shown = requests.get(proxy.metrics, timeout=10).text
        if name in shown:
            return shown
        threading.Event().wait(0.1)
    raise AssertionError(shown)


def test_counters_are_shown_to_prometheus(proxy: Proxy) -> None:
    proxy.post(ROUTES[0], request(ROUTES[0], 100))
    shown = requests.get(proxy.metrics, timeout=10)
    assert shown.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'envelope_requests_total{route="short",reason="fits"}' in shown.text
    assert 'envelope_prompt_tokens_bucket{le="+Inf"}' in shown.text
    assert 'envelope_first_token_seconds_count{prompt="up to 1024"}' in _shown_after(
        proxy, "envelope_first_token_seconds_count"
    )
    assert 'envelope_backend_up{backend="short-1",role="short"} 1' in shown.text
    assert requests.get(proxy.metrics.replace("metrics", "other"), timeout=10).status_code == 404


def test_without_a_key_nothing_is_counted(proxy: Proxy, pair: tuple[Backend, Backend]) -> None:
    reply = requests.post(f"{proxy.url}{ROUTES[0]}", json=request(ROUTES[0], 555), headers={"Authorization": f"Bearer not-{KEY}"}, timeout=30)  # fmt: skip
    assert reply.status_code in (400, 401)
    assert not pair[0].seen + pair[1].seen


def test_a_proxy_between_different_tokenizers_does_not_start(pair: tuple[Backend, Backend], tmp_path: Path) -> None:
    render(tmp_path, pair)
    pair[1].probe_differs = True
    with started(tmp_path, wait=False) as other:
        assert other.process.wait(200) != 0
    assert "different tokenizers" in other.log.read_text(errors="replace")
    assert json.loads((tmp_path / "envelope.json").read_text())["completion"] == COMPLETION
