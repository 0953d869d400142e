"""One request and its response, with an end: a connection that an exchange used up its time on is hung up.

A timeout of a socket sees silence alone. A server that sends one byte of a header now and then is never silent, so the
clock's alarm shuts the connection down, whatever the reading side waits for (TLS handshake included).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import requests
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from builder import __version__
from builder.util.limits import Limits

BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What requests and urllib3 raise when a connection does not hold."""

_current: ContextVar[Watch | None] = ContextVar("watch", default=None)


class Watch:
    """The deadline of one exchange. `late` says that it has passed, and the connections were hung up."""

    def __init__(self, limits: Limits, seconds: float) -> None:
        self.late = False
        self._lines: list[socket.socket] = []
        self._cancel: Callable[[], None] = limits.clock.alarm(seconds, self._hang_up)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Connections that are made or used inside the block belong to this exchange."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def add(self, line: socket.socket) -> None:
        # A duplicate: TLS takes the first descriptor over, and urllib3 closes it before the body is read to its end.
        self._lines.append(socket.socket(fileno=os.dup(line.fileno())))
        if self.late:
            self._hang_up()

    def end(self) -> None:
        """The exchange is over in time."""
        self._cancel()
        while self._lines:
            self._lines.pop().close()

    def _hang_up(self) -> None:
        self.late = True
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


class _Watched:
    """What both kinds of urllib3 connections do besides: tell the current exchange which socket it uses."""

    sock: socket.socket | None

    def _new_conn(self) -> socket.socket:
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        watch = _current.get()
        if watch is not None:
            watch.add(made)
        return made

    def request(self, *arguments: Any, **options: Any) -> None:
        watch = _current.get()
        if watch is not None and self.sock is not None:
            watch.add(self.sock)
        super().request(*arguments, **options)  # type: ignore[misc]


class _Connection(_Watched, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: the client follows redirects itself. requests would read the whole body of one, however long it is."""


def open_session(parallel: int) -> requests.Session:
    """A session whose connections can be hung up, with up to `parallel` kept open for each host."""
    session = _Session()
    session.headers["User-Agent"] = f"overlay-image-builder/{__version__}"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(pool_maxsize=parallel))
    return session
