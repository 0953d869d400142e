"""The one HTTP policy: every server is asked through `Client`.

It keeps the limits of `builder.util.limits` on silence, on a whole exchange and on size; it repeats what may be repeated,
after the pause that the server asks for; it follows redirects only where the caller allows them; and it sends an
Authorization header only to the URL that it is asked for, hop by hop.

urllib3's `Retry` is not used: it ends at the headers, so that a truncated body is not retried; it sleeps as long as a server
likes; and it reads dates and sleeps with a clock that no test can own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urljoin

from builder.net.address import host_of, origin
from builder.net.transport import Watch, broken, open_session
from builder.net.trouble import BadRedirectError, explain, login_of_proxy
from builder.util.errors import UnreachableError
from builder.util.limits import Limits
from builder.util.redact import without_secrets

if TYPE_CHECKING:
    import requests

ERROR_SIZE: Final = 64 << 10
"""Bytes that are read of a response that is not a success."""
_PIECE = 1 << 18
_REDIRECTS = 5
_REDIRECTION = 300
_PROXY_LOGIN = 407
_MOVED = frozenset({301, 302, 303, 307, 308})


class NoResponseError(UnreachableError):
    """The server did not respond properly in any attempt. `late`: it responds, but not before the deadline."""

    late = False


class RefusedError(UnreachableError):
    """The server responds, and does not give what was asked for; `status` is that of its last response."""

    status: int | None = None


@dataclass
class Response:
    """A response, with its body unless it is a stream. `url` is where it comes from, after redirects."""

    status: int
    url: str
    headers: Mapping[str, str]
    reason: str = ""
    body: bytes = field(default=b"", repr=False)

    def json(self) -> Any:
        """The body as JSON. Raises `ValueError`, also for JSON that is nested too deeply."""
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


@dataclass
class Stream(Response):
    """A response whose body is still to come: `chunks` may be taken once."""

    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()), repr=False)


def nobody(_url: str) -> str | None:
    """No authorization for anybody."""
    return None


def same_origin(before: str, target: str) -> bool:
    """Redirects within one host."""
    return origin(before) == origin(target)


def no_downgrade(before: str, target: str) -> bool:
    """Redirects to any host, but not from TLS to plain HTTP."""
    return origin(target)[0] in ("https", origin(before)[0])


def passes(response: Response) -> bool:
    """Whether a later attempt may get another response."""
    return response.status in (408, 429) or response.status >= 500


def retry_after(response: Response, now: float) -> float:
    """Seconds that a server asks to wait by `Retry-After`, a number or a date (RFC 9110); 0 for anything else."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now) if value else 0.0
    except (ValueError, OverflowError):
        return 0.0


@dataclass(frozen=True)
class Rules:
    """What differs between servers.

    `authorization` gives the header's value for the URL of each hop; `follows` says whether a GET or HEAD may be
    redirected from one URL to another; `passing` says which responses are worth another attempt.
    """

    authorization: Callable[[str], str | None] = nobody
    follows: Callable[[str, str], bool] = same_origin
    passing: Callable[[Response], bool] = passes
    asked_wait: Callable[[Response, float], float] = retry_after
    """Seconds that a response asks to wait, at a time in seconds since 1970."""
    hint: str = "check the network; BUILDER_HTTP_TIMEOUT sets the longest silence in seconds"


class Client:
    """Connections to servers of one kind. Threads may share it."""

    def __init__(self, limits: Limits, rules: Rules = Rules(), *, parallel: int = 8) -> None:
        self.limits = limits
        self.rules = rules
        self._parallel = parallel
        self._kept: requests.Session | None = None
        self._opening = Lock()

    def _session(self) -> requests.Session:
        """Opened by the first request, once for all threads."""
        with self._opening:
            if self._kept is None:
                self._kept = open_session(self._parallel)
            return self._kept

    def close(self) -> None:
        """Close the connections that are kept open."""
        if self._kept is not None:
            self._kept.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        attempts: int | None = None,
        size: int | None = None,
        rules: Rules | None = None,
    ) -> Response:
        """One request, with the body of its response: at most `size` bytes of a success.

        By default that is the limits' size for a GET; of other responses, as of errors, only the first bytes are kept.

        A GET or HEAD is attempted as often as the limits say, anything else `attempts` times (by default once). The last
        response is returned whatever its status. `data` is bytes or an iterable of them with a length. Raises `NoResponseError` without one, `UnreachableError` for a redirect
        that is not followed or a body that is too large.
        """
        rules = rules or self.rules
        kept = size is not None or method == "GET"
        limit = self.limits.size if size is None else size

        def once(_watch: Watch) -> Response:
            with self._hops(method, url, headers, data, rules) as raw:
                response = _response(raw)
                wanted = kept and raw.status_code < _REDIRECTION
                response.body = b"".join(_read(raw, limit if wanted else ERROR_SIZE, exact=wanted))
                return response

        seconds = len(data) / self.limits.slowest if data is not None else 0.0
        response: Response = self._attempts(method, url, attempts, rules, once, seconds=seconds)
        return response

    @contextmanager
    def stream(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        size: int,
        rules: Rules | None = None,
    ) -> Iterator[Stream]:
        """A GET whose body is read by the caller, in chunks and as it is stored, at most `size` bytes of it.

        Its deadline grows with `size`. Raises as `send` does; taking chunks raises `NoResponseError` when the body is
        truncated, silent or late. The body of an error is in `body`.
        """
        rules = rules or self.rules
        kept: list[tuple[Watch, AbstractContextManager[requests.Response]]] = []

        def once(watch: Watch) -> Stream:
            hops = self._hops("GET", url, headers, None, rules)
            raw = hops.__enter__()
            found = Stream(**vars(_response(raw)))
            if raw.status_code < _REDIRECTION:
                found.chunks = self._chunks(raw, url, size, watch)
                kept[:] = [(watch, hops)]
                return found
            try:
                found.body = b"".join(_read(raw, ERROR_SIZE, exact=False))
            finally:
                hops.__exit__(None, None, None)
            return found

        try:
            yield self._attempts("GET", url, None, rules, once, seconds=size / self.limits.slowest)
        finally:
            for watch, hops in kept:
                hops.__exit__(None, None, None)
                watch.end()

    def _chunks(self, raw: requests.Response, url: str, size: int, watch: Watch) -> Iterator[bytes]:
        taken = 0
        try:
            for chunk in raw.raw.stream(_PIECE, decode_content=False):
                taken += len(chunk)
                if taken > size:
                    # One byte too many is enough to see it; the caller judges what it wanted.
                    yield chunk
                    return
                yield chunk
        except broken() as error:
            self._broken(url, error, watch)
        if watch.late:
            self._broken(url, None, watch)

    def _attempts(
        self,
        method: str,
        url: str,
        attempts: int | None,
        rules: Rules,
        once: Callable[[Watch], Response],
        *,
        seconds: float = 0.0,
    ) -> Any:
        limits = self.limits
        attempts = attempts or (limits.attempts if method in ("GET", "HEAD") else 1)
        for attempt in range(1, attempts + 1):
            wait = limits.pause(attempt)
            watch = Watch(limits, limits.exchange + seconds)
            open_ended = False
            try:
                with watch.watching():
                    response = once(watch)
                if watch.late:
                    self._broken(url, None, watch)
                open_ended = isinstance(response, Stream) and response.status < _REDIRECTION
            except NoResponseError as error:
                if attempt == attempts or error.late:
                    raise
            except broken(ValueError) as error:
                # A ValueError comes from urllib3 and requests for addresses that they cannot read.
                if attempt == attempts or watch.late:
                    self._broken(url, error, watch)
            else:
                asked = rules.asked_wait(response, limits.clock.wall())
                if not rules.passing(response) or attempt == attempts or asked > limits.longest_wait:
                    return response
                wait = max(wait, asked)
            finally:
                if not open_ended:
                    watch.end()
            limits.clock.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _hops(
        self, method: str, url: str, headers: Mapping[str, str] | None, data: Any, rules: Rules
    ) -> Iterator[requests.Response]:
        """The response behind all redirects."""
        first = url
        for _ in range(_REDIRECTS + 1):
            with self._hop(method, url, headers, data, rules) as raw:
                if raw.status_code == _PROXY_LOGIN and (trouble := login_of_proxy(url)) is not None:
                    raise UnreachableError(trouble.message, hint=trouble.hint)
                if method not in ("GET", "HEAD") or raw.status_code not in _MOVED or "Location" not in raw.headers:
                    yield raw
                    return
                # Read to its end, a connection can be used again.
                for _chunk in _read(raw, ERROR_SIZE, exact=False):
                    pass
                target = urljoin(url, raw.headers["Location"])
            if not origin(target)[1]:
                raise BadRedirectError("a redirect to something that is not an address")
            if not rules.follows(url, target):
                scheme, host, _ = origin(target)
                raise UnreachableError(
                    f"refusing to follow a redirect to {scheme}://{host}",
                    details=[("from", f"{host_of(url)}{_path(url)}")],
                    hint="the server, or a proxy before it, sends requests elsewhere: check the address",
                )
            url = target
        raise UnreachableError(f"too many redirects from {host_of(first)}", hint="check the address")

    def _hop(
        self, method: str, url: str, headers: Mapping[str, str] | None, data: Any, rules: Rules
    ) -> requests.Response:
        authorization = rules.authorization(url)
        extra = {"Authorization": authorization} if authorization else {}
        return self._session().request(
            method, url, headers={**(headers or {}), **extra}, data=data, stream=True, allow_redirects=False,
            timeout=(self.limits.connect, self.limits.silence), auth=_as_it_is,
        )  # fmt: skip

    def _broken(self, url: str, error: Exception | None, watch: Watch) -> NoReturn:
        if watch.late:
            problem = f"{host_of(url)} does not respond: the response takes longer than {self.limits.exchange:g} s"
            found = NoResponseError(problem, hint=self.rules.hint)
        else:
            trouble = explain(error, url)
            found = NoResponseError(trouble.message, hint=trouble.hint or self.rules.hint)
        found.late = watch.late
        raise found from error


def error_text(response: Response) -> str:
    """What a JSON API says of an error, for a message: printable, short, without a name and password in addresses."""
    try:
        errors = response.json()["errors"]
        text = "; ".join(f"{each.get('code')}: {each.get('message')}" for each in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = response.reason or "nothing"
    return without_secrets("".join(each if each.isprintable() else "?" for each in text[:300]))


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Left to itself, requests sends the password that ~/.netrc or the address has for a host."""
    return request


def _response(raw: requests.Response) -> Response:
    return Response(raw.status_code, raw.url, raw.headers, raw.reason or "")


def _read(raw: requests.Response, limit: int, *, exact: bool) -> Iterator[bytes]:
    """The body, at most `limit` bytes. With `exact`, one that is larger is an error; else the rest is left."""
    size = 0
    for chunk in raw.raw.stream(_PIECE, decode_content=True):
        size += len(chunk)
        if size > limit:
            if exact:
                raise UnreachableError(
                    f"the response of {host_of(raw.url)} is larger than {_amount(limit)}",
                    hint="is another service, or a proxy, at this address?",
                )
            return
        yield chunk


def _amount(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"


def _path(url: str) -> str:
    return "/" + url.partition("://")[2].partition("/")[2].partition("?")[0]
