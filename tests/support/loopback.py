"""A server of one function on a loopback address, which notes what it is asked. 127.0.0.2 is another host to every client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Serve = Callable[[Any], None]


class Server:
    """What one host was asked, and how it responds: a function of the handler."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[str] = []
        self.url = ""
        self.over = threading.Event()


@contextmanager
def serving(serve: Serve, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(serve)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append((self.command, self.path, dict(self.headers)))
            server.bodies.append(self.body.decode("latin-1"))
            with suppress(OSError):
                server.serve(self)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  http.server's names

        def say(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer((host, 0), Handler)
    http.daemon_threads = True
    server.url = f"http://{host}:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        http.shutdown()
        http.server_close()
