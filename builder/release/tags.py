"""Tags: what one names now, and setting one so that it is known to have been set."""

from __future__ import annotations

from builder.documents.reference import Reference
from builder.oci.registry.client import Registry
from builder.oci.types import Descriptor
from builder.util.errors import MismatchError


def held_digest(registry: Registry, target: Reference, tag: str, wanted: str) -> str | None:
    """The digest that a tag names. One that is not `wanted` is taken from the manifest itself, not from a header."""
    held = registry.has_manifest(target.repository, tag)
    if held in (None, wanted):
        return held
    found = registry.find_manifest(target.repository, tag)
    return found[2] if found is not None else None


def set_tag(registry: Registry, target: Reference, tag: str, data: bytes, top: Descriptor, *, again: str) -> None:
    """Set a tag and read it back. A registry may need a moment before it shows what it has stored.

    `again` is what a hint tells to do once more. Raises `MismatchError` when the tag names something else afterwards.
    """
    limits = registry.context.limits
    registry.put_manifest(target.repository, tag, data, top.media_type)
    for attempt in range(1, limits.attempts + 1):
        found = held_digest(registry, target, tag, top.digest)
        if found == top.digest:
            return
        if attempt < limits.attempts:
            limits.clock.sleep(limits.pause(attempt))
    raise MismatchError(
        f"{target.name}:{tag} names another image than was just set"
        if found
        else f"{target.name}:{tag} was set, and the registry does not show it",
        details=[("wanted", top.digest), ("found", str(found))],
        hint=f"somebody else publishes under this tag at this moment: agree on who does, then {again} again"
        if found
        else f"{again} again; if it stays, the registry, or a mirror of it, shows old content",
    )
