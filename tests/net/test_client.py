"""The one HTTP policy against real loopback servers: deadlines, sizes, attempts, pauses, redirects, and who is told what."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from builder.net.client import Client, NoResponseError, Rules, no_downgrade
from builder.util.errors import UnreachableError
from builder.util.limits import Limits
from tests.support.clock import ManualClock, Owned
from tests.support.loopback import serving


@pytest.fixture
def owned() -> Owned:
    return Owned(size=1 << 20)


@contextmanager
def asking(owned: Owned, rules: Rules = Rules()) -> Iterator[Client]:  # noqa: B008  frozen
    client = Client(owned.limits, rules)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nx"]
)
def test_a_server_that_trickles_is_hung_up_at_the_deadline(owned: Owned, start: bytes) -> None:
    """Nothing, half a header, half a body: no timeout of a socket ends that while bytes come."""

    def trickle(handler: Any) -> None:
        handler.wfile.write(start)
        owned.clock.ring()
        server.over.wait(30)

    with serving(trickle) as server, asking(owned) as client:
        with pytest.raises(NoResponseError, match="takes longer than 900 s") as caught:
            client.send("GET", server.url)
        assert caught.value.late
        assert len(server.seen) == 1
        assert owned.clock.alarms == {}


def test_a_stream_has_a_deadline_that_grows_with_its_size(owned: Owned) -> None:
    def trickle(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        looked.wait(30)
        owned.clock.ring()
        server.over.wait(30)

    looked = threading.Event()
    with serving(trickle) as server, asking(owned) as client:
        with client.stream(server.url, size=10 << 30) as response, pytest.raises(NoResponseError) as caught:
            [(seconds, _)] = owned.clock.alarms.values()
            assert seconds == 900 + (10 << 30) / (16 << 10)
            looked.set()
            for _ in response.chunks:
                pass
        assert caught.value.late
        assert owned.clock.alarms == {}


def test_silence_is_ended_and_attempted_again() -> None:
    """Every request is silent, so that a busy machine changes nothing."""
    clock = ManualClock()

    def silent(_handler: Any) -> None:
        server.over.wait(30)

    with serving(silent) as server:
        client = Client(Limits(silence=0.2, clock=clock))
        with pytest.raises(NoResponseError, match="nothing was received in time"):
            client.send("GET", server.url)
        client.close()
        assert len(clock.pauses) == 3


@pytest.mark.parametrize("path", ["/", "/error"])
def test_an_endless_body_is_read_as_far_as_the_limit(owned: Owned, path: str) -> None:
    sent = 0

    def serve(handler: Any) -> None:
        nonlocal sent
        handler.wfile.write(b"HTTP/1.1 %d X\r\n\r\n" % (404 if handler.path == "/error" else 200))
        while True:
            sent += handler.wfile.write(b"x" * (1 << 16))

    with serving(serve) as server, asking(owned) as client:
        if path == "/":
            with pytest.raises(UnreachableError, match="larger than 1 MiB"):
                client.send("GET", server.url + path)
        else:
            assert client.send("GET", server.url + path).status == 404
    # What was sent lies in the buffers of both sockets, some MiB on loopback.
    assert sent < 16 << 20


def test_a_body_that_grows_when_it_is_unpacked_has_the_same_limit(owned: Owned) -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    with (
        serving(lambda handler: handler.say(200, bomb, Content_Encoding="gzip")) as server,
        asking(owned) as client,
        pytest.raises(UnreachableError, match="larger than 1 MiB"),
    ):
        client.send("GET", server.url)


def test_a_truncated_body_is_attempted_again(owned: Owned) -> None:
    def serve(handler: Any) -> None:
        if len(server.seen) < 3:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]")
            handler.close_connection = True
        else:
            handler.say(200, b"whole")

    with serving(serve) as server, asking(owned) as client:
        assert client.send("GET", server.url).body == b"whole"
        assert owned.clock.pauses == [0.3, 0.6]


@pytest.mark.parametrize(
    ("header", "pauses"),
    [
        ("7", [7.0]), ("0", [0.3]), ("soon", [0.3]), ("Thu, 01 Jan 2026 00:00:20 GMT", [20.0]),
        ("Thu, 01 Jan 2015 00:00:20 GMT", [0.3]), ("31", []), ("Fri, 02 Jan 2026 00:00:00 GMT", []), ("9" * 999, []),
    ],
)  # fmt: skip
def test_the_pause_that_a_server_asks_for(owned: Owned, header: str, pauses: list[float]) -> None:
    """In seconds or as a date; longer than the longest wait means that the response is the last one."""

    def serve(handler: Any) -> None:
        if len(server.seen) == 1:
            handler.say(429, Retry_After=header)
        else:
            handler.say(200, b"x")

    with serving(serve) as server, asking(owned) as client:
        assert client.send("GET", server.url).status == (200 if pauses else 429)
        assert owned.clock.pauses == pauses


def test_what_is_not_harmless_is_sent_once(owned: Owned) -> None:
    with serving(lambda handler: handler.say(503)) as server, asking(owned) as client:
        assert client.send("PUT", server.url, data=b"x").status == 503
        assert client.send("PUT", server.url, data=b"x", attempts=2).status == 503
        assert len(server.seen) == 3


def test_authorization_goes_to_the_url_that_it_is_for_hop_by_hop(owned: Owned) -> None:
    with serving(lambda handler: handler.say(200, b"x"), "127.0.0.2") as other:

        def serve(handler: Any) -> None:
            target = {"/away": f"{other.url}/x", "/near": "/end"}.get(handler.path)
            handler.say(302, Location=target) if target else handler.say(200)

        with serving(serve) as server:
            rules = Rules(authorization=lambda url: "Bearer s" if url.startswith(server.url) else None)
            with asking(owned, rules) as client:
                assert client.send("GET", f"{server.url}/near").url == f"{server.url}/end"
                with pytest.raises(UnreachableError, match=r"refusing to follow a redirect to http://127\.0\.0\.2"):
                    client.send("GET", f"{server.url}/away")
                assert other.seen == []
                client.send("GET", f"{server.url}/away", rules=Rules(rules.authorization, no_downgrade))
            assert [headers.get("Authorization") for _, _, headers in server.seen] == ["Bearer s"] * 4
        assert [headers.get("Authorization") for _, _, headers in other.seen] == [None]


@pytest.mark.parametrize("location", ["http://[", "http://a:b/", "ftp://127.0.0.1/", "//", "http://u:p@127.0.0.1/"])
def test_a_redirect_to_something_else_is_not_followed(owned: Owned, location: str) -> None:
    with (
        serving(lambda handler: handler.say(302, Location=location)) as server,
        asking(owned) as client,
        pytest.raises(UnreachableError),
    ):
        client.send("GET", server.url)


def test_redirects_end(owned: Owned) -> None:
    with serving(lambda handler: handler.say(302, Location=handler.path)) as server, asking(owned) as client:
        with pytest.raises(UnreachableError, match="too many redirects"):
            client.send("GET", server.url)
        assert len(server.seen) == 6


def test_the_password_of_a_netrc_is_sent_to_nobody(
    owned: Owned, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password s3cret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(lambda handler: handler.say(200)) as server, asking(owned) as client:
        client.send("GET", server.url)
        assert "Authorization" not in server.seen[0][2]
