"""A client of any server that speaks the OpenAI chat API."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from builder.net.address import parse_address
from builder.net.trouble import reason
from builder.util.errors import InputError
from builder.util.redact import without_secrets

_QUICK_SECONDS = 10
_MESSAGE = 300


class UnansweredError(Exception):
    """The response to a request is missing, or is not one of the API; the text says how."""


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for. `arguments` is the text that it wrote, which should be a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Completion:
    """One chat completion, and how long it took in seconds."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    message: Mapping[str, Any]
    seconds: float


class Server:
    """A server at `url`, with or without `/v1` at its end. `key`, or else the name and password that the address has, goes out
    as authorization and is never printed."""

    def __init__(self, url: str, *, key: str | None = None, answer_seconds: float = 300) -> None:
        address = parse_address(url)
        if address is None:
            raise InputError(
                f"{without_secrets(url)!r} is not the address of a server", hint="write it as http://HOST:PORT"
            )
        self.url = address.url.removesuffix("/v1")
        self._answer_seconds = answer_seconds
        authorization = f"Bearer {key}" if key else address.basic
        self._headers = {"Authorization": authorization} if authorization else {}
        self._takes_template_arguments = True
        self._model: str | None = None
        self.max_model_len: int | None = None

    def health(self) -> str | None:
        """None when the server is healthy, else what it is. Where `/health` does not exist, the list of models is read."""
        try:
            answer = self._get("/health")
            if answer.status_code == requests.codes.not_found:
                answer = self._get("/v1/models")
        except requests.RequestException as error:
            return f"no response: {reason(error)}"
        return None if answer.ok else f"status {answer.status_code}"

    def version(self) -> str | None:
        """vLLM's own version, which other servers do not have."""
        try:
            found = self._get("/version").json().get("version")
        except (requests.RequestException, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    def model(self) -> str:
        """The first model that the server lists; its longest context is in `max_model_len` then. Raises `UnansweredError` when it lists none."""
        if self._model is None:
            try:
                answer = self._get("/v1/models")
                first = answer.json()["data"][0]
                self._model = str(first["id"])
                length = first.get("max_model_len")
                self.max_model_len = length if isinstance(length, int) else None
            except requests.RequestException as error:
                raise UnansweredError(f"no list of models: {reason(error)}") from error
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UnansweredError(
                    f"no list of models: status {answer.status_code}, {answer.text[:_MESSAGE]}"
                ) from error
        return self._model

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        thinking: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Completion:
        """One completion at temperature 0. `thinking` is passed to the chat template where the server accepts that field.

        Raises `UnansweredError`.
        """
        body: dict[str, Any] = {
            "model": self.model(), "messages": list(messages), "max_tokens": max_tokens, "temperature": 0, "seed": 0,
        }  # fmt: skip
        if tools:
            body |= {"tools": list(tools), "tool_choice": "auto"}
        begun = time.monotonic()
        if self._takes_template_arguments:
            answer = self._post({**body, "chat_template_kwargs": {"enable_thinking": thinking}})
            if answer.status_code in (400, 422) and "chat_template_kwargs" in answer.text:
                self._takes_template_arguments = False
        if not self._takes_template_arguments:
            answer = self._post(body)
        return _read_answer(answer, time.monotonic() - begun)

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, headers=self._headers, timeout=_QUICK_SECONDS, allow_redirects=False)

    def _post(self, body: Mapping[str, Any]) -> requests.Response:
        try:
            return requests.post(
                f"{self.url}/v1/chat/completions", json=body, headers=self._headers, allow_redirects=False,
                timeout=(_QUICK_SECONDS, self._answer_seconds),
            )  # fmt: skip
        except requests.RequestException as error:
            raise UnansweredError(f"no response: {reason(error)}") from error


def _read_answer(answer: requests.Response, seconds: float) -> Completion:
    if answer.status_code != requests.codes.ok:
        raise UnansweredError(f"status {answer.status_code}: {answer.text[:_MESSAGE]}")
    try:
        choice = answer.json()["choices"][0]
        message = choice["message"]
        calls = tuple(
            ToolCall(str(call.get("id", "")), str(call["function"]["name"]), _text(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        )
        return Completion(
            content=message.get("content") or "",
            # vLLM has renamed the field; other servers and older versions have the longer name.
            reasoning=message.get("reasoning") or message.get("reasoning_content") or "",
            tool_calls=calls,
            finish_reason=str(choice.get("finish_reason")),
            message=message,
            seconds=seconds,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnansweredError(f"not a chat completion, {_lacks(error)}: {answer.text[:_MESSAGE]}") from error


def _lacks(error: Exception) -> str:
    """What of a completion is missing, in words."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    if isinstance(error, IndexError):
        return "it has no choices"
    return "it is not JSON" if isinstance(error, ValueError) else "a value has another type"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
