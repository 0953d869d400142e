"""What is asked: a server with its version, its model and its longest context, before and after a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from builder.documents.verdict import ImageIdentity
from builder.gate.engine import Side
from builder.gate.rows import Row
from builder.net.address import parse_address
from builder.net.client import Client, Rules
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError
from builder.util.redact import without_secrets

_OK: Final = 200
_NOT_FOUND: Final = 404
_SIZE: Final = 4 << 20
_HINT: Final = "is the server up? `builder smoke URL` says what it lacks"


@dataclass(frozen=True)
class Served:
    """What a server says of itself. `version` is vLLM's, None for other servers."""

    version: str | None
    model: str
    max_model_len: int | None
    image: ImageIdentity | None = None

    def differences(self, later: Served) -> list[tuple[str, str]]:
        """What became another one, as details of an error."""
        fields = ("version", "model", "max_model_len", "image")
        return [
            (field, f"before {getattr(self, field)}, after {getattr(later, field)}")
            for field in fields
            if getattr(self, field) != getattr(later, field)
        ]


class Target:
    """One side: asks its server what it is. `image` tells what runs there now, where that can be known."""

    def __init__(
        self, name: str, url: str, *, key: str | None, context: Context,
        image: Callable[[], ImageIdentity | None] = lambda: None,
    ) -> None:  # fmt: skip
        address = parse_address(url)
        if address is None:
            raise InputError(
                f"{without_secrets(url)!r} is not the address of a server", hint="write it as http://HOST:PORT"
            )
        self.name = name
        self.url = address.url.removesuffix("/v1")
        self._key, self._basic = key, address.basic
        self._image = image
        authorization = f"Bearer {key}" if key else address.basic
        rules = Rules(
            authorization=lambda _url: authorization, follows=lambda _before, _target: False,
            hint=_HINT,
        )  # fmt: skip
        self._client = Client(context.limits, rules, parallel=64)

    def served(self) -> Served:
        """What it serves now. Raises `UnreachableError`."""
        models = self._json("/v1/models")
        try:
            first = models["data"][0]
            model, length = str(first["id"]), first.get("max_model_len")
        except (LookupError, TypeError, AttributeError) as error:
            raise UnreachableError(f"{self.url} lists no model", hint=_HINT) from error
        version = self._json("/version", missing={})
        found = version.get("version") if isinstance(version, Mapping) else None
        return Served(
            found if isinstance(found, str) else None, model, length if isinstance(length, int) else None, self._image()
        )

    def side(self, served: Served) -> Side:
        return Side(self.name, self.url, served.model, self._key, self._basic)

    def same_as(self, before: Served) -> None:
        """Raises `MismatchError` when the server is another one than before the run."""
        if changed := before.differences(self.served()):
            raise MismatchError(
                f"the server at {self.url} is not the one that the run began with",
                details=changed, hint="somebody restarted it with something else: run again, with --restart",
            )  # fmt: skip

    def count(self, rows: Sequence[Row], model: str, thinking: bool | None, connections: int) -> dict[str, int]:
        """Tokens of each row's prompt, by id, as the server's /tokenize counts them with template and tools."""

        def one(row: Row) -> tuple[str, int]:
            body: dict[str, Any] = {"model": model, "messages": list(row.messages), "add_generation_prompt": True}
            if row.tools:
                body["tools"] = list(row.tools)
            if thinking is not None:
                body["chat_template_kwargs"] = {"enable_thinking": thinking}
            found = self._json("/tokenize", body=body)
            count = found.get("count") if isinstance(found, Mapping) else None
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise UnreachableError(
                    f"{self.url}/tokenize does not count row {row.id}",
                    hint="a suite with prompt_cap needs vLLM's /tokenize; leave prompt_cap out for other servers",
                )
            return row.id, count

        with ThreadPoolExecutor(connections) as pool:
            return dict(pool.map(one, rows))

    def _json(self, path: str, *, body: Any = None, missing: Any = None) -> Any:
        """A JSON response; `missing` is what a 404 means. Raises `UnreachableError`."""
        if body is None:
            response = self._client.send("GET", self.url + path, size=_SIZE)
        else:
            headers = {"Content-Type": "application/json"}
            data = json.dumps(body).encode()
            response = self._client.send("POST", self.url + path, headers=headers, data=data, attempts=3, size=_SIZE)
        if response.status == _NOT_FOUND and missing is not None:
            return missing
        if response.status != _OK:
            hint = "set BUILDER_API_KEY" if response.status in (401, 403) else "is this the chat API of a model server?"
            raise UnreachableError(f"{self.url}{path} responds with status {response.status}", hint=hint)
        try:
            return response.json()
        except ValueError as error:
            raise UnreachableError(f"{self.url}{path} does not respond with JSON", hint=_HINT) from error
