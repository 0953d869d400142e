"""A stand-in for a vLLM server behind a router, with a tokenizer of its own, which notes what it is asked.

Its count of a request is made from the request that really arrived, so a router that counted something else is seen.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from builder.serve.container import free_port

_WORD = re.compile(r"\w+|[^\w\s]")
PER_MESSAGE, PER_IMAGE = 3, 256
_HOLD_SECONDS = 240


def text_tokens(text: str) -> int:
    """One token for each word or mark, however long: no tokenizer of OpenAI's does that."""
    return len(_WORD.findall(text))


def content_tokens(content: Any) -> int:
    if isinstance(content, list):
        return sum(
            PER_IMAGE if "image" in part.get("type", "") else text_tokens(part.get("text", "")) for part in content
        )
    return text_tokens(content or "")


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """The tokens of a body of `/tokenize`, of chat completions, of completions or of responses."""
    if "prompt" in body:
        prompt = body["prompt"]
        return text_tokens(prompt) if isinstance(prompt, str) else max(map(text_tokens, prompt))
    messages = body.get("messages") or _responses(body)
    count = 1
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        count += PER_MESSAGE + content_tokens(message.get("content"))
        count += sum(text_tokens(call["name"]) + len(json.dumps(json.loads(call["arguments"]))) for call in calls)
    for tool in body.get("tools") or ():
        function = tool.get("function", tool)
        count += text_tokens(json.dumps([function["name"], function.get("description"), function.get("parameters")]))
    if (body.get("chat_template_kwargs") or {}).get("enable_thinking") is False:
        count += 4
    return count


def _responses(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"content": body["instructions"]}] if body.get("instructions") else []
    items = body["input"]
    for item in [{"content": items}] if isinstance(items, str) else items:
        if item.get("type") == "function_call":
            found.append({"tool_calls": [{"function": {"name": item["name"], "arguments": item["arguments"]}}]})
        elif item.get("type") == "function_call_output":
            found.append({"content": item["output"]})
        else:
            found.append({"content": item.get("content")})
    return found


@dataclass(frozen=True)
class Seen:
    """A request for a completion that arrived."""

    path: str
    tokens: int
    body: dict[str, Any]


@dataclass
class Backend:
    """One server. Its port is kept, so that it can die and come back."""

    name: str
    max_model_len: int
    port: int = field(default_factory=free_port)
    seen: list[Seen] = field(default_factory=list)
    counted: int = 0
    counts: Callable[[int], int] = lambda count: count
    """What `/tokenize` says of a right count: a liar says something else."""
    count_held: threading.Event = field(default_factory=threading.Event)
    """While it is not set, `/tokenize` does not respond."""
    held: threading.Event = field(default_factory=threading.Event)
    """While it is not set, a completion is begun and not ended."""
    arrived: threading.Event = field(default_factory=threading.Event)
    health_held: threading.Event = field(default_factory=threading.Event)
    """While it is not set, `/health` does not respond."""
    fault: Callable[[Any], None] | None = None
    """What is done to a request for a completion instead of responding to it."""
    counted_by: str | None = None
    """A server whose `/tokenize` counts instead: then this one has that tokenizer, and a limit of its own."""
    overlays: tuple[str, ...] = ("a", "b")
    refuses_images: bool = False
    probe_differs: bool = False
    http: ThreadingHTTPServer | None = None
    sockets: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.health_held.set()
        self.count_held.set()
        self.held.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Be as at the start: up, honest, with nothing seen."""
        self.seen, self.counted, self.counts = [], 0, lambda count: count
        self.refuses_images = self.probe_differs = False
        self.fault = None
        self.health_held.set()
        self.count_held.set()
        self.held.set()
        self.arrived.clear()
        self.start()

    def start(self) -> None:
        if self.http is None:
            server = self
            handler = type("Handler", (_Handler,), {"backend": server})
            self.http = _Server(("127.0.0.1", self.port), handler)
            threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Close the port and every connection, as a killed process does."""
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
            self.http = None
        for each in list(self.sockets):
            with suppress(OSError):
                each.shutdown(2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class _Handler(BaseHTTPRequestHandler):
    backend: Backend
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.backend.sockets.add(self.connection)

    def finish(self) -> None:
        self.backend.sockets.discard(self.connection)
        with suppress(OSError, ValueError):
            super().finish()

    def handle(self) -> None:
        with suppress(OSError, ValueError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def say(self, document: Any, status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.backend.health_held.wait(_HOLD_SECONDS)
        self.say({} if self.path == "/health" else {"overlays": self.backend.overlays})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._tokenize(body)
            return
        count = 1 if self.backend.counted_by else prompt_tokens(body)
        self.backend.seen.append(Seen(self.path, count, body))
        self.backend.arrived.set()
        if self.backend.fault is not None:
            self.backend.fault(self)
            return
        output = int(next((body[name] for name in ("max_tokens", "max_completion_tokens", "max_output_tokens") if body.get(name)), 1))  # fmt: skip
        if count + output > self.backend.max_model_len:
            self.say(
                {"error": {"message": f"maximum context length is {self.backend.max_model_len}", "code": 400}}, 400
            )
            return
        stream = body.get("stream")
        if stream:
            self._begin()
        self.backend.held.wait(_HOLD_SECONDS)
        made = _MADE[self.path]
        self._stream(made, count) if stream else self.say(made(count, False)[0])

    def _tokenize(self, body: dict[str, Any]) -> None:
        self.backend.counted += 1
        self.backend.count_held.wait(60)
        if self.backend.counted_by:
            reply = requests.post(f"{self.backend.counted_by}/tokenize", json=body, timeout=30)
            self.say(
                {**reply.json(), **({"max_model_len": self.backend.max_model_len} if reply.ok else {})},
                reply.status_code,
            )
            return
        if self.backend.refuses_images and "image_url" in json.dumps(body)[:2000]:
            self.say({"error": {"message": "At most 0 image(s) may be provided in one prompt.", "code": 400}}, 400)
            return
        count = self.backend.counts(prompt_tokens(body))
        if self.backend.probe_differs and "zxqv" in json.dumps(body, ensure_ascii=False):
            count += 1
        self.say(
            {"count": count, "max_model_len": self.backend.max_model_len, "tokens": [7] * count, "token_strs": None}
        )

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def _stream(self, made: Callable[[int, bool], list[Any]], count: int) -> None:
        for event in made(count, True):
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if self.path != "/v1/responses":
            self.wfile.write(b"data: [DONE]\n\n")


def _chat(count: int, stream: bool) -> list[Any]:
    common = {"id": "chat-1", "created": int(time.time()), "model": "/model"}
    usage = {"prompt_tokens": count, "completion_tokens": 2, "total_tokens": count + 2}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "well said"}, "finish_reason": "stop"}
        return [{**common, "object": "chat.completion", "choices": [choice], "usage": usage}]
    chunks = [({"role": "assistant", "content": "well "}, None), ({"content": "said"}, None), ({}, "stop")]
    return [
        {
            **common,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        for delta, reason in chunks
    ]


def _text(count: int, stream: bool) -> list[Any]:
    common = {"id": "text-1", "created": int(time.time()), "model": "/model", "object": "text_completion"}
    usage = {"prompt_tokens": count, "completion_tokens": 2, "total_tokens": count + 2}
    said = [("well ", None), ("said", "stop")] if stream else [("well said", "stop")]
    found = [{**common, "choices": [{"index": 0, "text": text, "finish_reason": reason}]} for text, reason in said]
    return found if stream else [{**found[0], "usage": usage}]


def _response(count: int, stream: bool) -> list[Any]:
    part = {"type": "output_text", "text": "well said", "annotations": []}
    item = {"type": "message", "id": "m-1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": count, "output_tokens": 2, "total_tokens": count + 2,
        "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    whole = {
        "id": "resp-1", "object": "response", "created_at": int(time.time()), "status": "completed", "model": "/model",
        "output": [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage,
    }  # fmt: skip
    if not stream:
        return [whole]
    delta = {"item_id": "m-1", "output_index": 0, "content_index": 0, "delta": "well said"}
    return [
        {
            "type": "response.created",
            "sequence_number": 0,
            "response": {**whole, "status": "in_progress", "output": []},
        },
        {"type": "response.output_text.delta", "sequence_number": 1, **delta},
        {"type": "response.completed", "sequence_number": 2, "response": whole},
    ]


_MADE = {"/v1/chat/completions": _chat, "/v1/completions": _text, "/v1/responses": _response}


@contextmanager
def backends(short: int = 16384, long: int = 131072 + 16384) -> Iterator[tuple[Backend, Backend]]:
    """A short and a long backend with these limits, in tokens."""
    pair = Backend("short-1", short), Backend("long-1", long)
    for each in pair:
        each.start()
    try:
        yield pair
    finally:
        for each in pair:
            each.held.set()
            each.count_held.set()
            each.health_held.set()
            each.die()
