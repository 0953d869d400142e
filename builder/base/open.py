"""From a base's reference to the reader for its kind."""

from __future__ import annotations

from pathlib import Path

from builder.base.daemon import DockerBase
from builder.base.model import Base, Mirrors
from builder.base.oci_layout import LayoutBase
from builder.base.remote import RegistryBase
from builder.base.wheel import WheelBase
from builder.documents.lock import LockedBase
from builder.documents.reference import BaseReference
from builder.util.context import Context


def open_locked(locked: LockedBase, *, root: Path, context: Context) -> Base:
    """Open the base of a lock, by its digest where it has a registry; its mirrors are asked when that does not respond."""
    manifests = {name: platform.manifest for name, platform in locked.platforms.items()}
    return open_base(locked.pinned, root=root, context=context, mirrors=Mirrors(locked.mirrors, manifests))


def open_base(reference: BaseReference, *, root: Path, context: Context, mirrors: Mirrors = Mirrors()) -> Base:  # noqa: B008
    """Open a base; folders and files are relative to `root`. Nothing is read yet."""
    match reference.kind:
        case "wheel":
            return WheelBase(reference, root=root, context=context)
        case "oci":
            return LayoutBase(reference, root=root, context=context)
        case "docker":
            return DockerBase(reference, context=context)
        case "registry":
            return RegistryBase(reference, context=context, mirrors=mirrors)
