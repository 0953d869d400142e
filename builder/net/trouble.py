"""Why there is no response, in plain words: one place for registries, GitHub, the Hub and the package index.

Libraries put addresses into their messages, with the secrets of queries and proxies. Nothing of their text is shown, except what
a proxy or OpenSSL reports as the reason.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from builder.net.address import host_of

_REASONS: Final = {
    errno.ECONNREFUSED: "the connection was refused",
    errno.ENETUNREACH: "there is no network to it",
    errno.EHOSTUNREACH: "there is no route to it",
    errno.ECONNRESET: "the connection was closed",
    errno.EPIPE: "the connection was closed",
    errno.ENOENT: "its socket does not exist",
    errno.EACCES: "this user may not use its socket",
}
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_NO_PROXY = "NO_PROXY lists hosts that are reached without a proxy"
_SHOWN = 80
UNKNOWN: Final = "the connection failed"
"""The reason of which nothing more is known."""


class BadRedirectError(ValueError):
    """A redirect to something that is not an address."""


@dataclass(frozen=True)
class Trouble:
    """What happened, as a sentence that begins with the host; and what to do, where that follows from it."""

    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Proxy:
    """The proxy of an address: HOST:PORT ('' when its address is not valid), its scheme, and the variable that names it."""

    place: str
    scheme: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.place} of {self.variable}" if self.place else f"the proxy of {self.variable}"


def proxy_of(url: str) -> Proxy | None:
    """The proxy that requests uses for `url`, without its name and password; None when there is none."""
    from requests.utils import get_environ_proxies, select_proxy

    try:
        scheme = urlsplit(url).scheme
        found = select_proxy(url, get_environ_proxies(url))
    except (ValueError, AttributeError):
        return None
    if not found:
        return None
    names = [each for name in (f"{scheme}_proxy", "all_proxy") for each in (name, name.upper())]
    variable = next((each for each in names if os.environ.get(each) == found), "the system's settings")
    try:
        parts = urlsplit(found if "://" in found else f"http://{found}")
        port = parts.port
    except ValueError:
        return Proxy("", "", variable)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    place = f"{host}:{port}" if host and port else host
    return Proxy(place if place.isprintable() else "", parts.scheme, variable.upper() if "_" in variable else variable)


def explain(error: BaseException | None, url: str) -> Trouble:
    """What an error of requests, urllib3 or remotezip for a request to `url` means."""
    chain = _chain(error)
    request = next((found for each in chain if (found := getattr(each, "request", None)) is not None), None)
    # The hop that failed may be behind a redirect.
    first, url = host_of(url), getattr(request, "url", None) or url
    host = host_of(url) or "the server"
    proxy = proxy_of(url)
    found = _settings(chain, host, proxy) or _certificate(chain, host, proxy)
    if found is not None:
        return found
    if proxy is not None and any(type(each).__name__ == "ProxyError" for each in chain):
        return _refused(chain, host, proxy)
    statuses = [getattr(getattr(each, "response", None), "status_code", None) for each in chain]
    status = next((each for each in statuses if each is not None), None)
    if status is not None:
        return Trouble(f"{host} responds {status}")
    led = f", where {first} redirects to," if first and first != host else ""
    message = f"{host}{led} does not respond: {_reason(chain)}{_through(proxy)}"
    if any(isinstance(each, socket.gaierror) for each in chain):
        further = "" if proxy else "; behind a proxy, set HTTPS_PROXY"
        return Trouble(message, f"check the name {host} and the network{further}")
    return Trouble(message)


def login_of_proxy(url: str) -> Trouble | None:
    """What a response 407 for `url` means: only a proxy sends it. None where there is no proxy."""
    proxy = proxy_of(url)
    return _refusal(host_of(url), proxy, "407 Proxy Authentication Required") if proxy is not None else None


def reason(error: BaseException) -> str:
    """Why a connection did not hold, as a clause without the host."""
    return _reason(_chain(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it was made of, the outermost first."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and all(each is not other for other in found):
            found.append(each)
            waiting += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
    return found


def _through(proxy: Proxy | None) -> str:
    return f", through {proxy}" if proxy is not None else ""


def _reason(chain: list[BaseException]) -> str:
    import http.client

    names = {type(each).__name__ for each in chain}
    for each in chain:
        if isinstance(each, BadRedirectError):
            return "it redirects to something that is not an address"
        if isinstance(each, socket.gaierror):
            return "its name was not found"
        if isinstance(each, OSError) and each.errno in _REASONS:
            return _REASONS[each.errno]
    if "ConnectTimeoutError" in names:
        return "no connection was made in time"
    if "ReadTimeoutError" in names or any(isinstance(each, TimeoutError) for each in chain):
        return "nothing was received in time"
    if "IncompleteRead" in names or "InvalidChunkLength" in names:
        return "the response is truncated"
    if any(isinstance(each, http.client.RemoteDisconnected) for each in chain):
        return "the connection was closed without a response"
    if any(isinstance(each, http.client.HTTPException) for each in chain):
        return "the response is not HTTP"
    if names & {"InvalidURL", "InvalidSchema", "MissingSchema", "LocationParseError"}:
        return "the address is not valid"
    if "DecodeError" in names or "ContentDecodingError" in names:
        return "the response cannot be decompressed"
    return UNKNOWN


def _settings(chain: list[BaseException], host: str, proxy: Proxy | None) -> Trouble | None:
    """What is wrong on this machine: the address of a proxy, or the file of trusted certificates."""
    import ssl

    names = {type(each).__name__ for each in chain}
    bundle = next((each for each in _BUNDLES if os.environ.get(each)), None)
    wrong_bundle = any("TLS CA certificate" in str(each) for each in chain if type(each) is OSError) or any(
        each.reason == "NO_CERTIFICATE_OR_CRL_FOUND" for each in chain if isinstance(each, ssl.SSLError)
    )
    if wrong_bundle and bundle is not None:
        return Trouble(
            f"{host} was not asked: {bundle} does not name a file of certificates",
            f"let {bundle} name a file in PEM format, or unset it",
        )
    if proxy is None:
        return None
    if proxy.scheme.startswith("socks") and "InvalidSchema" in names:
        return Trouble(
            f"{host} was not asked: {proxy} is a SOCKS proxy, which needs the package PySocks",
            f"python -m pip install pysocks; or let {proxy.variable} name an HTTP proxy",
        )
    invalid = not proxy.place or proxy.scheme not in ("http", "https")
    if "InvalidProxyURL" in names or "ProxySchemeUnknown" in names or ("InvalidURL" in names and invalid):
        return Trouble(
            f"{host} was not asked: the address in {proxy.variable} is not one of a proxy", "write http://HOST:PORT"
        )
    return None


def _certificate(chain: list[BaseException], host: str, proxy: Proxy | None) -> Trouble | None:
    import ssl

    found = next((each for each in chain if isinstance(each, ssl.SSLError)), None)
    if found is None:
        return None
    if not isinstance(found, ssl.SSLCertVerificationError):
        plain = found.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
        why = "what responds there does not use TLS" if plain else "the TLS connection failed"
        return Trouble(f"{host} cannot be reached: {why}{_through(proxy)}", "check the host, its port and the proxy")
    reported = found.verify_message or "it is not valid"
    if "mismatch" in reported:
        return Trouble(
            f"the certificate of {host} is for another name{_through(proxy)}",
            "check the host; a login page of the network or a proxy may respond in its place",
        )
    if "expired" in reported or "not yet valid" in reported:
        return Trouble(
            f"the certificate of {host} is not valid now: {reported}{_through(proxy)}", "check this machine's clock"
        )
    return Trouble(
        f"the certificate of {host} is not trusted: {reported}{_through(proxy)}",
        "for a private certificate authority, let REQUESTS_CA_BUNDLE name a file that has its certificate",
    )


def _refused(chain: list[BaseException], host: str, proxy: Proxy) -> Trouble:
    """The proxy itself does not respond, or refuses."""
    text = next(
        (found for each in chain if (found := re.match(r"Tunnel connection failed: (\d{3}[^\n]*)", str(each)))), None
    )
    if text is None:
        return Trouble(
            f"{host} cannot be reached: {proxy} does not respond: {_reason(chain)}",
            f"check {proxy.variable}; {_NO_PROXY}",
        )
    status = "".join(each for each in text[1] if each.isprintable())[:_SHOWN].strip()
    return _refusal(host, proxy, status)


def _refusal(host: str, proxy: Proxy, status: str) -> Trouble:
    hint = f"check {proxy.variable}; {_NO_PROXY}"
    if status.startswith("407"):
        hint = f"the proxy needs a login: {proxy.variable}=http://NAME:PASSWORD@HOST:PORT; {_NO_PROXY}"
    return Trouble(f"{host} cannot be reached: {proxy} refuses: {status}", hint)
