"""A proxy on a loopback port that counts what passes: bytes in both directions, and HTTP requests.

It forwards bytes as they are, so that no program notices it. A request is told by its first line: the last bytes of each part are
looked at again with the next one, since a line may be divided between them. While a recording is asked for, it keeps what passes.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE) [^ \r\n]{1,4000} HTTP/1\.[01]\r\n")
_LONGEST = 4096
_PIECE = 1 << 18


@dataclass(frozen=True)
class Part:
    """Bytes that passed in one direction, and when."""

    at: float
    data: bytes = field(repr=False)


@dataclass
class Line:
    """One connection: what went to the server, and what came back."""

    out: list[Part] = field(default_factory=list)
    back: list[Part] = field(default_factory=list)


@dataclass
class Counter:
    """What passed so far. `recording` gets the connections that are made while it is a list."""

    bytes: int = 0
    requests: int = 0
    recording: list[Line] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def taken(self) -> tuple[int, int]:
        with self._lock:
            return self.bytes, self.requests

    def count(self, size: int, requests: int) -> None:
        with self._lock:
            self.bytes += size
            self.requests += requests


@contextmanager
def counting(host: str) -> Iterator[tuple[str, Counter]]:
    """`HOST:PORT` of a proxy for `host`, and its counter."""
    counter = Counter()
    name, _, port = host.partition(":")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        thread = threading.Thread(target=_accept, args=(server, (name, int(port)), counter), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", counter
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, target: tuple[str, int], counter: Counter) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        try:
            other = socket.create_connection(target)
        except OSError:
            client.close()
            continue
        for each in (client, other):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = Line()
        if counter.recording is not None:
            counter.recording.append(line)
        for source, sink, kept in ((client, other, line.out), (other, client, line.back)):
            forward = threading.Thread(
                target=_forward, args=(source, sink, counter, kept, kept is line.out, counter.recording is not None)
            )
            forward.daemon = True
            forward.start()


def _forward(
    source: socket.socket, sink: socket.socket, counter: Counter, passed: list[Part], asks: bool, keeping: bool
) -> None:
    kept = b""
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    with suppress(OSError):
        while size := source.recv_into(buffer):
            found = 0
            if asks:
                seen = kept + buffer[:size]
                matches = [each.end() for each in _REQUEST.finditer(seen)]
                found = len(matches)
                # What has been counted must not be seen again.
                kept = seen[max(matches[-1] if matches else 0, len(seen) - _LONGEST) :]
            counter.count(size, found)
            if keeping:
                passed.append(Part(time.perf_counter(), bytes(view[:size])))
            sink.sendall(view[:size])
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
