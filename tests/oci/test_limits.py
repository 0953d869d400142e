"""A registry that never ends, never begins or sends something else: bounded in bytes and time, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.oci.registry.client import Registry
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import Descriptor
from builder.util.errors import BuilderError
from builder.util.files import sha256
from tests.support.clock import Owned
from tests.support.loopback import Server, serving

BODY = b"x" * 1000
BLOB = Descriptor("", f"sha256:{sha256(BODY)}", len(BODY))
CALLS: dict[str, Callable[[Registry], object]] = {
    "manifest": lambda registry: registry.manifest("a/b", "v1"),
    "tag": lambda registry: registry.has_manifest("a/b", "v1"),
    "blob": lambda registry: registry.read_blob("a/b", BLOB),
    "referrers": lambda registry: registry.referrers("a/b", BLOB.digest),
    "mount": lambda registry: registry.mount("a/b", BLOB.digest, "c/d"),
    "upload": lambda registry: upload(registry, "a/b", BLOB, at_hand(BODY)),
    "put": lambda registry: registry.put_manifest("a/b", "v1", BODY, "x/y"),
}


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path))


def registry_at(server: Server, owned: Owned) -> Registry:
    return Registry(server.url.removeprefix("http://"), context=owned.context)


def failing(call: str, server: Server, owned: Owned) -> str:
    """The error's message; empty for a call that needs nothing of the body."""
    try:
        CALLS[call](registry_at(server, owned))
    except BuilderError as error:
        assert error.exit_code in (2, 4, 5)
        assert error.hint
        return error.message
    return ""


def pour(handler: Any, status: int, taken: list[int]) -> None:
    """An endless body; `taken` gets how much of it the client has taken, buffers of both sockets included."""
    taken.append(0)
    number = len(taken) - 1
    try:
        handler.wfile.write(b"HTTP/1.1 %d X\r\nLocation: /x\r\n\r\n" % status)
        while taken[number] < 64 << 20:
            taken[number] += handler.wfile.write(b"x" * (1 << 16))
    except OSError:
        pass
    handler.close_connection = True


@pytest.mark.parametrize("status", [200, 201, 307, 400, 401, 404, 500])
@pytest.mark.parametrize("call", CALLS)
def test_an_endless_body(call: str, status: int) -> None:
    sent: list[int] = []
    with serving(lambda handler: pour(handler, status, sent)) as server:
        error = failing(call, server, Owned())
        assert error or status != 200 or call in ("tag", "put")
        assert 0 < len(server.seen) < 30
    # A manifest may have 8 MiB; the rest lies in the buffers of both sockets.
    assert max(sent) < 24 << 20


@pytest.mark.parametrize("status", [200, 400])
def test_an_endless_token(status: int) -> None:
    sent: list[int] = []

    def serve(handler: Any) -> None:
        if handler.path.startswith("/token"):
            pour(handler, status, sent)
        else:
            handler.say(401, WWW_Authenticate=f'Bearer realm="{server.url}/token"')

    with serving(serve) as server:
        assert failing("manifest", server, Owned())
    assert max(sent) < 24 << 20


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nx"])
def test_a_registry_that_trickles_ends_at_the_deadline(call: str, start: bytes) -> None:
    owned = Owned()

    def trickle(handler: Any) -> None:
        handler.wfile.write(start)
        owned.clock.ring()
        server.over.wait(30)

    # These need no body, so that they may have ended before the deadline is let pass.
    done_at_once = call in ("upload", "tag")
    with serving(trickle) as server:
        assert "takes longer than" in failing(call, server, owned) or done_at_once
        assert len(server.seen) <= 8
    assert owned.clock.rung == len(server.seen) or done_at_once


@pytest.mark.parametrize(
    "body",
    [b"", b"[" * 200_000, b"null", b"[1]", b'{"errors": 3}', b'{"errors": [{"code": "\x1b[2J"}]}', b"\xff\xfe", json.dumps({"manifests": {}}).encode()],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 202, 400, 401, 403, 404, 429, 503])
def test_bodies_of_another_shape(status: int, body: bytes) -> None:
    with serving(lambda handler: handler.say(status, body, WWW_Authenticate="Bearer")) as server:
        for call in CALLS:
            assert "\x1b" not in failing(call, server, Owned())
