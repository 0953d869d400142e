"""Asking GitHub over HTTP: its addresses, its token, the hosts that its redirects may lead to, and what its statuses mean."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from builder.net.address import Address, basic, host_of, origin, parse_address
from builder.net.client import Client, NoResponseError, RefusedError, Response, Rules, passes, retry_after
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.redact import without_secrets

_KNOWN_ORIGINS = frozenset(
    ("https", host, 443) for host in ("github.com", "api.github.com", "patch-diff.githubusercontent.com")
)
GIT_SERVICE = "/info/refs?service=git-upload-pack"
"""What git asks a repository's address for first."""
_MOST_TOLD = 200
_UNAVAILABLE = (401, 403, 404, 406, 410, 422)


class NotAvailableError(RefusedError):
    """This source responds, and cannot give what was asked for: another source may."""


def github_url() -> str:
    """Where pull requests and repositories are, without a name and password; `BUILDER_GITHUB_URL` sets it.

    Raises `InputError` when it is not an address.
    """
    return _github().url


def api_url() -> str:
    """Where the API is: that of `github_url()`, unless `BUILDER_GITHUB_API_URL` sets it.

    Raises `InputError` when it is not an address.
    """
    return _api().url


def _github() -> Address:
    # git alone can read from the last two.
    return _address("BUILDER_GITHUB_URL", "https://github.com", ("https", "http", "ssh", "file"))


def _api() -> Address:
    return _address("BUILDER_GITHUB_API_URL", _api_of(_github().url), ("https", "http"))


def _api_of(url: str) -> str:
    """The API of the GitHub at `url`: another one has other pull requests under the same numbers, and its own tokens.

    GitHub Enterprise Server has it below its own address, GitHub Enterprise Cloud with data residency at a host of its own
    (docs.github.com, "Getting started with the REST API").
    """
    scheme, host, _ = origin(url)
    if scheme not in ("http", "https"):
        host = host_of(url)
    # A folder has no API; what is in it is taken for a mirror.
    if scheme == "file" or host in ("github.com", "www.github.com", "ssh.github.com"):
        return "https://api.github.com"
    if host.endswith(".ghe.com"):
        return f"https://api.{host}"
    return f"{url if scheme in ('http', 'https') else f'https://{host}'}/api/v3"


def _address(variable: str, usual: str, schemes: tuple[str, ...]) -> Address:
    given = os.environ.get(variable) or usual
    found = parse_address(given, schemes)
    if found is None:
        raise InputError(f"{variable} is {without_secrets(given)!r}", hint=f"give an address, such as {usual}")
    return found


def github_token() -> str | None:
    """`GITHUB_TOKEN` without white space around it. Raises `InputError` when a header cannot contain it."""
    token = os.environ.get("GITHUB_TOKEN", "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise InputError(
            "GITHUB_TOKEN has characters that no token has",
            hint="give the token alone, without quotes or line endings",
        )
    return token or None


def redacted(text: str) -> str:
    """The text without the token, and without a name and password in addresses."""
    return without_secrets(text, os.environ.get("GITHUB_TOKEN", "").strip())


def authorization(url: str) -> str | None:
    """The Authorization header for a URL: for GitHub and its API alone, by the same protocol.

    The token comes first, then the name and password of the configured address, then ~/.netrc.
    """
    from requests.utils import get_netrc_auth

    token = github_token()
    for place in (_github(), _api()):
        if place.url.startswith("http") and origin(url) == origin(place.url):
            if token:
                return git_authorization(token) if url.endswith(GIT_SERVICE) else f"Bearer {token}"
            netrc = get_netrc_auth(url)
            return place.basic or (basic(*netrc) if netrc else None)
    return None


def git_authorization(token: str) -> str:
    """The token as GitHub wants it for git: with a name, as a password."""
    return f"Basic {base64.b64encode(f'x-access-token:{token}'.encode()).decode()}"


def git_header() -> str | None:
    """The Authorization header that git itself sends to `github_url()`."""
    token, place = github_token(), _github()
    if not place.url.startswith("http"):
        return None
    return git_authorization(token) if token else place.basic


def _follows(_before: str, target: str) -> bool:
    """Redirects lead to GitHub's own hosts, or to the configured one."""
    return origin(target) in {origin(github_url()), origin(api_url()), *_KNOWN_ORIGINS}


def _asked_wait(response: Response, now: float) -> float:
    """Seconds that GitHub asks to wait, by `Retry-After` or by the rate limit's reset."""
    reset = response.headers.get("X-RateLimit-Reset", "")
    if "Retry-After" not in response.headers and _is_limited(response) and reset.isdecimal():
        return max(0.0, float(reset) - now)
    return retry_after(response, now)


def _is_limited(response: Response) -> bool:
    return response.headers.get("X-RateLimit-Remaining") == "0"


def _passes(response: Response) -> bool:
    if response.status == 403:
        return _is_limited(response) or "Retry-After" in response.headers
    return passes(response)


_RULES = Rules(
    authorization=authorization, follows=_follows, passing=_passes, asked_wait=_asked_wait,
    hint="check the network, or BUILDER_GITHUB_URL; BUILDER_HTTP_TIMEOUT sets the longest silence in seconds",
)  # fmt: skip


@contextmanager
def _client(context: Context) -> Iterator[Client]:
    client = Client(context.limits, _RULES, parallel=1)
    try:
        yield client
    finally:
        client.close()


def fetch(url: str, accept: str, *, context: Context) -> bytes:
    """The body of a GET.

    Raises `NotAvailableError` when the server has or gives no such thing (401, 403, 404, 406, 410, 422), `RefusedError`
    when it responds with another status in every attempt, `UnreachableError` when it does not respond properly.
    """
    with _client(context) as client:
        response = client.send("GET", url, headers={"Accept": accept})
    _expect(response, url, context)
    return response.body


def final_address(url: str, *, context: Context) -> str:
    """Where a GET of `url` ends after its redirects. The body is not read.

    Raises as `fetch` does, `UnreachableError` too where a redirect leads to somebody else, and `NotAvailableError` where
    the server's certificate is not trusted: another client may have other certificates.
    """
    try:
        with _client(context) as client, client.stream(url, headers={"Accept": "*/*"}, size=0) as response:
            _expect(response, url, context)
            return response.url
    except NoResponseError as error:
        import requests

        if isinstance(error.__cause__, requests.exceptions.SSLError):
            raise NotAvailableError(f"the certificate of {host_of(url)} is not trusted") from error
        raise


def _expect(response: Response, url: str, context: Context) -> None:
    status = response.status
    if status == 200:
        return
    asked = _asked_wait(response, context.limits.clock.wall())
    message = f"{host_of(url)} responds {status} for {urlsplit(url).path}{_told(response)}"
    if status in _UNAVAILABLE and not _passes(response):
        refused: RefusedError = NotAvailableError(message, hint=_hint(response))
    else:
        refused = RefusedError(f"{message}{f', and asks to wait {asked:.0f} s' if asked else ''}", hint=_hint(response))
    refused.status = status
    raise refused


def _told(response: Response) -> str:
    """What the API gives as its reason, in one short line."""
    try:
        document = response.json()
    except ValueError:
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    if not isinstance(message, str) or not message.strip():
        return ""
    text = redacted(" ".join(message.split()))[:_MOST_TOLD]
    return f": {''.join(each if each.isprintable() else '?' for each in text)}"


def _hint(response: Response) -> str:
    token = github_token() is not None
    if response.status == 403 and token and not _passes(response):
        if response.headers.get("X-GitHub-SSO", "").startswith("required"):
            return "authorize GITHUB_TOKEN for the organization's single sign-on, in GitHub's settings of the token"
        return "GITHUB_TOKEN may not read this: check the repositories and permissions that it is for"
    return {
        401: "GITHUB_TOKEN is not valid, or has expired" if token else "set GITHUB_TOKEN: a login is needed",
        403: f"{'' if token else 'set GITHUB_TOKEN, or '}wait until the rate limit is over",
        404: f"check the number{', and that GITHUB_TOKEN may read the repository' if token else '; a private repository needs GITHUB_TOKEN'}",
        406: "the diff is too large for GitHub's API; git is asked instead",
        429: f"{'' if token else 'set GITHUB_TOKEN, or '}wait a few minutes",
    }.get(response.status, "wait and try again")
