"""Routes a request of LiteLLM's proxy to the short or the long backend, by the model's own count of its prompt.

One file for the standard library and httpx. It is copied beside LiteLLM's `config.yaml`, which names `envelope.handler`; its
settings are in `envelope.json` in the same folder. LiteLLM 1.108.7 calls `async_filter_deployments` on chat completions,
completions, messages and responses, and `async_pre_call_deployment_hook` before anything is sent. LiteLLM does not register
this module, so it has no postponed annotations: dataclasses would look for it.
"""

import asyncio
import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

try:
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.proxy._types import ProxyException
except ImportError:  # judged by tests without LiteLLM
    CustomLogger = object

    class ProxyException(Exception):  # type: ignore[no-redef]  # noqa: N818  LiteLLM's name
        """What LiteLLM's has that is used here."""

        def __init__(self, message: str, type: str, param: str | None, code: int, headers: dict[str, str]) -> None:  # noqa: A002
            super().__init__(message)
            self.message, self.type, self.param, self.code, self.headers = message, type, param, str(code), headers


log = logging.getLogger("envelope")

RETRY_AFTER = "10"
SHORT, LONG = "short", "long"
TICKET = "envelope"
PROMOTED = "watched/promoted.json"
# LiteLLM raises a smaller max_output_tokens to this on /v1/responses.
_LEAST_RESPONSE = 16
# What LiteLLM calls a request on the four routes. It has others, which do not all come to `async_filter_deployments`.
_SERVED = (
    "acompletion",
    "completion",
    "atext_completion",
    "text_completion",
    "anthropic_messages",
    "aresponses",
    "responses",
)
# No tokenizer has tokens that are this long on average: a count below it is not of this text.
_CHARACTERS_PER_TOKEN = 256
_PENALTY_SECONDS = 30.0
_TOKEN_BUCKETS = (128, 512, 1024, 2048, 4096, 8192, 10000, 16384, 32768, 65536, 131072, 262144)
_TIME_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PROMPTS = (1024, 10000, 32768, 131072)
_FIRST_TOKEN_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# Languages, digits, spaces and marks that tokenizers divide differently.
PROBE = "The quick brown fox, 1234567890 + 3.14; Příliš žluťoučký kůň 東京 안녕 \n\n\t    def f(x):\n        return x ** 2  # 🦊 zxqv"


class RefusedError(ProxyException):  # type: ignore[misc]
    """A response of the router's own: the one kind of error whose headers LiteLLM keeps on all four routes."""

    def __init__(self, status: int, message: str, *, tokens: int | None, route: str, reason: str) -> None:
        kind = "service_unavailable_error" if status == 503 else "invalid_request_error"
        more = {"retry-after": RETRY_AFTER} if status == 503 else {}
        super().__init__(
            message=message, type=kind, param=None, code=status, headers=headers(tokens, route, reason) | more
        )
        self.status_code, self.tokens, self.route, self.reason = status, tokens, route, reason


class UncountedError(Exception):
    """No backend has counted the prompt."""


class RefusedByBackendError(Exception):
    """A backend's `/tokenize` has refused the request: it cannot serve it either."""


def headers(tokens: int | None, route: str, reason: str) -> dict[str, str]:
    """The response headers that say where a request went and why."""
    found = {"x-envelope-route": route, "x-envelope-reason": reason}
    return found if tokens is None else {"x-envelope-tokens": str(tokens), **found}


@dataclass
class Backend:
    """A server. `max_model_len` is the smaller of what was configured and what the server itself says, in tokens."""

    name: str
    role: str
    url: str
    max_prompt: int | None = None
    max_model_len: int | None = None
    api_key_env: str | None = None
    image: str | None = None
    """What it was deployed from, REF@DIGEST: a server cannot be asked for its own digest."""
    overlays: tuple[str, ...] | None = None
    # What was seen of it.
    up: bool = False
    seen: float = -1e9
    verified: float = -1e9
    probe: str | None = None
    mismatch: bool = False
    slow_until: float = -1e9
    limit: int | None = None
    as_built: bool | None = None

    def length(self) -> int | None:
        known = [each for each in (self.max_model_len, self.limit) if each is not None]
        return min(known) if known else None

    def fits(self, prompt: int, output: int) -> bool:
        """Whether its limits hold prompt and completion; an unknown limit holds nothing."""
        length = self.length()
        return (
            length is not None and prompt + output <= length and (self.max_prompt is None or prompt <= self.max_prompt)
        )

    def authorization(self) -> dict[str, str]:
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        return {"Authorization": f"Bearer {key}"} if key else {}

    def describe(self) -> str:
        cap = f"prompts up to {self.max_prompt} and " if self.max_prompt is not None else ""
        return f"{self.name} takes {cap}{self.length()} tokens in all"


@dataclass(frozen=True)
class Settings:
    """`envelope.json`. Times are in seconds."""

    completion: int
    model: str = ""
    """The name that clients use."""
    overflow_when_down: str = "error"
    count_seconds: float = 10.0
    health_seconds: float = 1.0
    """How long what was seen is believed."""
    health_limit_seconds: float = 2.0
    patience_seconds: float = 0.25
    """How long a request waits for the check of a backend that was down."""
    verify_seconds: float = 60.0
    watch_seconds: float = 5.0
    cache_entries: int = 4096
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


@dataclass(frozen=True)
class Decision:
    """Where a request goes: the names of backends that fit and are up, or a status with the reason."""

    route: str
    reason: str
    status: int = 200
    backends: tuple[str, ...] = ()


def decide(prompt: int, output: int, backends: Iterable[Backend], *, up: Mapping[str, bool], overflow: str) -> Decision:
    """The rule: short when it fits there, else long when it fits there, else nowhere. Nothing is asked here.

    `up` says of each backend whether it may be used now. `overflow` is `long` when a request that fits short may use the
    long path while every short backend is down, else `error`.
    """
    known = list(backends)
    short = [each for each in known if each.role == SHORT and each.fits(prompt, output)]
    long = [each for each in known if each.role == LONG and each.fits(prompt, output)]
    usable_short = tuple(each.name for each in short if up[each.name])
    usable_long = tuple(each.name for each in long if up[each.name])
    if usable_short:
        return Decision(SHORT, "fits", backends=usable_short)
    if short:
        if overflow == LONG and usable_long:
            return Decision(LONG, "short-down", backends=usable_long)
        return Decision("none", "short-down", 503)
    unknown = [each for each in known if each.length() is None]
    if any(each.role == SHORT for each in unknown):
        return Decision("none", "short-down", 503)
    if long:
        over = all(prompt > each.max_prompt for each in known if each.role == SHORT and each.max_prompt is not None)
        reason = "prompt-over-cap" if over else "output-over-limit"
        return Decision(LONG, reason, backends=usable_long) if usable_long else Decision("none", "long-down", 503)
    if unknown:
        return Decision("none", "long-down", 503)
    return Decision("none", "fits-nowhere", 400)


def reserved(request: Mapping[str, Any], default: int) -> int:
    """The tokens that the completion may take: what the request asks for, else the envelope's completion.

    0 goes with `echo` on /v1/completions, for which vLLM still makes one token. Numbers in quotes and 7.0 are numbers, as for vLLM.
    """
    named = [request.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    numbers = [max(number, 1) for each in named if (number := _whole(each)) is not None and number >= 0]
    if not numbers:
        return default
    return max([*numbers, _LEAST_RESPONSE]) if "max_output_tokens" in request else max(numbers)


def _whole(value: Any) -> int | None:
    """A whole number as vLLM reads it, else None: what is none, vLLM itself refuses."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 20 and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) else None


def payloads(request: Mapping[str, Any], messages: Any) -> list[dict[str, Any]]:
    """What `/tokenize` is asked for a request: one body for each prompt. Raises `ValueError` for a request that cannot be counted."""
    try:
        return _payloads(request, messages)
    except (TypeError, AttributeError, KeyError) as error:
        # A part of it is of another type than its dialect says.
        raise ValueError(f"the request cannot be read: {error}") from error


def _payloads(request: Mapping[str, Any], messages: Any) -> list[dict[str, Any]]:
    path = _path(request)
    if (
        path.endswith("/completions")
        and not path.endswith("/chat/completions")
        and isinstance(messages, list)
        and len(messages) == 1
    ):
        # LiteLLM shows its prompt as the content of one message.
        return _completion(request, messages[0].get("content"))
    # The route says which part is the prompt: a client can send `input` beside messages, and the server ignores it.
    if "input" in request and not path.endswith(("/chat/completions", "/messages")):
        if request.get("previous_response_id") or request.get("conversation"):
            raise ValueError("a request that goes on from a stored response cannot be counted: send the whole input")
        found = responses_messages(request)
    elif isinstance(messages, list):
        found = chat_messages({} if path.endswith("/chat/completions") else request, messages)
    else:
        raise ValueError("the request has no messages, prompt or input")
    body: dict[str, Any] = {"messages": found, "add_generation_prompt": True}
    if request.get("continue_final_message"):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    elif request.get("add_generation_prompt") is False:
        body["add_generation_prompt"] = False
    tools = [each for each in map(_tool, request.get("tools") or ()) if each is not None]
    if tools:
        body["tools"] = tools
    template = {name: request[name] for name in ("documents", "reasoning_effort") if request.get(name) is not None}
    template |= request.get("chat_template_kwargs") or {}
    if template:
        body["chat_template_kwargs"] = template
    for name in ("chat_template", "mm_processor_kwargs", "media_io_kwargs", "add_special_tokens", "response_format"):
        if request.get(name) is not None:
            body[name] = request[name]
    return [body]


def _path(request: Mapping[str, Any]) -> str:
    """The route that the client asked."""
    return urlsplit(str((request.get("proxy_server_request") or {}).get("url", ""))).path.rstrip("/")


def _completion(request: Mapping[str, Any], prompt: Any) -> list[dict[str, Any]]:
    special = request.get("add_special_tokens")
    found: list[dict[str, Any]] = []
    for each in prompt if isinstance(prompt, list) else [prompt]:
        if isinstance(each, int | list):
            raise ValueError("a prompt of token ids is not sent on by LiteLLM: send its text")  # noqa: TRY004
        if not isinstance(each, str):
            raise ValueError("a prompt is a text")  # noqa: TRY004
        if each == "":
            raise ValueError("the prompt is empty")
        found.append({"prompt": each, "add_special_tokens": True if special is None else special})
    if not found:
        raise ValueError("the prompt is empty")
    return found


def _tool(tool: Any) -> dict[str, Any] | None:
    """A function as chat completions have it, of all three dialects; None for a tool that is not a function."""
    if not isinstance(tool, Mapping):
        return None
    if isinstance(tool.get("function"), Mapping):
        return dict(tool)
    if "input_schema" in tool:
        function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
    elif tool.get("type") == "function":
        function = {"name": tool.get("name"), "parameters": tool.get("parameters")}
    else:
        return None
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def chat_messages(request: Mapping[str, Any], messages: list[Any]) -> list[dict[str, Any]]:
    """Messages of chat completions, or those of Anthropic's API as LiteLLM sends them on."""
    found: list[dict[str, Any]] = []
    if request.get("system"):
        found.append({"role": "system", "content": _parts(request["system"])})
    for message in messages:
        found += _anthropic(message) if _is_anthropic(message) else [message]
    return found


def _is_anthropic(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    kinds = {each.get("type") for each in content if isinstance(each, Mapping)} if isinstance(content, list) else set()
    return bool(kinds & {"tool_use", "tool_result", "thinking", "redacted_thinking", "image", "document"})


def _anthropic(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    parts: list[Any] = []
    for block in message["content"]:
        kind = block.get("type")
        if kind == "tool_result":
            results.append(
                {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _text(block.get("content"))}
            )
        elif kind == "tool_use":
            call = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": call})
        elif kind not in ("thinking", "redacted_thinking"):
            parts.append(_part(block))
    if not parts and not calls:
        return results
    found: dict[str, Any] = {"role": message.get("role"), "content": parts or None}
    if message.get("role") == "assistant":
        found["content"] = _text(parts) or None
    if calls:
        found["tool_calls"] = calls
    return [*results, found]


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message as chat completions have it."""
    kind = block.get("type")
    if kind in ("text", "input_text", "output_text"):
        return {"type": "text", "text": block.get("text", "")}
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": block.get("image_url")}}
    source = block.get("source") or {}
    if kind == "image":
        url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": url}}
    return dict(block)


def _parts(content: Any) -> Any:
    return [_part(each) for each in content] if isinstance(content, list) else content


def _text(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    texts = [each.get("text") for each in content if isinstance(each, Mapping)]
    return "\n".join(each for each in texts if isinstance(each, str))


def responses_messages(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages that vLLM makes of `instructions` and `input`."""
    found: list[dict[str, Any]] = []
    if request.get("instructions"):
        found.append({"role": "system", "content": request["instructions"]})
    items = request["input"]
    if isinstance(items, str):
        return [*found, {"role": "user", "content": items}]
    for item in items if isinstance(items, list) else ():
        kind = item.get("type", "message") if isinstance(item, Mapping) else None
        if kind == "message":
            found.append({"role": item.get("role", "user"), "content": _parts(item.get("content"))})
        elif kind == "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls = [{"id": item.get("call_id"), "type": "function", "function": call}]
            found.append({"role": "assistant", "content": None, "tool_calls": calls})
        elif kind == "function_call_output":
            output = item.get("output")
            text = output if isinstance(output, str) else _text(output)
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        elif kind != "reasoning":
            raise ValueError(f"an item of type {kind!r} cannot be counted")
    return found


def characters(value: Any) -> int:
    """How much text a body of `/tokenize` has, without images."""
    if isinstance(value, str):
        return 0 if value.startswith("data:") else len(value)
    if isinstance(value, Mapping):
        return sum(characters(each) for name, each in value.items() if name != "image_url")
    return sum(map(characters, value)) if isinstance(value, list) else 0


class Metrics:
    """Counters, gauges and histograms in Prometheus' text format."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._kinds: dict[str, tuple[str, str]] = {}

    def declare(self, name: str, kind: str, text: str) -> None:
        self._kinds[name] = (kind, text)

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        with self._lock:
            key = (name, tuple(labels.items()))
            self._values[key] = self._values.get(key, 0) + value

    def put(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._values[name, tuple(labels.items())] = value

    def drop(self, name: str, **labels: str) -> None:
        """Forget the series of a gauge that have these labels."""
        with self._lock:
            for key in [key for key in self._values if key[0] == name and labels.items() <= set(key[1])]:
                del self._values[key]

    def observe(self, name: str, value: float, buckets: Iterable[float], **labels: str) -> None:
        for bound in buckets:
            self.add(f"{name}_bucket", 1 if value <= bound else 0, **labels, le=f"{bound:g}")
        self.add(f"{name}_bucket", 1, **labels, le="+Inf")
        self.add(f"{name}_sum", value, **labels)
        self.add(f"{name}_count", 1, **labels)

    def text(self) -> str:
        with self._lock:
            values = list(self._values.items())
        lines = []
        for name, (kind, text) in self._kinds.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            own = {name, *(f"{name}_{end}" for end in ("bucket", "sum", "count") if kind == "histogram")}
            for (each, labels), value in values:
                if each in own:
                    shown = ",".join(f'{label}="{_escaped(word)}"' for label, word in labels)
                    lines.append(f"{each}{{{shown}}} {_number(value)}" if shown else f"{each} {_number(value)}")
        return "\n".join([*lines, ""])


def _number(value: float) -> str:
    """All digits: with six of them, a counter above a million would stand still for a while and then jump."""
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _new_metrics() -> Metrics:
    metrics = Metrics()
    metrics.declare("envelope_requests_total", "counter", "Requests by route and reason.")
    metrics.declare("envelope_prompt_tokens", "histogram", "Tokens of the prompts that were counted.")
    metrics.declare("envelope_first_token_seconds", "histogram", "Time to the first token, by tokens of the prompt.")
    metrics.declare("envelope_count_seconds", "histogram", "Time until a prompt was counted; 0 from the cache.")
    metrics.declare(
        "envelope_count_failures_total", "counter", "Counts that a backend did not give, by backend and reason."
    )
    metrics.declare(
        "envelope_backend_up", "gauge", "1 when the backend is healthy and has the tokenizer of the others."
    )
    metrics.declare("envelope_backend_info", "gauge", "1; the image that the backend was deployed from.")
    metrics.declare(
        "envelope_backend_promoted", "gauge", "1 when the backend's image is the promoted one, 0 when it is not."
    )
    metrics.declare(
        "envelope_backend_verdict", "gauge", "1 when the image has the verdict that the policy asks for, 0 when not."
    )
    metrics.declare("envelope_promotion_checked_timestamp_seconds", "gauge", "When promoted.json was asked for.")
    metrics.declare(
        "envelope_backend_as_built", "gauge", "1 when /overlays names the overlays of the image, 0 when others."
    )
    return metrics


class Counts:
    """A bounded cache: the count of a body by its hash."""

    def __init__(self, entries: int) -> None:
        self._entries, self._counts = entries, OrderedDict[str, int]()

    def get(self, key: str) -> int | None:
        if key in self._counts:
            self._counts.move_to_end(key)
        return self._counts.get(key)

    def put(self, key: str, count: int) -> None:
        self._counts[key] = count
        while len(self._counts) > self._entries:
            self._counts.popitem(last=False)

    def clear(self) -> None:
        self._counts.clear()

    def __len__(self) -> int:
        return len(self._counts)


class Promoted:
    """`watched/promoted.json`: of each backend the digest that its tag names, and the verdicts of the image that it has.

    Who promotes writes it (`builder deploy promoted`), so it is read again whenever it has changed. It is in a folder of its
    own: a file that is mounted alone stays what it was when another one takes its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._backends: Mapping[str, Any] = {}
        self.checked: float | None = None

    def read(self) -> None:
        """Read the file when it is another one than before. One that cannot be read changes nothing."""
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            document = json.loads(self._path.read_text())
            checked = document.get("checked")
            self.checked = None if checked is None else datetime.fromisoformat(checked).timestamp()
            self._backends = dict(document["backends"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s cannot be read: %s", self._path, error)

    def digest(self, backend: Backend) -> str | None:
        """The digest that it should run; "" while the tag names nothing, and None when nobody says it."""
        found = self._of(backend)
        return (found.get("promoted") or "") if "promoted" in found else None

    def verdicts(self, backend: Backend) -> list[tuple[str, str]]:
        """Suite, and `passed` or what is wrong, of the image that it was deployed from."""
        found = self._of(backend)
        if found.get("image") != backend.image:
            return []
        listed = found.get("verdicts") or ()
        return [(str(each.get("suite")), str(each.get("reason"))) for each in listed if isinstance(each, Mapping)]

    def _of(self, backend: Backend) -> Mapping[str, Any]:
        found = self._backends.get(backend.name)
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Check:
    """A look at a backend that is under way, and when it began."""

    task: asyncio.Task[None]
    begun: float


class Envelope(CustomLogger):  # type: ignore[misc]
    """LiteLLM's callback."""

    def __init__(self, settings: Settings, backends: list[Backend], folder: Path | None = None) -> None:
        super().__init__()
        self.settings, self.backends, self.folder = settings, backends, folder
        self.metrics, self.counts = _new_metrics(), Counts(settings.cache_entries)
        self._clients: dict[int, httpx.AsyncClient] = {}
        self._checks: dict[tuple[int, str], Check] = {}
        self._promoted = Promoted((folder or Path()) / PROMOTED)
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = threading.Event()

    # What LiteLLM calls.

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: list[Any] | None,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: object = None,
    ) -> list[Any]:
        """Keep the deployments that the request may go to. Raises `RefusedError`."""
        if not isinstance(healthy_deployments, list) or (
            healthy_deployments and not any(_role(each.get("model_info")) for each in healthy_deployments)
        ):
            return healthy_deployments
        request = request_kwargs or {}
        ticket = _ticket(request)
        try:
            decision, tokens = await self._route(request, messages)
            if ticket.get("route") == LONG:
                self._forget(LONG)
                raise RefusedError(503, "the request was sent to the long path once, and is not sent again", tokens=tokens, route="none", reason="sent-once")  # fmt: skip
        except RefusedError as refused:
            ticket.update(refused=True, tokens=refused.tokens, reason=refused.reason)
            ticket.setdefault("route", refused.route)
            self.metrics.add("envelope_requests_total", route=refused.route, reason=refused.reason)
            raise
        ticket.update(route=decision.route, tokens=tokens, reason=decision.reason)
        self.metrics.add("envelope_requests_total", route=decision.route, reason=decision.reason)
        return [each for each in healthy_deployments if (each.get("model_info") or {}).get("id") in decision.backends]

    async def async_pre_call_hook(
        self, user_api_key_dict: object, cache: object, data: dict[str, Any], call_type: str
    ) -> None:
        """Stop requests for images, speech, ranks and the like: LiteLLM would send them to any of the backends, three times."""
        model = data.get("model")
        if call_type not in _SERVED and model in (self.settings.model, *(each.name for each in self.backends)):
            self.metrics.add("envelope_requests_total", route="none", reason="not-served")
            raise RefusedError(400, f"{model} serves chat completions, completions, messages and responses", tokens=None, route="none", reason="not-served")  # fmt: skip

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> None:
        """Stop what was not routed above: a deployment can be named by its id, which is not filtered."""
        role = _role(kwargs.get("model_info"))
        if role and _ticket(kwargs).get("route") != role:
            self.metrics.add("envelope_requests_total", route="none", reason="not-routed")
            raise RefusedError(
                400, "name the model, not one of its backends", tokens=None, route="none", reason="not-routed"
            )

    async def async_post_call_response_headers_hook(
        self, data: dict[str, Any], user_api_key_dict: object, response: object, request_headers: object = None
    ) -> dict[str, str] | None:
        ticket = _ticket(data)
        if "reason" not in ticket:
            return None
        return headers(ticket["tokens"], "none" if ticket.get("refused") else ticket["route"], ticket["reason"])

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: object, start_time: Any, end_time: Any
    ) -> None:
        """Note when a streamed response began."""
        ticket = _ticket(kwargs.get("litellm_params") or {})
        first = kwargs.get("completion_start_time")
        if kwargs.get("stream") and isinstance(ticket.get("tokens"), int) and isinstance(first, datetime):
            prompt = next((f"up to {each}" for each in _PROMPTS if ticket["tokens"] <= each), f"over {_PROMPTS[-1]}")
            seconds = max(0.0, (first - start_time).total_seconds())
            self.metrics.observe("envelope_first_token_seconds", seconds, _FIRST_TOKEN_BUCKETS, prompt=prompt)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: object,
        traceback_str: object = None,
    ) -> None:
        """A backend that has gone is 503, where LiteLLM says 500: it passes the error itself, with its attributes."""
        ticket = _ticket(request_data)
        status = getattr(original_exception, "status_code", None)
        if (
            isinstance(original_exception, RefusedError)
            or "route" not in ticket
            or not isinstance(status, int)
            or status < 500
        ):
            return
        if any(await asyncio.gather(*map(self._usable, self._forget(ticket["route"])))):
            return
        self.metrics.add("envelope_requests_total", route=ticket["route"], reason="lost")
        ticket["reason"] = "lost"
        lost: Any = original_exception
        lost.status_code, lost.message = 503, f"the {ticket['route']} backend has gone while it had the request"
        # Not kept on /v1/completions and /v1/messages.
        lost.headers = headers(ticket["tokens"], ticket["route"], "lost") | {"retry-after": RETRY_AFTER}

    # How a request is routed.

    async def _route(self, request: Mapping[str, Any], messages: Any) -> tuple[Decision, int]:
        usable = dict(zip((each.name for each in self.backends), await asyncio.gather(*map(self._usable, self.backends)), strict=True))  # fmt: skip
        begun = time.perf_counter()
        try:
            tokens = max([await self._count(each, usable) for each in payloads(request, messages)])
        except ValueError as error:
            raise RefusedError(400, str(error), tokens=None, route="none", reason="uncountable") from error
        except RefusedByBackendError as error:
            raise RefusedError(400, str(error), tokens=None, route="none", reason="refused-by-backend") from error
        except UncountedError as error:
            raise RefusedError(503, str(error), tokens=None, route="none", reason="uncounted") from error
        self.metrics.observe("envelope_count_seconds", time.perf_counter() - begun, _TIME_BUCKETS)
        self.metrics.observe("envelope_prompt_tokens", tokens, _TOKEN_BUCKETS)
        output = reserved(request, self.settings.completion)
        decision = decide(tokens, output, self.backends, up=usable, overflow=self.settings.overflow_when_down)
        if decision.status == 200:
            return decision, tokens
        limits = "; ".join(each.describe() for each in self.backends)
        text = f"the prompt has {tokens} tokens and {output} are reserved for the completion"
        what = "fits no backend" if decision.status == 400 else "no backend that fits is up"
        raise RefusedError(
            decision.status, f"{what}: {text}; {limits}", tokens=tokens, route="none", reason=decision.reason
        )

    async def _count(self, payload: dict[str, Any], usable: Mapping[str, bool]) -> int:
        """The tokens of one prompt: what every backend that is asked says, one of each role where there is one."""
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        key = hashlib.sha256(body).hexdigest()
        known = self.counts.get(key)
        if known is not None:
            return known
        up = [each for each in self.backends if usable[each.name]]
        if not up:
            raise UncountedError("no backend is up that could count the prompt")
        # Not more than one is needed; two find out a tokenizer that went another way since it was compared.
        asked = list({each.role: each for each in sorted(up, key=lambda each: each.slow_until, reverse=True)}.values())
        if any(each.slow_until < time.monotonic() for each in asked):
            asked = [each for each in asked if each.slow_until < time.monotonic()]
        least = characters(payload) // _CHARACTERS_PER_TOKEN
        found = await asyncio.gather(*(self._ask(each, body, least) for each in asked), return_exceptions=True)
        counts = {each for each in found if isinstance(each, int)}
        if len(counts) == 1 and not any(isinstance(each, RefusedByBackendError) for each in found):
            count = counts.pop()
            self.counts.put(key, count)
            return count
        if len(counts) > 1:
            for backend in asked:
                backend.verified = -1e9
            raise UncountedError(f"the backends count the prompt differently: {sorted(counts)}")
        for each in found:
            if isinstance(each, RefusedByBackendError):
                raise each
            if isinstance(each, BaseException) and not isinstance(each, UncountedError):
                raise each
        rest = [each for each in up if each not in asked]
        if rest:
            return await self._count(payload, {each.name: each in rest for each in self.backends})
        raise UncountedError("no backend has counted the prompt in time")

    async def _ask(self, backend: Backend, body: bytes, least: int = 0) -> int:
        """The count of one backend. Raises `UncountedError`, or `RefusedByBackendError` when it refuses the request."""
        try:
            reply = await self._post(backend, body)
        except (httpx.HTTPError, TimeoutError) as error:
            kind = "slow" if isinstance(error, httpx.TimeoutException | TimeoutError) else "unreachable"
            if kind == "slow":
                backend.slow_until = time.monotonic() + _PENALTY_SECONDS
            backend.seen = -1e9
            self.metrics.add("envelope_count_failures_total", backend=backend.name, reason=kind)
            raise UncountedError(f"{backend.name} did not count: {kind}") from error
        if reply.status_code in (400, 413, 422):
            raise RefusedByBackendError(f"{backend.name} refuses the request: {_reason(reply)}")
        try:
            document = reply.json() if reply.status_code == 200 else {}
        except ValueError:
            document = {}
        count, tokens = (document.get("count"), document.get("tokens")) if isinstance(document, dict) else (None, None)
        sound = isinstance(count, int) and not isinstance(count, bool) and count > 0 and count >= least
        if not sound or (isinstance(tokens, list) and len(tokens) != count):
            self.metrics.add("envelope_count_failures_total", backend=backend.name, reason="unsound")
            raise UncountedError(f"{backend.name} gave a count that cannot be right (HTTP {reply.status_code})")
        _learn_limit(backend, document)
        return int(count or 0)

    async def _post(self, backend: Backend, body: bytes) -> httpx.Response:
        head = {"Content-Type": "application/json", **backend.authorization()}
        async with asyncio.timeout(self.settings.count_seconds):
            return await self._client().post(f"{backend.url}/tokenize", content=body, headers=head)

    def _client(self) -> httpx.AsyncClient:
        """One client for each event loop."""
        key = id(asyncio.get_running_loop())
        if key not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            self._clients[key] = httpx.AsyncClient(timeout=self.settings.count_seconds, limits=limits, trust_env=False)
        return self._clients[key]

    # Whether a backend may be used.

    async def _usable(self, backend: Backend) -> bool:
        """Whether it is healthy and has the tokenizer of the others. What was seen is believed for a second.

        One that was up is waited for; one that was not gets a moment: while it hangs, the others are not late for it.
        """
        if time.monotonic() - backend.seen < self.settings.health_seconds:
            return backend.up
        check = self._check(backend)
        if backend.up:
            await asyncio.shield(check.task)
        else:
            await asyncio.wait({check.task}, timeout=check.begun + self.settings.patience_seconds - time.monotonic())
        return backend.up

    def _check(self, backend: Backend) -> Check:
        """The one check of a backend that is under way in this event loop."""
        key = (id(asyncio.get_running_loop()), backend.name)
        found = self._checks.get(key)
        if found is None or found.task.done():
            found = self._checks[key] = Check(asyncio.create_task(self._checked(backend)), time.monotonic())
        return found

    async def _checked(self, backend: Backend) -> None:
        was, healthy = backend.up, await self._healthy(backend)
        if healthy and (not was or backend.mismatch):
            healthy = await self._verified(backend)
        elif healthy and time.monotonic() - backend.verified > self.settings.verify_seconds:
            # In the background: a tokenizer that has become slow is no reason to wait, nor to call the backend down.
            backend.verified = time.monotonic()
            task = asyncio.create_task(self._verified_again(backend))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        backend.up, backend.seen = healthy, time.monotonic()
        self._show(backend)

    def _forget(self, role: str) -> list[Backend]:
        """The backends of a role, whose state is asked for again before it is believed."""
        found = [each for each in self.backends if each.role == role]
        for each in found:
            each.seen = -1e9
        return found

    async def _healthy(self, backend: Backend) -> bool:
        try:
            limit = self.settings.health_limit_seconds
            reply = await self._client().get(f"{backend.url}/health", headers=backend.authorization(), timeout=limit)
        except httpx.HTTPError:
            return False
        return reply.status_code == 200

    async def _verified_again(self, backend: Backend) -> None:
        await self._verified(backend)
        if backend.mismatch:
            backend.up = False
            self._show(backend)

    async def _verified(self, backend: Backend) -> bool:
        """Compare what it makes of the probe with what the others make of it, and learn its limit."""
        found: list[Any] = []
        for body in _probe_bodies():
            try:
                reply = await self._post(backend, json.dumps(body).encode())
                document = reply.json()
                found.append(document["tokens"] if document.get("tokens") else document["count"])
                _learn_limit(backend, document)
            except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
                self.metrics.add("envelope_count_failures_total", backend=backend.name, reason="probe")
                return False
        await self._look(backend)
        return self._compared(backend, hashlib.sha256(json.dumps(found).encode()).hexdigest())

    async def _look(self, backend: Backend) -> None:
        """Compare the overlays that the server itself names with those of the image that was deployed."""
        if backend.overlays is None:
            return
        try:
            reply = await self._client().get(f"{backend.url}/overlays", headers=backend.authorization(), timeout=2.0)
            document = reply.json() if reply.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return
        if isinstance(document, dict) and isinstance(document.get("overlays"), list):
            backend.as_built = tuple(map(str, document["overlays"])) == backend.overlays

    def _compared(self, backend: Backend, probe: str) -> bool:
        # One that is down says nothing of the tokenizers that are to be used together: it is compared when it is back.
        others = [each for each in self.backends if each is not backend and each.up and each.probe is not None]
        if backend.probe not in (None, probe):
            # It counts otherwise than before, so what was counted before may be wrong.
            self.counts.clear()
        backend.probe, backend.verified, backend.slow_until = probe, time.monotonic(), -1e9
        backend.mismatch = any(each.probe != probe and not each.mismatch for each in others)
        if backend.mismatch:
            log.error("%s has another tokenizer or chat template than %s: it is not used", backend.name, ", ".join(each.name for each in others))  # fmt: skip
            backend.probe = None
        return not backend.mismatch

    def start(self) -> None:
        """Compare the backends that are up, once, before the proxy takes requests. Raises `SystemExit` on a mismatch."""

        async def first() -> None:
            await self.look()
            for client in self._clients.values():
                await client.aclose()
            self._clients.clear()
            self._checks.clear()

        worker = threading.Thread(target=lambda: asyncio.run(first()))
        worker.start()
        worker.join()
        for each in self.backends:
            each.seen = -1e9
            log.warning(
                "%s (%s) at %s: %s", each.name, each.role, each.url, each.describe() if each.up else "not up yet"
            )
        wrong = [each.name for each in self.backends if each.mismatch]
        if wrong:
            raise SystemExit(f"the backends have different tokenizers or chat templates: {', '.join(wrong)}")

    def watch(self) -> None:
        """Look at the backends every few seconds, so that what is shown is true also while nobody asks for anything."""

        async def always() -> None:
            while not self.ended.is_set():
                try:
                    await self.look()
                except Exception:
                    log.exception("the backends could not be looked at")
                await asyncio.sleep(self.settings.watch_seconds)

        threading.Thread(target=lambda: asyncio.run(always()), daemon=True).start()

    async def look(self) -> None:
        await asyncio.gather(*(self._check(each).task for each in self.backends))

    # What is shown.

    def _show(self, backend: Backend) -> None:
        name = {"backend": backend.name, "role": backend.role}
        self.metrics.put("envelope_backend_up", backend.up, **name)
        if backend.as_built is not None:
            self.metrics.put("envelope_backend_as_built", backend.as_built, **name)
        if backend.image is None:
            return
        self.metrics.put("envelope_backend_info", 1, **name, image=backend.image)
        self._promoted.read()
        promoted = self._promoted.digest(backend)
        if promoted is not None:
            self.metrics.put("envelope_backend_promoted", backend.image.rpartition("@")[2] == promoted, **name)
        self.metrics.drop("envelope_backend_verdict", **name)
        for suite, reason in self._promoted.verdicts(backend):
            self.metrics.put("envelope_backend_verdict", reason == "passed", **name, suite=suite, reason=reason)
        if self._promoted.checked is not None:
            self.metrics.put("envelope_promotion_checked_timestamp_seconds", self._promoted.checked)

    def serve_metrics(self) -> ThreadingHTTPServer | None:
        """Serve `/metrics` on a port of its own, where no key of LiteLLM is needed."""
        if self.settings.metrics_port is None:
            return None
        metrics = self.metrics

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = metrics.text().encode() if self.path == "/metrics" else b""
                self.send_response(200 if data else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer((self.settings.metrics_host, self.settings.metrics_port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def _role(info: Any) -> str | None:
    role = info.get("role") if isinstance(info, Mapping) else None
    return role if role in (SHORT, LONG) else None


def _ticket(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was decided for one HTTP request: kept in the one object that all of LiteLLM's attempts at it share."""
    shared = request.get("proxy_server_request")
    found = shared.setdefault(TICKET, {}) if isinstance(shared, dict) else {}
    return found if isinstance(found, dict) else {}


def _learn_limit(backend: Backend, document: Mapping[str, Any]) -> None:
    limit = document.get("max_model_len")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        backend.limit = limit


def _reason(reply: httpx.Response) -> str:
    try:
        document = reply.json()
        error = document.get("error", document)
        return str(error.get("message") if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError):
        return f"HTTP {reply.status_code}"


def _probe_bodies() -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": PROBE}, {"role": "user", "content": PROBE}]
    return [{"prompt": PROBE}, {"messages": messages, "add_generation_prompt": True}]


def load(path: Path) -> Envelope:
    """The callback with the settings of a file."""
    document = json.loads(path.read_text())
    backends = [Backend(**each) for each in document.pop("backends")]
    for each in backends:
        each.overlays = None if each.overlays is None else tuple(each.overlays)
    return Envelope(Settings(**document), backends, path.parent)


def _installed() -> Envelope | None:
    path = Path(os.environ.get("ENVELOPE_CONFIG") or Path(__file__).with_name("envelope.json"))
    if not path.is_file():
        return None
    found = load(path)
    found.start()
    found.watch()
    found.serve_metrics()
    return found


handler = _installed()
