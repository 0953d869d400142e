"""An HTTP proxy in front of a registry that spoils chosen requests, each in a way that networks and proxies really do."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = (
    "drop", "lose-answer", "cut-answer", "cut-request", "delay", "repeat", "401", "429", "500", "wrong-digest",
    "wrong-range", "wrong-body",
)  # fmt: skip
_OTHER = "sha256:" + "0" * 64


@dataclass
class Plan:
    """Which request is spoiled, and how. `first` counts from 0; `lasting` spoils all that follow as well."""

    fault: str | None = None
    first: int = 0
    lasting: bool = False
    seen: int = 0
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, request: str) -> str | None:
        with self.lock:
            number = self.seen
            self.seen += 1
            self.requests.append(request)
        spoiled = number == self.first or (self.lasting and number >= self.first)
        return self.fault if spoiled else None


@contextmanager
def fault_proxy(backend: str, plan: Plan, *, delay: float = 1.5) -> Iterator[str]:
    """`HOST:PORT` of a proxy to `backend`. Several proxies can share a plan."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            fault = plan.next(f"{self.command} {self.path.split('?')[0]}")
            if fault == "drop":
                self.hang_up()
            elif fault in ("401", "429", "500"):
                self.answer(int(fault), [("Retry-After", "0"), ("Content-Length", "0")], b"")
            else:
                self.forward(body, fault)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  http.server's names

        def forward(self, body: bytes, fault: str | None) -> None:
            if fault == "cut-request" and body:
                self.send_half(body)
                self.hang_up()
                return
            if fault == "delay":
                time.sleep(delay)
            for _ in range(2 if fault == "repeat" else 1):
                connection = http.client.HTTPConnection(backend, timeout=20)
                headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
                received = answer.getheaders()
                connection.close()
            if fault == "lose-answer":
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
            self.answer(answer.status, headers_out, data, cut=fault == "cut-answer")

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            for key, value in headers:
                self.send_header(key, value.replace(backend, self.headers.get("Host", backend)))
            self.end_headers()
            try:
                self.wfile.write(data[: len(data) // 2] if cut else data)
            except OSError:
                self.close_connection = True
            if cut:
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
