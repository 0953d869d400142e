"""Manifest and config of the new image: the base's own, with one layer and our part added."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from builder.base.model import BaseImage
from builder.documents.reference import Platform
from builder.image.layer import Layer
from builder.oci.document import read_config, read_manifest
from builder.oci.types import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    Descriptor,
    encode,
)
from builder.util.files import sha256


@dataclass(frozen=True)
class Image:
    """An image of one platform: manifest, config and our layer are at hand, the base's layers are named only."""

    platform: Platform
    base: BaseImage
    layer: Layer
    manifest: Descriptor
    manifest_bytes: bytes = field(repr=False)
    config: Descriptor
    config_bytes: bytes = field(repr=False)
    base_layers: tuple[Descriptor, ...]

    @property
    def own_blobs(self) -> dict[str, bytes]:
        """Digest -> bytes of everything that the base does not have."""
        return {
            self.layer.digest: self.layer.data,
            self.config.digest: self.config_bytes,
            self.manifest.digest: self.manifest_bytes,
        }


def timestamp(epoch: int) -> str:
    """Seconds since 1970 as RFC 3339 text in UTC, as image configs have it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def assemble(
    base: BaseImage,
    layer: Layer,
    *,
    labels: Mapping[str, str],
    entrypoint: Sequence[str],
    epoch: int,
    created_by: str,
) -> Image:
    """Add `layer` to `base`. Labels of the base stay unless ours have the same key; CMD is emptied with ENTRYPOINT.

    The manifest is of the base's family (OCI or Docker), so that a registry that mounted the base takes it.
    """
    read = read_manifest(base.manifest_bytes, f"the manifest of {base.reference}")
    found = read_config(base.config_bytes, f"the config of {base.reference}")
    manifest, config, base_layers = read.document, found.document, read.layers
    docker = base.manifest.media_type == DOCKER_MANIFEST
    settings = dict(found.settings)
    settings["Labels"] = {**(settings.get("Labels") or {}), **labels}
    settings["Entrypoint"] = list(entrypoint)
    settings["Cmd"] = None
    new_config = {
        **config,
        "created": timestamp(epoch),
        "config": settings,
        "rootfs": {**config["rootfs"], "diff_ids": [*found.diff_ids, layer.diff_id]},
        "history": [
            *(config.get("history") or []),
            {"created": timestamp(epoch), "created_by": created_by, "comment": "overlay-image-builder"},
        ],
    }
    config_bytes = encode(new_config)
    config_descriptor = Descriptor(read.config.media_type, f"sha256:{sha256(config_bytes)}", len(config_bytes))
    media_type = DOCKER_LAYER if docker else OCI_LAYER
    if layer.packed:
        media_type = DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP
    layer_descriptor = Descriptor(media_type, layer.digest, layer.size)
    new_manifest = {
        **manifest,
        "schemaVersion": 2,
        "mediaType": base.manifest.media_type,
        "config": config_descriptor.as_json(),
        "layers": [each.as_json() for each in (*base_layers, layer_descriptor)],
    }
    manifest_bytes = encode(new_manifest)
    return Image(
        platform=base.platform,
        base=base,
        layer=layer,
        manifest=Descriptor(base.manifest.media_type, f"sha256:{sha256(manifest_bytes)}", len(manifest_bytes)),
        manifest_bytes=manifest_bytes,
        config=config_descriptor,
        config_bytes=config_bytes,
        base_layers=base_layers,
    )


def make_index(images: Sequence[Image]) -> tuple[Descriptor, bytes]:
    """The OCI index of one image per platform, sorted by platform."""
    manifests = []
    for image in sorted(images, key=lambda each: each.platform):
        config = json.loads(image.config_bytes)
        platform = {"architecture": image.platform.architecture, "os": image.platform.os}
        variant = image.platform.variant or config.get("variant")
        if variant:
            platform["variant"] = variant
        manifests.append({**image.manifest.as_json(), "platform": platform})
    data = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
    return Descriptor(OCI_INDEX, f"sha256:{sha256(data)}", len(data)), data
