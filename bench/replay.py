"""A program's HTTP requests again, bare: the same bytes on as many connections, by nothing but sockets.

What the proxy has kept of each connection is taken apart into requests. One begins in the replay when every request has its response
that had it before this one began. An upload's address is the registry's own, so that it is taken from the responses of the replay.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from bench.proxy import Line, Part

_UPLOAD = re.compile(rb"/blobs/uploads/([0-9a-f-]{36})")
_DIGEST = re.compile(rb"[?&](digest=[^ &]+)")


@dataclass
class Request:
    """One request of a recording. `opened` is the upload that its response names; times are in seconds."""

    line: int
    method: bytes
    path: bytes
    headers: bytes
    body: bytes = field(repr=False)
    begun: float
    ended: float
    opened: bytes

    @property
    def upload(self) -> bytes:
        found = _UPLOAD.search(self.path)
        return found[1] if found is not None else b""


def requests_of(lines: Sequence[Line]) -> list[Request]:
    """The requests of all connections, in the order in which they began."""
    found = [each for number, line in enumerate(lines) for each in _of_line(number, line)]
    return sorted(found, key=lambda each: each.begun)


def _of_line(number: int, line: Line) -> list[Request]:
    out, back = (b"".join(part.data for part in parts) for parts in (line.out, line.back))
    found: list[Request] = []
    here = there = 0
    while here < len(out):
        stop = out.index(b"\r\n\r\n", here) + 4
        first, _, headers = out[here : stop - 2].partition(b"\r\n")
        method, path, _ = first.split(b" ", 2)
        size = _length(headers)
        answered = back.index(b"\r\n\r\n", there) + 4
        answer = back[there:answered]
        status = int(answer.split(b" ", 2)[1])
        bare = method == b"HEAD" or status in (204, 304)
        end = answered + (0 if bare else _body(back, answered, answer))
        opened = _UPLOAD.search(_header(answer, b"location"))
        found.append(
            Request(
                number, method, path, headers, out[stop : stop + size], _when(line.out, here), _when(line.back, end - 1),
                opened[1] if opened is not None else b"",
            )
        )  # fmt: skip
        here, there = stop + size, end
    return found


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?im)^" + name + rb": *([^\r\n]*)\r$", head)
    return found[1] if found is not None else b""


def _length(head: bytes) -> int:
    return int(_header(head, b"content-length") or 0)


def _body(data: bytes, at: int, head: bytes) -> int:
    """The bytes of a response's body in `data` from `at` on."""
    if _header(head, b"transfer-encoding").lower() != b"chunked":
        return _length(head)
    here = at
    while True:
        end = data.index(b"\r\n", here) + 2
        size = int(data[here : end - 2], 16)
        here = end + size + 2
        if not size:
            return here - at


def _when(parts: Sequence[Part], place: int) -> float:
    """When the byte at `place` of a direction passed."""
    for part in parts:
        place -= len(part.data)
        if place < 0:
            return part.at
    return parts[-1].at


def replay(requests: Sequence[Request], host: str, before: str, now: str) -> None:
    """Send all of it to `host`, to the repository `now` where it went to `before`. Raises `RuntimeError` for a refusal."""
    done = [threading.Event() for _ in requests]
    uploads: dict[bytes, bytes] = {}
    failures: list[BaseException] = []
    older = [[j for j, other in enumerate(requests) if other.ended <= each.begun] for each in requests]

    def work(line: int) -> None:
        name, _, port = host.partition(":")
        with socket.create_connection((name, int(port))) as connection, connection.makefile("rb") as answers:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, each in enumerate(requests):
                if each.line != line:
                    continue
                for waited in older[number]:
                    done[waited].wait()
                try:
                    status, location = _ask(connection, answers, each, host, _path(each, before, now, uploads))
                    if each.opened:
                        uploads[each.opened] = location
                    if status >= 400 and status != 404:
                        raise RuntimeError(f"{each.method.decode()} {each.path.decode()}: {status}")
                except BaseException as error:  # noqa: BLE001  raised below
                    failures.append(error)
                done[number].set()

    threads = [threading.Thread(target=work, args=(line,)) for line in {each.line for each in requests}]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError("the replay was refused") from failures[0]


def _path(each: Request, before: str, now: str, uploads: dict[bytes, bytes]) -> bytes:
    if not each.upload:
        return each.path.replace(before.encode(), now.encode())
    location = uploads[each.upload]
    digest = _DIGEST.search(each.path)
    return location + (b"&" if b"?" in location else b"?") + digest[1] if digest is not None else location


def _ask(connection: socket.socket, answers: BinaryIO, each: Request, host: str, path: bytes) -> tuple[int, bytes]:
    """The status of a response, and where it leads to."""
    path = re.sub(rb"^https?://[^/]+", b"", path)
    headers = re.sub(rb"(?im)^host:[^\r\n]*", b"Host: " + host.encode(), each.headers)
    connection.sendall(each.method + b" " + path + b" HTTP/1.1\r\n" + headers + b"\r\n")
    if each.body:
        connection.sendall(each.body)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += answers.readline() or b"\r\n\r\n"
    status = int(head.split(b" ", 2)[1])
    if each.method != b"HEAD" and status not in (204, 304):
        if _header(head, b"transfer-encoding").lower() == b"chunked":
            while size := int(answers.readline(), 16):
                answers.read(size + 2)
            answers.readline()
        else:
            answers.read(_length(head))
    return status, _header(head, b"location")
