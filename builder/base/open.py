"""From a base's reference to the reader for its kind."""

from __future__ import annotations

from pathlib import Path

from builder.base.daemon import DockerBase
from builder.base.model import Base
from builder.base.oci_layout import LayoutBase
from builder.base.remote import RegistryBase
from builder.base.wheel import WheelBase
from builder.documents.reference import BaseReference
from builder.util.context import Context


def open_base(reference: BaseReference, *, root: Path, context: Context) -> Base:
    """Open a base; folders and files are relative to `root`. Nothing is read yet."""
    match reference.kind:
        case "wheel":
            return WheelBase(reference, root=root, context=context)
        case "oci":
            return LayoutBase(reference, root=root, context=context)
        case "docker":
            return DockerBase(reference, context=context)
        case "registry":
            return RegistryBase(reference, context=context)
