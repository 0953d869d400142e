"""Where a registry is reached, and whom its credentials may be sent to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from builder.net.address import is_loopback, keeps_secrets, origin, parse_address
from builder.util.errors import InputError
from builder.util.redact import without_secrets

HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_USUAL = "write docker.io=https://mirror.example"


@dataclass(frozen=True)
class Endpoint:
    """Where a registry is reached: base address, and the path that a mirror puts before repositories.

    `owner` is the name whose credentials are sent there: the registry's, or the mirror's own. `basic` are credentials that
    the mirror's address has itself.
    """

    base: str
    prefix: str = ""
    owner: str = ""
    basic: str | None = field(default=None, repr=False)

    def is_home(self, url: str) -> bool:
        """Whether a URL is at this endpoint: the same scheme, host and port."""
        return origin(url) == origin(self.base)

    def may_tell(self, url: str) -> bool:
        """Whether a secret may be sent to `url`: over TLS, on this machine, or where plain HTTP is allowed by name."""
        parts = urlsplit(url)
        return keeps_secrets(url) or (
            parts.scheme == "http" and _is_insecure(parts.netloc, parts.hostname or "", self.owner)
        )


def endpoint(registry: str) -> Endpoint:
    """The address of a registry, with `BUILDER_REGISTRY_MIRRORS` (`docker.io=https://mirror.example/prefix,…`) applied.

    Plain HTTP is used for loopback, and for hosts in `BUILDER_INSECURE_REGISTRIES` (comma-separated). Raises `InputError`
    for a mirror that is not an address.
    """
    for pair in filter(None, map(str.strip, os.environ.get("BUILDER_REGISTRY_MIRRORS", "").split(","))):
        name, _, address = pair.partition("=")
        if not address:
            raise InputError(f"BUILDER_REGISTRY_MIRRORS: {without_secrets(pair)!r} names no mirror", hint=_USUAL)
        if name.strip() == registry:
            return _mirror(address.strip())
    host = _HUB_HOST if registry == HUB else registry
    scheme = "http" if registry in _insecure() or is_loopback(host) else "https"
    return Endpoint(f"{scheme}://{host}", owner=registry)


def _mirror(address: str) -> Endpoint:
    found = parse_address(address)
    if found is None:
        raise InputError(
            f"BUILDER_REGISTRY_MIRRORS: {without_secrets(address)!r} is not an address",
            hint=_USUAL,
        )
    parts = urlsplit(found.url)
    prefix = parts.path.strip("/")
    owner = HUB if parts.netloc == _HUB_HOST else parts.netloc
    return Endpoint(f"{parts.scheme}://{parts.netloc}", f"{prefix}/" if prefix else "", owner, found.basic)


def _insecure() -> list[str]:
    return [each.strip() for each in os.environ.get("BUILDER_INSECURE_REGISTRIES", "").split(",") if each.strip()]


def _is_insecure(netloc: str, host: str, owner: str) -> bool:
    """Whether plain HTTP to a host is allowed by name. A registry that is listed with a port allows its host's other
    ports as well: its token server is often there."""
    listed = _insecure()
    return netloc in listed or host in listed or (owner in listed and owner.rpartition(":")[0] == host)
