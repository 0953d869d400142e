"""Why there is no response: real connections that fail, and what the message says of each. No class of a library is shown."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builder.net.client import Client, NoResponseError, Rules, no_downgrade
from builder.net.trouble import explain, proxy_of
from builder.util.errors import UnreachableError
from builder.util.limits import Limits
from tests.support.clock import ManualClock
from tests.support.loopback import serving
from tests.support.services import require

PASSWORD = "Tr0ub4dor"
ELSEWHERE = "https://registry.example/v2/"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def trouble(url: str, rules: Rules | None = None) -> NoResponseError:
    """The error of a GET, whose texts have neither a class nor the password."""
    client = Client(Limits(silence=0.3, clock=ManualClock()))
    with pytest.raises(NoResponseError) as caught:
        client.send("GET", url, attempts=1, rules=rules)
    client.close()
    text = f"{caught.value.message} {caught.value.hint}"
    assert PASSWORD not in text
    assert re.search(r"\b[A-Z][a-z]+[A-Z]\w*|Errno|Error|Pool", text.replace("PySocks", "")) is None, text
    return caught.value


@pytest.fixture
def closed() -> Iterator[str]:
    """HOST:PORT that refuses connections: bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def secured(folder: Path) -> Iterator[tuple[str, Path]]:
    """A server with a self-signed certificate for 127.0.0.1: its port, and the certificate."""
    require("openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that does not trust the certificate is no error of the server."""

    server = Quiet(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield str(server.server_address[1]), certificate
    finally:
        server.shutdown()
        server.server_close()


def test_a_refused_connection(closed: str) -> None:
    assert trouble(f"http://{closed}/").message == "127.0.0.1 does not respond: the connection was refused"


def test_the_target_of_a_redirect_is_named_with_its_origin(closed: str) -> None:
    with serving(lambda handler: handler.say(302, Location=f"http://{closed}/?s={PASSWORD}"), "127.0.0.2") as server:
        error = trouble(server.url, Rules(follows=no_downgrade))
    assert error.message == "127.0.0.1, where 127.0.0.2 redirects to, does not respond: the connection was refused"


def test_a_connection_that_is_closed_without_a_response() -> None:
    def close(handler: Any) -> None:
        handler.close_connection = True

    with serving(close) as server:
        assert trouble(server.url).message == "127.0.0.1 does not respond: the connection was closed without a response"


def test_a_name_that_is_not_found() -> None:
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo("registry.example", 443, flags=socket.AI_NUMERICHOST)
    found = explain(caught.value, ELSEWHERE)
    assert found.message == "registry.example does not respond: its name was not found"
    assert "set HTTPS_PROXY" in str(found.hint)


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with secured(tmp_path) as (port, certificate):
        error = trouble(f"https://127.0.0.1:{port}/")
        assert error.message.startswith("the certificate of 127.0.0.1 is not trusted: self")
        assert "REQUESTS_CA_BUNDLE" in str(error.hint)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert trouble(f"https://localhost:{port}/").message == "the certificate of localhost is for another name"
        client = Client(Limits(clock=ManualClock()))
        assert client.send("HEAD", f"https://127.0.0.1:{port}/none").status == 404  # as the hint says
        client.close()
        for wrong in (tmp_path / "none", tmp_path / "key.pem"):
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
            assert "REQUESTS_CA_BUNDLE does not name a file" in trouble(f"https://127.0.0.1:{port}/").message


def test_a_server_without_tls() -> None:
    with serving(lambda handler: handler.say(200)) as server:
        assert "does not use TLS" in trouble(server.url.replace("http:", "https:")).message


def test_a_proxy_that_does_not_respond_is_named_without_its_password(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PASSWORD}@{closed}")
    error = trouble(ELSEWHERE)
    assert error.message == (
        f"registry.example cannot be reached: the proxy {closed} of HTTPS_PROXY does not respond: the connection was refused"
    )
    assert str(error.hint).startswith("check HTTPS_PROXY")


@pytest.mark.parametrize(
    ("status", "hint"), [(407, "needs a login: HTTPS_PROXY=http://NAME"), (403, "check HTTPS_PROXY")]
)
def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, status: int, hint: str) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PASSWORD}@{place}")
        error = trouble(ELSEWHERE)
        assert f"the proxy {place} of HTTPS_PROXY refuses: {status} " in error.message
        assert hint in str(error.hint)
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://me:{}@proxy:port", "HTTPS_PROXY is not one of a proxy"), ("ftp://me:{}@proxy:1", "HTTPS_PROXY is not one of a proxy"),
        ("http://", "HTTPS_PROXY is not one of a proxy"), ("socks5://me:{}@proxy:1", "the proxy proxy:1 of HTTPS_PROXY is a SOCKS proxy"),
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, address: str, words: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address.format(PASSWORD))
    assert words in trouble(ELSEWHERE).message


def test_a_host_of_no_proxy_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy:3128")
    assert str(proxy_of(ELSEWHERE)) == "the proxy proxy:3128 of HTTPS_PROXY"
    monkeypatch.setenv("NO_PROXY", "registry.example")
    assert proxy_of(ELSEWHERE) is None


def test_a_proxy_that_wants_a_login_for_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(Limits(clock=ManualClock()))
    with serving(lambda handler: handler.say(407)) as proxy:
        place = proxy.url.removeprefix("http://")
        monkeypatch.setenv("HTTP_PROXY", f"http://me:{PASSWORD}@{place}")
        with pytest.raises(UnreachableError, match=f"the proxy {place} of HTTP_PROXY refuses: 407") as caught:
            client.send("GET", "http://registry.example/v2/")
    client.close()
    assert "needs a login: HTTP_PROXY=http://NAME" in str(caught.value.hint)
    assert PASSWORD not in str(caught.value.as_json())
    assert len(proxy.seen) == 1
