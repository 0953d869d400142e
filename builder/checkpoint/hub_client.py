"""The HTTP client that huggingface_hub uses while we ask the Hub: its own waits for ever, and obeys any `Retry-After`.

Every request, whichever function of huggingface_hub makes it, has the limits of `builder.util.limits`. What goes beyond is an
`UnreachableError`, which none of huggingface_hub's own retries takes for a reason to go on.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from threading import Event, Timer
from typing import Any

import httpx
from huggingface_hub.utils import _http

from builder.util.errors import UnreachableError
from builder.util.limits import LONGEST_WAIT, SIZE_LIMIT, TRIES, exchange_limit, pause_before, wait_limit

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


class HubClient(httpx.Client):
    """httpx with limits."""

    def __init__(self) -> None:
        super().__init__(
            event_hooks={"request": [_http.hf_request_event_hook], "response": [self._bound]}, follow_redirects=True
        )
        self._sockets: list[socket.socket] = []

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send `request`, again when the server is only tired. Raises `UnreachableError` for all that is no answer."""
        # huggingface_hub asks for no limit in one place and for ten seconds in another.
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), wait_limit())
        request.extensions["trace"] = self._remember
        where = f"{request.url.host} for {request.url.path}"
        for attempt in range(TRIES):
            last = attempt + 1 == TRIES
            wait = pause_before(attempt + 1)
            try:
                answer = self._once(request, options)
            except httpx.TimeoutException as error:
                raise UnreachableError(
                    f"the Hub does not answer within {exchange_limit():g} s, or is silent for {wait_limit():g} s",
                    details=[("where", where)],
                    hint="check the network, or HF_ENDPOINT; BUILDER_HTTP_TIMEOUT sets the longest silence",
                ) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if last or not isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                    raise UnreachableError(
                        f"the Hub does not answer: {type(error).__name__}",
                        details=[("where", where)],
                        hint="check the network, or HF_ENDPOINT",
                    ) from error
            else:
                if answer.status_code not in _AGAIN:
                    return answer
                answer.close()
                asked = answer.headers.get("retry-after", "")
                wait = max(wait, float(asked)) if asked.isdecimal() else wait
                if last or wait > LONGEST_WAIT:
                    raise UnreachableError(
                        f"the Hub answers {answer.status_code} {answer.reason_phrase}".rstrip(),
                        details=[("where", where)],
                        hint="wait, then try again"
                        + ("; with HF_TOKEN the limits are higher" * (answer.status_code == 429)),
                    )
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, request: httpx.Request, options: dict[str, Any]) -> httpx.Response:
        """One try. A server that sends its headers byte by byte is hung up on: no limit of httpx sees that."""
        late = Event()
        timer = Timer(exchange_limit(), self._hang_up, [late])
        timer.daemon = True
        timer.start()
        try:
            return super().send(request, **options)
        except httpx.TransportError as error:
            if late.is_set():
                raise httpx.ReadTimeout("the answer takes too long", request=request) from error
            raise
        finally:
            timer.cancel()

    def _hang_up(self, late: Event) -> None:
        late.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _remember(self, event: str, info: dict[str, Any]) -> None:
        """httpcore tells of every step; a step that has made a connection gives its stream."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            found = info["return_value"].get_extra_info("socket")
            if isinstance(found, socket.socket):
                self._sockets.append(found)

    def _bound(self, answer: httpx.Response) -> None:
        """Before its body is read: the body gets limits."""
        assert isinstance(answer.stream, httpx.SyncByteStream)  # noqa: S101  the client is not an asynchronous one
        answer.stream = _Bounded(answer.stream, exchange_limit())


class _Bounded(httpx.SyncByteStream):
    """A body that ends in time."""

    def __init__(self, stream: httpx.SyncByteStream, seconds: float) -> None:
        self._stream, self._end = stream, time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._stream:
            size += len(piece)
            if size > SIZE_LIMIT:
                raise UnreachableError(
                    f"the Hub's answer is larger than {SIZE_LIMIT >> 20} MiB", hint="check HF_ENDPOINT, then try again"
                )
            if time.monotonic() > self._end:
                raise httpx.ReadTimeout("the answer takes too long")
            yield piece

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def bounded_client() -> Iterator[None]:
    """While the block lasts, huggingface_hub asks through `HubClient`; the factory it had comes back afterwards."""
    # There is a way to set it and none to ask for it.
    before = _http._GLOBAL_CLIENT_FACTORY
    _http.set_client_factory(HubClient)
    try:
        yield
    finally:
        _http.set_client_factory(before)
