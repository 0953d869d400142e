"""One request and its response, with an end: a connection that an exchange used up its time on is hung up.

A timeout of a socket sees silence alone. A server that sends one byte of a header now and then is never silent, so the
clock's alarm shuts the connection down, whatever the reading side waits for (TLS handshake included).

requests and urllib3 take a tenth of a second to import: a command that asks nobody does not wait for them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from builder import __version__
from builder.util.limits import Limits

if TYPE_CHECKING:
    import requests

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


@cache
def broken(*further: type[Exception]) -> tuple[type[Exception], ...]:
    """What requests and urllib3 raise when a connection does not hold, and `further` besides."""
    import requests
    import urllib3.exceptions

    return (*further, requests.RequestException, urllib3.exceptions.HTTPError, OSError)


@cache
def _session_type() -> type[requests.Session]:
    import requests
    import urllib3.connection
    import urllib3.connectionpool
    from requests.adapters import HTTPAdapter

    class Connection(_Watched, urllib3.connection.HTTPConnection):
        pass

    class SecureConnection(_Watched, urllib3.connection.HTTPSConnection):
        pass

    class Pool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **options)
            manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
            return manager

    class Session(requests.Session):
        def __init__(self, parallel: int) -> None:
            super().__init__()
            self.headers["User-Agent"] = f"overlay-image-builder/{__version__}"
            for scheme in ("http://", "https://"):
                self.mount(scheme, Adapter(pool_maxsize=parallel))

        def get_redirect_target(self, resp: requests.Response) -> None:
            """Nowhere: the client follows redirects itself. requests would read the whole body of one, however long it is."""

    return Session


def load_http() -> None:
    """Import what a first request needs, which takes longer than the request."""
    _session_type()


def open_session(parallel: int) -> requests.Session:
    """A session whose connections can be hung up, with up to `parallel` kept open for each host."""
    return _session_type()(parallel)  # type: ignore[call-arg]
