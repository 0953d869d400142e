"""Addresses: whose they are, and how they are printed. A name and password inside one are sent, never shown."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

Origin = tuple[str, str, int | None]

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """A base address without its name and password; `basic` is what they become in an Authorization header."""

    url: str
    basic: str | None = field(default=None, repr=False)


def parse_address(text: str, schemes: Collection[str] = ("http", "https")) -> Address | None:
    """An address that a user gave, without a slash at its end. None when it is not an address of one of `schemes`."""
    text = text.rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port  # a ValueError when it is not a number
        valid = parts.scheme in schemes and (bool(parts.hostname) or parts.scheme == "file") and port != 0
    except ValueError:
        return None
    # urlsplit removes line endings; a query or fragment would swallow the path that is appended.
    if not valid or not text.isprintable() or any(character in text for character in " ?#\\"):
        return None
    if parts.scheme not in _DEFAULT_PORTS or "@" not in parts.netloc:
        return Address(text)
    name, _, secret = parts.netloc.rpartition("@")[0].partition(":")
    return Address(
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), basic(unquote(name), unquote(secret))
    )


def basic(name: str, secret: str) -> str:
    """The value of an Authorization header for a name and a password (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def origin(url: str) -> Origin:
    """Scheme, host and port: what a secret is bound to. A name and password in `url` make it nobody's origin."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", "", None
    if "@" in parts.netloc:
        return "", "", None
    return parts.scheme, parts.hostname or "", port


def host_of(url: str) -> str:
    """The host of an address, for messages."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name (a port may follow) is this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def keeps_secrets(url: str) -> bool:
    """Whether a secret may be sent there: over TLS, or without leaving this machine."""
    scheme, host, _ = origin(url)
    return scheme == "https" or (scheme == "http" and is_loopback(f"[{host}]" if ":" in host else host))
