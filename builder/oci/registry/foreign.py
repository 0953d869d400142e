"""Responses that no registry gives: a login page of the network, a proxy's default page, another service at the address.

Such servers respond 200 to everything, so that the status alone says nothing. Headers alone do not either: a registry need not
send `Docker-Content-Digest` (OCI distribution spec 1.1, "Pulling manifests").
"""

from __future__ import annotations

from builder.net.client import Response
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES
from builder.util.errors import UnreachableError
from builder.util.redact import without_secrets

_FIELDS = ("schemaVersion", "mediaType", "manifests", "layers")
"""What a manifest or an index has of the OCI image spec 1.1, or of Docker's schemas 1 and 2."""
_SHOWN = 80


class NotARegistryError(UnreachableError):
    """What responds at a registry's address is something else."""


def is_manifest(response: Response) -> bool:
    """Whether a successful response for a manifest may be one.

    Its digest and shape are checked elsewhere: a registry's broken manifest is not another service.
    """
    if "Docker-Content-Digest" in response.headers or media_type(response) in (*INDEX_TYPES, *MANIFEST_TYPES):
        return True
    try:
        document = response.json()
    except ValueError:
        return False
    return isinstance(document, dict) and any(each in document for each in _FIELDS)


def is_page(response: Response) -> bool:
    """Whether a response is a web page, which no blob is."""
    return media_type(response) == "text/html" and "Docker-Content-Digest" not in response.headers


def has_stored(response: Response) -> bool:
    """Whether a success tells that a manifest was stored. The spec wants 201 with a location; some registries send 200.

    What has neither a location nor a digest, but a body, is the response of something else.
    """
    said = any(each in response.headers for each in ("Location", "Docker-Content-Digest"))
    empty = not media_type(response) and response.headers.get("Content-Length", "0") == "0"
    return response.status != 200 or said or empty


def media_type(response: Response) -> str:
    """The media type of a response without its parameters, in lower case; '' without one."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def shown(response: Response) -> str:
    """Status and media type of a response, for messages."""
    kind = "".join(each for each in media_type(response) if each.isprintable())[:_SHOWN]
    return f"{response.status} with {kind or 'no content type'}"


def see(base: str) -> str:
    """What shows a user what responds at a registry's address."""
    return f"`curl -i {base}/v2/` shows what responds"


def not_a_registry(name: str, base: str, response: Response) -> NotARegistryError:
    """The error for `response` to a request to the registry `name`, whose address is `base`."""
    place = without_secrets(response.url.partition("?")[0])
    target = response.headers.get("Location", "")
    # A query may have a secret.
    led = [("leads to", without_secrets(target.partition("?")[0])[:200])] if target else []
    return NotARegistryError(
        f"{name} does not respond as a registry",
        details=[("where", place), ("response", shown(response)), *led],
        hint=f"check the host and its port; a login page of the network or a proxy may respond in its place: {see(base)}",
    )
