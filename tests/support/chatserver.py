"""A scripted model server on loopback: the chat API with vLLM's /version and /tokenize, and whatever misbehaviour a test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.loopback import Server, serving

Script = Callable[["ChatServer", Mapping[str, Any], Any], "Mapping[str, Any] | str | None"]
"""What a request gets: the text of the answer, a whole completion's `message` (with `finish_reason`), or None when the script has
written to the handler itself."""


def prompt_of(body: Mapping[str, Any]) -> str:
    """The text of the last message."""
    return str(body["messages"][-1]["content"])


@dataclass
class ChatServer:
    """What the server is, and what it was asked. Tests change it while it runs."""

    script: Script
    model: str = "tiny"
    version: str | None = "0.20.0"
    max_model_len: int = 4096
    tokens: Callable[[str], int] = lambda text: len(text.split())
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def respond(self, handler: Any) -> None:
        path = handler.path
        if path == "/v1/models":
            data = [{"id": self.model, "object": "model", "max_model_len": self.max_model_len}]
            self.say(handler, {"object": "list", "data": data})
        elif path == "/version" and self.version is not None:
            self.say(handler, {"version": self.version})
        elif path == "/tokenize":
            count = self.tokens(prompt_of(json.loads(handler.body)))
            self.say(handler, {"count": count, "max_model_len": self.max_model_len, "tokens": []})
        elif path == "/v1/chat/completions":
            body = json.loads(handler.body)
            with self.lock:
                self.asked.append(prompt_of(body))
                self.bodies.append(body)
                self.headers.append(dict(handler.headers))
            found = self.script(self, body, handler)
            if found is not None:
                self.say(handler, self.completion(found))
        else:
            self.say(handler, {"error": "not found"}, 404)

    def completion(self, found: Mapping[str, Any] | str) -> dict[str, Any]:
        message = {"content": found} if isinstance(found, str) else dict(found)
        finish = message.pop("finish_reason", "stop")
        model = message.pop("model", self.model)
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }

    def say(self, handler: Any, document: Any, status: int = 200) -> None:
        handler.say(status, json.dumps(document).encode(), Content_Type="application/json")


@contextmanager
def chatting(script: Script | Mapping[str, str], **how: Any) -> Iterator[ChatServer]:
    """A server that runs. A mapping has the answer to each prompt."""
    answers = script
    chosen: Script = (
        (lambda _server, body, _handler: answers[prompt_of(body)]) if isinstance(answers, Mapping) else answers
    )
    chat = ChatServer(chosen, **how)
    with serving(chat.respond) as server:
        chat.url = server.url
        chat.over = server.over
        yield chat


def hang_up(handler: Any) -> None:
    """Close the connection at once."""
    handler.close_connection = True
    with suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


__all__ = ["ChatServer", "Server", "chatting", "hang_up", "prompt_of"]
