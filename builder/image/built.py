"""An image that was built: one per platform, the index over them, and the tags that follow from the lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.base.model import BaseImage
from builder.documents.lock import Lock
from builder.image.labels import entrypoint_of, image_labels
from builder.image.layer import Layer
from builder.image.manifest import Image, assemble
from builder.image.tags import Tags
from builder.oci.types import Descriptor


@dataclass(frozen=True)
class Built:
    """Images of a recipe, one per platform, and the index over them when there are several."""

    images: Mapping[str, Image]
    top: Descriptor
    index: bytes | None
    tags: Tags


def put_together(lock: Lock, base: BaseImage, layer: Layer, record: bytes) -> Image:
    """One platform's image from its base and its layer, whose record is `record`."""
    return assemble(
        base,
        layer,
        labels=image_labels(lock, record),
        entrypoint=entrypoint_of(record),
        epoch=lock.epoch,
        created_by=f"builder: {', '.join(overlay.id for overlay in lock.overlays) or 'profiles only'}",
    )
