"""Registry credentials as Docker and Podman keep them: config files and credential helpers. Nothing is ever written.

`docker.auth` (docker 7.1) was tried. It reads one file of Docker's; it lacks Podman's files (`REGISTRY_AUTH_FILE`, the runtime
directory's `auth.json`), starts helpers without a time limit and with the whole environment, and raises when a store fails
although `auths` has the entry.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.util.errors import BuilderError
from builder.util.process import run

_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Credentials:
    """A user name and a secret; `identity_token` stands for both where a helper gave one. Not printed."""

    username: str
    secret: str = field(repr=False)
    identity_token: bool = False


def config_files() -> list[Path]:
    """Where credentials may be, in order of precedence."""
    found = []
    if os.environ.get("REGISTRY_AUTH_FILE"):
        found.append(Path(os.environ["REGISTRY_AUTH_FILE"]))
    docker = os.environ.get("DOCKER_CONFIG")
    found.append((Path(docker) if docker else Path.home() / ".docker") / "config.json")
    if os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(os.environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    return found


def find_credentials(registry: str) -> Credentials | None:
    """The credentials for a registry, or None for anonymous access."""
    names = (
        _HUB_KEYS
        if registry == "docker.io"
        else (registry, f"https://{registry}", f"https://{registry}/v1/", f"http://{registry}")
    )
    for path in config_files():
        document = _read(path)
        if isinstance(document, dict):
            found = _from_config(document, names)
            if found is not None:
                return found
    return None


def damaged_files() -> list[tuple[Path, str]]:
    """The files whose credentials are not used, since they cannot be read; each with why, without any of its content."""
    read = ((path, _read(path)) for path in config_files())
    return [(path, why) for path, why in read if isinstance(why, str)]


def _read(path: Path) -> dict[str, Any] | str:
    """A file of credentials, empty when there is none; a text says why it cannot be used."""
    try:
        data = path.read_bytes()
        # Docker takes an empty file for one without settings.
        document = json.loads(data) if data.strip() else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except json.JSONDecodeError as error:
        return f"it is not valid JSON: line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        return "it is not valid JSON"
    return document if isinstance(document, dict) else "it is not a JSON object"


def _mapping(value: object) -> dict[str, Any]:
    """What a file of somebody else has in the place of an object; empty when it is something else."""
    return value if isinstance(value, dict) else {}


def _from_config(document: dict[str, Any], names: tuple[str, ...]) -> Credentials | None:
    helpers = _mapping(document.get("credHelpers"))
    for name in names:
        helper = helpers.get(name) or document.get("credsStore")
        if helper:
            found = _from_helper(str(helper), name)
            if found is not None:
                return found
    auths = _mapping(document.get("auths"))
    for name in names:
        entry = auths.get(name)
        if isinstance(entry, dict):
            if entry.get("identitytoken"):
                return Credentials("<token>", str(entry["identitytoken"]), identity_token=True)
            try:
                user, _, secret = base64.b64decode(entry.get("auth") or "").decode().partition(":")
            except (binascii.Error, TypeError, ValueError):
                continue
            if user:
                return Credentials(user, secret.rstrip("\0"))
    return None


def _from_helper(helper: str, name: str) -> Credentials | None:
    try:
        done = run([f"docker-credential-{helper}", "get"], stdin=name.encode(), timeout=30)
        document = _mapping(json.loads(done.stdout) if done.returncode == 0 else {})
    except (BuilderError, ValueError, RecursionError):
        return None
    user, secret = document.get("Username"), document.get("Secret")
    return Credentials(str(user), str(secret), user == "<token>") if user and secret else None
