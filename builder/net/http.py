"""HTTP to GitHub with one policy: limits on every wait, bounded retries, redirects to known hosts only, no token elsewhere."""

from __future__ import annotations

import base64
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests

from builder import __version__
from builder.util.errors import InputError, UnreachableError
from builder.util.limits import LONGEST_WAIT, SIZE_LIMIT, TRIES, exchange_limit, pause_before, wait_limit

Result = TypeVar("Result")


_REDIRECTS = 5
_KNOWN_ORIGINS = frozenset(
    ("https", host) for host in ("github.com", "api.github.com", "patch-diff.githubusercontent.com")
)
GIT_SERVICE = "/info/refs?service=git-upload-pack"
"""What git asks a repository's address for first."""
_NOT_TO_BE_HAD = (401, 403, 404, 406, 410, 422)


class RefusedError(UnreachableError):
    """The server answers, and does not give what was asked for; `status` is its last one."""

    status: int | None = None


class NotAvailableError(RefusedError):
    """This source cannot give what was asked for, though it answers: another source may."""


@dataclass(frozen=True)
class Answer:
    """A complete answer with status 200."""

    body: bytes


def github_url() -> str:
    """Where pull requests and repositories are; `BUILDER_GITHUB_URL` sets it. Raises `InputError` when it is no address."""
    # git alone can read from the last two.
    return _address("BUILDER_GITHUB_URL", "https://github.com", ("https", "http", "ssh", "file"))


def api_url() -> str:
    """Where the API is; `BUILDER_GITHUB_API_URL` sets it. Raises `InputError` when it is no address."""
    return _address("BUILDER_GITHUB_API_URL", "https://api.github.com", ("https", "http"))


def _address(variable: str, usual: str, schemes: tuple[str, ...]) -> str:
    given = os.environ.get(variable) or usual
    text = given.rstrip("/")
    try:
        parts = urlsplit(text)
        _ = parts.port  # a ValueError when it is none
        sound = parts.scheme in schemes and (parts.hostname is not None or parts.scheme == "file")
    except ValueError:
        sound = False
    # urlsplit takes line ends out, and what is appended to a query is no path.
    if not sound or not text.isprintable() or any(sign in text for sign in " ?#"):
        raise InputError(f"{variable} is {without_secrets(given)!r}", hint=f"give an address, such as {usual}")
    return text


def github_token() -> str | None:
    """`GITHUB_TOKEN` without white space around it. Raises `InputError` when it cannot stand in a header."""
    token = os.environ.get("GITHUB_TOKEN", "").strip()
    if not all("!" <= sign <= "~" for sign in token):
        raise InputError(
            "GITHUB_TOKEN has signs that no token has", hint="give the token alone, without quotes or line ends"
        )
    return token or None


def without_secrets(text: str) -> str:
    """The text without the token, and without a user's name and password in addresses."""
    token = os.environ.get("GITHUB_TOKEN", "").strip()
    text = re.sub(r"://[^/\s]*@", "://", text)
    return text.replace(token, "***") if token else text


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _ours(url: str) -> bool:
    """Whether `url` is at GitHub or its API, by the same protocol: the token is for these alone."""
    return _origin(url) in {_origin(github_url()), _origin(api_url())}


def _headers(url: str, accept: str) -> dict[str, str]:
    headers = {"User-Agent": f"overlay-image-builder/{__version__}", "Accept": accept}
    token = github_token()
    # A redirect to the host that serves diffs goes without it.
    if token and _ours(url):
        headers["Authorization"] = basic(token) if url.endswith(GIT_SERVICE) else f"Bearer {token}"
    return headers


def basic(token: str) -> str:
    """The token as GitHub wants it for git: with a name, as a password."""
    return f"Basic {base64.b64encode(f'x-access-token:{token.strip()}'.encode()).decode()}"


def fetch(url: str, accept: str) -> Answer:
    """GET a URL to its end.

    Raises `NotAvailableError` when the server says that it has or gives no such thing (401, 403, 404, 406, 410,
    422), `RefusedError` when it answers with another status every time, and `UnreachableError` when it does not answer
    properly within the tries.
    """
    return _persist(url, lambda: _follow(url, accept))


def _persist(url: str, call: Callable[[], Result | tuple[int, Mapping[str, str]]]) -> Result:
    """The result of a call that asks for `url`, of as many tries as it takes; raises as `fetch` does."""
    trouble: UnreachableError | None = None
    asked = 0.0
    for attempt in range(TRIES):
        if attempt:
            time.sleep(max(asked, pause_before(attempt)))
        asked = 0.0
        try:
            outcome = _in_time(call)
        except requests.RequestException as error:
            trouble = UnreachableError(
                f"{urlsplit(url).hostname} does not answer: {_said(error)}", hint="check the network"
            )
            continue
        if not isinstance(outcome, tuple):
            return outcome
        status, headers = outcome
        asked = _asked_wait(headers)
        limited = status == 403 and (asked > 0 or headers.get("x-ratelimit-remaining") == "0")
        said = f"{urlsplit(url).hostname} answers {status} for {urlsplit(url).path}"
        if status in _NOT_TO_BE_HAD and not limited:
            refused: RefusedError = NotAvailableError(said, hint=_hint(status))
            refused.status = status
            raise refused
        refused = RefusedError(f"{said}{f', and asks to wait {asked:.0f} s' if asked else ''}", hint=_hint(status))
        refused.status, trouble = status, refused
        if asked > LONGEST_WAIT:
            break
    assert trouble is not None  # noqa: S101  the loop ran
    raise trouble


def final_address(url: str) -> str:
    """Where a GET of `url` ends after its redirects, as soon as the server is ready to answer it; the answer is not read.

    Raises as `fetch` does, `UnreachableError` too where a redirect leads to somebody else, and `NotAvailableError` where
    the server's certificate is not trusted: another client may have others.
    """

    def look(answer: requests.Response) -> str | tuple[int, Mapping[str, str]]:
        if answer.status_code == 200:
            return answer.url
        return answer.status_code, {name.lower(): value for name, value in answer.headers.items()}

    def go() -> str | tuple[int, Mapping[str, str]]:
        try:
            return _step(url, "*/*", look)
        except requests.exceptions.SSLError as error:
            raise NotAvailableError(f"the certificate of {urlsplit(url).hostname} is not trusted") from error

    return _persist(url, go)


def _said(error: requests.RequestException) -> str:
    return str(error) if isinstance(error, _SlowError) else type(error).__name__


class _SlowError(requests.Timeout):
    """The server keeps on sending, but too slowly."""


def _in_time(call: Callable[[], Result]) -> Result:
    """The call's result within the limit of an exchange.

    A server that sends a byte of a header now and then is never silent, and no timeout of a socket ends it. The thread
    that still listens to it is left alone; it does not keep the program from ending.
    """
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:  # noqa: BLE001  raised again where the answer is waited for
            answers.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    limit = exchange_limit()
    try:
        good, found = answers.get(timeout=limit)
    except Empty as error:
        raise _SlowError(f"the answer takes longer than {limit:g} s") from error
    if not good:
        raise found
    result: Result = found
    return result


def _follow(url: str, accept: str) -> Answer | tuple[int, Mapping[str, str]]:
    """One try, redirects included: the answer, or status and headers."""

    def read(answer: requests.Response) -> Answer | tuple[int, Mapping[str, str]]:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if answer.status_code != 200:
            return answer.status_code, headers
        return Answer(_body(answer))

    return _step(url, accept, read)


def _step(url: str, accept: str, end: Callable[[requests.Response], Result]) -> Result:
    """What `end` makes of the answer behind all redirects. No redirect leads to a host that is not known."""
    for _ in range(_REDIRECTS):
        if not _ours(url) and _origin(url) not in _KNOWN_ORIGINS:
            scheme, host = _origin(url)
            raise UnreachableError(
                f"refusing to follow a redirect to {scheme}://{host.rsplit('@', 1)[-1]}",
                hint="only GitHub's own hosts and BUILDER_GITHUB_URL are asked",
            )
        headers = _headers(url, accept)
        # Left to itself, requests prefers the password that ~/.netrc or the address has for this host.
        auth = _as_it_is if "Authorization" in headers else None
        try:
            with requests.get(
                url, headers=headers, auth=auth, timeout=(min(15.0, wait_limit()), wait_limit()), stream=True,
                allow_redirects=False,
            ) as answer:  # fmt: skip
                if not answer.is_redirect:
                    return end(answer)
                url = urljoin(url, answer.headers["Location"])
        except requests.RequestException:
            raise
        except ValueError as error:
            # Also from requests itself, which looks at the place before anybody asks it to go there.
            raise requests.exceptions.InvalidURL("a redirect to no address") from error
    raise UnreachableError(f"too many redirects from {urlsplit(url).hostname}", hint="check BUILDER_GITHUB_URL")


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _body(answer: requests.Response) -> bytes:
    """The body, complete: a server that stops early or never ends does not get through."""
    pieces: list[bytes] = []
    size = 0
    for piece in answer.iter_content(1 << 16):
        size += len(piece)
        pieces.append(piece)
        if size > SIZE_LIMIT:
            raise UnreachableError(f"the answer is larger than {SIZE_LIMIT >> 20} MiB", hint="this is no pull request")
    promised = answer.headers.get("Content-Length")
    if promised and promised.isdecimal() and "Content-Encoding" not in answer.headers and size != int(promised):
        raise requests.ConnectionError("the answer is cut")
    return b"".join(pieces)


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks us to wait, by `Retry-After` or by the rate limit's reset."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    if value:
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            return 0.0
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return max(0.0, float(reset) - time.time())
    return 0.0


def _hint(status: int) -> str:
    return {
        401: "GITHUB_TOKEN is not valid",
        403: "set GITHUB_TOKEN, or wait until the rate limit is over",
        404: "check the number; a private repository needs GITHUB_TOKEN",
        406: "the diff is too large for GitHub's API; git is asked instead",
        429: "set GITHUB_TOKEN, or wait a few minutes",
    }.get(status, "wait and try again")
