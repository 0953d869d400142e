"""OCI values that several rooms share: descriptors, media types, and the one spelling of our JSON.

Source: OCI image spec 1.1 (descriptor, image index, image manifest, image config).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from builder.documents.reference import is_digest
from builder.util.errors import InputError

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = f"{OCI_LAYER}+gzip"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = f"{DOCKER_LAYER}.gzip"

INDEX_TYPES: Final = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says of a blob: media type, digest (`sha256:...`), size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] | None = None
    artifact_type: str = ""
    urls: tuple[str, ...] = ()
    """Where a layer that is not in the registry (a non-distributable one) is downloaded from."""

    def as_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.urls:
            document["urls"] = list(self.urls)
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform:
            document["platform"] = dict(self.platform)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Descriptor:
        """Read a descriptor that somebody else wrote. Raises `InputError` when it is not one."""
        if not isinstance(document, Mapping):
            raise InputError("a descriptor is not a JSON object", details=[("found", repr(document)[:200])])
        media_type, digest, size = document.get("mediaType"), document.get("digest"), document.get("size")
        if not isinstance(media_type, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InputError("a descriptor lacks mediaType or size", details=[("found", repr(document)[:200])])
        if not isinstance(digest, str) or not is_digest(digest):
            raise InputError("a descriptor's digest is not sha256", details=[("found", repr(digest)[:200])])
        annotations = document.get("annotations")
        if isinstance(annotations, dict) and not all(isinstance(text, str) for text in annotations.values()):
            raise InputError(
                "a descriptor has an annotation that is not a text", details=[("found", repr(annotations)[:200])]
            )
        platform = document.get("platform")
        artifact_type = document.get("artifactType")
        urls = document.get("urls")
        return cls(
            media_type,
            digest,
            size,
            dict(annotations) if isinstance(annotations, dict) else {},
            dict(platform) if isinstance(platform, dict) else None,
            artifact_type if isinstance(artifact_type, str) else "",
            tuple(urls) if isinstance(urls, list) and all(isinstance(each, str) for each in urls) else (),
        )


BlobSource = Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]]
"""Opens a blob: its bytes as they are stored, in chunks."""


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON with one spelling: keys in the order given, no spaces, UTF-8."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
