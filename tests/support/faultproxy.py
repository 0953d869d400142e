"""An HTTP proxy in front of a registry that spoils chosen requests, each in a way that networks and proxies really do."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOST = ("drop", "lose-response", "truncated-response", "truncated-request", "late", "repeat")
WRONG = ("401", "429", "500", "wrong-digest", "wrong-range", "wrong-body")
_OTHER = "sha256:" + "0" * 64


@dataclass
class Plan:
    """Which request is spoiled, and how. `first` counts from 0; `lasting` spoils all that follow as well."""

    fault: str | None = None
    first: int = 0
    lasting: bool = False
    seen: int = 0
    requests: list[str] = field(default_factory=list)
    lock: threading.Condition = field(default_factory=threading.Condition)

    def after(self, number: int) -> None:
        """Wait until another request has come than the first `number`, or none comes any more."""
        with self.lock:
            self.lock.wait_for(lambda: self.seen > number, timeout=0.3)

    def next(self, request: str) -> str | None:
        with self.lock:
            number = self.seen
            self.seen += 1
            self.requests.append(request)
            self.lock.notify_all()
        spoiled = number == self.first or (self.lasting and number >= self.first)
        return self.fault if spoiled else None


@contextmanager
def fault_proxy(backend: str, plan: Plan) -> Iterator[str]:
    """`HOST:PORT` of a proxy to `backend`. Several proxies can share a plan."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            fault = plan.next(f"{self.command} {self.path.split('?')[0]}")
            number = plan.seen
            if fault == "drop":
                self.hang_up()
            elif fault in ("401", "429", "500"):
                self.answer(int(fault), [("Retry-After", "0"), ("Content-Length", "0")], b"")
            elif fault == "late":
                # The client has given up, and perhaps asked again, before the registry sees the request.
                self.hang_up()
                plan.after(number)
                self.ask(body)
            else:
                self.forward(body, fault)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  http.server's names

        def forward(self, body: bytes, fault: str | None) -> None:
            if fault == "truncated-request" and body:
                self.send_half(body)
                self.hang_up()
                return
            for _ in range(2 if fault == "repeat" else 1):
                status, received, data = self.ask(body)
            if fault == "lose-response":
                self.hang_up()
                return
            headers_out = [pair for pair in received if pair[0].lower() not in ("connection", "transfer-encoding")]
            if fault == "wrong-digest":
                headers_out = [(k, _OTHER if k.lower() == "docker-content-digest" else v) for k, v in headers_out]
            if fault == "wrong-range":
                headers_out = [(k, "0-3" if k.lower() == "range" else v) for k, v in headers_out]
                headers_out = [(k, "bytes 1-3/9" if k.lower() == "content-range" else v) for k, v in headers_out]
            if fault == "wrong-body" and data:
                data = bytes([data[0] ^ 1]) + data[1:]
            self.answer(status, headers_out, data, truncated=fault == "truncated-response")

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """Put the request to the registry."""
            connection = http.client.HTTPConnection(backend, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            return response.status, response.getheaders(), data

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, truncated: bool = False) -> None:
            self.send_response_only(status)
            for key, value in headers:
                self.send_header(key, value.replace(backend, self.headers.get("Host", backend)))
            self.end_headers()
            try:
                self.wfile.write(data[: len(data) // 2] if truncated else data)
            except OSError:
                self.close_connection = True
            if truncated:
                self.hang_up()

        def send_half(self, body: bytes) -> None:
            """Half of the body reaches the registry, then the line is dead."""
            host, _, port = backend.partition(":")
            with socket.create_connection((host, int(port)), timeout=20) as line:
                head = f"{self.command} {self.path} HTTP/1.1\r\n"
                head += "".join(f"{key}: {value}\r\n" for key, value in self.headers.items())
                line.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])

        def hang_up(self) -> None:
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
