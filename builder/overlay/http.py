"""HTTP to GitHub with one policy: limits on every wait, bounded retries, redirects to known hosts only, no token elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import requests

from builder import __version__
from builder.errors import UnreachableError

_TRIES = 4
_SIZE_LIMIT = 64 << 20
_LONGEST_WAIT = 30.0
_KNOWN_HOSTS = frozenset({"github.com", "api.github.com", "patch-diff.githubusercontent.com"})


class NotAvailableError(UnreachableError):
    """This source cannot give what was asked for, though it answers: another source may."""

    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """A complete answer with status 200."""

    body: bytes
    content_type: str


def github_url() -> str:
    """Where pull requests and repositories are; `BUILDER_GITHUB_URL` sets it."""
    return (os.environ.get("BUILDER_GITHUB_URL") or "https://github.com").rstrip("/")


def api_url() -> str:
    """Where the API is; `BUILDER_GITHUB_API_URL` sets it."""
    return (os.environ.get("BUILDER_GITHUB_API_URL") or "https://api.github.com").rstrip("/")


def wait_limit() -> float:
    """The longest silence of a server, in seconds; `BUILDER_HTTP_TIMEOUT` sets it."""
    return float(os.environ.get("BUILDER_HTTP_TIMEOUT") or 60)


def _trusted(url: str) -> bool:
    """Whether a request may go to `url` at all: GitHub's hosts, and those that the user configured."""
    parts = urlsplit(url)
    configured = {urlsplit(each).netloc for each in (github_url(), api_url())}
    return parts.netloc in configured or (parts.scheme == "https" and parts.netloc in _KNOWN_HOSTS)


def _headers(url: str, accept: str) -> dict[str, str]:
    headers = {"User-Agent": f"overlay-image-builder/{__version__}", "Accept": accept}
    token = os.environ.get("GITHUB_TOKEN")
    # The token is for the API and for GitHub itself; a redirect to the host that serves diffs goes without it.
    if token and urlsplit(url).netloc in {urlsplit(each).netloc for each in (github_url(), api_url())}:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def fetch(url: str, accept: str) -> Answer:
    """GET a URL to its end.

    Raises `NotAvailableError` when the server says that it has or gives no such thing (403, 404, 406, 410, 422), and
    `UnreachableError` when it does not answer properly within the tries.
    """
    trouble: UnreachableError | None = None
    for attempt in range(_TRIES):
        # Nobody waits longer between two tries than for an answer.
        wait = min(0.3 * 2**attempt, _LONGEST_WAIT, wait_limit())
        try:
            outcome = _follow(url, accept)
        except requests.RequestException as error:
            trouble = UnreachableError(
                f"{urlsplit(url).netloc} does not answer: {type(error).__name__}", hint="check the network"
            )
        else:
            if isinstance(outcome, Answer):
                return outcome
            status, headers, said = outcome
            limited = status == 403 and headers.get("x-ratelimit-remaining") == "0"
            if status in (401, 403, 404, 406, 410, 422) and not limited:
                refused = NotAvailableError(
                    f"{urlsplit(url).netloc} answers {status} for {urlsplit(url).path}{said}", hint=_hint(status)
                )
                refused.status = status
                raise refused
            trouble = UnreachableError(
                f"{urlsplit(url).netloc} answers {status} for {urlsplit(url).path}",
                hint=_hint(403 if limited else status),
            )
            asked = _asked_wait(headers)
            if asked > _LONGEST_WAIT:
                break
            wait = max(wait, asked) if asked else wait
        if attempt + 1 < _TRIES:
            time.sleep(wait)
    assert trouble is not None  # noqa: S101  the loop ran
    raise trouble


def _follow(url: str, accept: str) -> Answer | tuple[int, Mapping[str, str], str]:
    """One try, redirects included: the answer, or status, headers and a short text."""
    for _ in range(5):
        if not _trusted(url):
            raise UnreachableError(
                f"refusing to follow a redirect to {urlsplit(url).netloc}",
                hint="only GitHub's own hosts and BUILDER_GITHUB_URL are asked",
            )
        limit = wait_limit()
        with requests.get(
            url, headers=_headers(url, accept), timeout=(min(15.0, limit), limit), stream=True, allow_redirects=False
        ) as answer:
            if answer.is_redirect:
                url = urljoin(url, answer.headers["Location"])
                continue
            headers = {name.lower(): value for name, value in answer.headers.items()}
            if answer.status_code != 200:
                return answer.status_code, headers, ""
            return Answer(_body(answer, limit), headers.get("content-type", ""))
    raise UnreachableError(f"too many redirects from {urlsplit(url).netloc}", hint="check BUILDER_GITHUB_URL")


def _body(answer: requests.Response, limit: float) -> bytes:
    """The body, complete: a server that trickles, stops early or never ends does not get through."""
    pieces: list[bytes] = []
    size = 0
    end = time.monotonic() + 10 * limit
    for piece in answer.iter_content(1 << 16):
        size += len(piece)
        pieces.append(piece)
        if size > _SIZE_LIMIT:
            raise UnreachableError(f"the answer is larger than {_SIZE_LIMIT >> 20} MiB", hint="this is no pull request")
        if time.monotonic() > end:
            raise requests.ReadTimeout("the answer takes too long")
    promised = answer.headers.get("Content-Length")
    if promised and promised.isdigit() and "Content-Encoding" not in answer.headers and size != int(promised):
        raise requests.ConnectionError("the answer is cut")
    return b"".join(pieces)


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks us to wait, by `Retry-After` or by the rate limit's reset."""
    value = headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    if value:
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return 0.0
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
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
