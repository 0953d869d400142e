"""Where a registry is reached, and how long anything may take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from builder.util.errors import InputError
from builder.util.limits import wait_limit


def timeout() -> tuple[float, float]:
    """Limits for connecting and for each wait for bytes, in seconds; `BUILDER_HTTP_TIMEOUT` sets the second."""
    return 15.0, wait_limit()


@dataclass(frozen=True)
class Endpoint:
    """Where a registry is reached: base address, and the path that a mirror puts before repositories."""

    base: str
    prefix: str = ""


def endpoint(registry: str) -> Endpoint:
    """The address of a registry, with `BUILDER_REGISTRY_MIRRORS` (`docker.io=https://mirror.example/prefix,…`) applied.

    Plain HTTP is used for loopback, and for hosts in `BUILDER_INSECURE_REGISTRIES` (comma-separated).
    """
    for pair in filter(None, os.environ.get("BUILDER_REGISTRY_MIRRORS", "").split(",")):
        name, _, address = pair.partition("=")
        if name.strip() == registry and address:
            parts = urlsplit(address.strip())
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise InputError(
                    f"BUILDER_REGISTRY_MIRRORS: {address!r} is not an address",
                    hint="write docker.io=https://mirror.example",
                )
            prefix = parts.path.strip("/")
            return Endpoint(f"{parts.scheme}://{parts.netloc}", f"{prefix}/" if prefix else "")
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    insecure = [each.strip() for each in os.environ.get("BUILDER_INSECURE_REGISTRIES", "").split(",")]
    scheme = "http" if registry in insecure or _is_loopback(host) else "https"
    return Endpoint(f"{scheme}://{host}")


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
