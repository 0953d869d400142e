"""OCI values that several rooms share: descriptors, media types, platforms and image references.

Source: OCI image spec 1.1 (descriptor, image index, image manifest, image config) and Docker's distribution reference grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from builder.util.errors import InputError

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

INDEX_TYPES: Final = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")


def is_digest(text: str) -> bool:
    """Whether `text` is a `sha256:` digest; no other algorithm is taken."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says of a blob: media type, digest (`sha256:...`), size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] | None = None
    artifact_type: str = ""

    def as_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform:
            document["platform"] = dict(self.platform)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Descriptor:
        """Read a descriptor that somebody else wrote. Raises `InputError` when it is not one."""
        media_type, digest, size = document.get("mediaType"), document.get("digest"), document.get("size")
        if not isinstance(media_type, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InputError("a descriptor lacks mediaType or size", details=[("found", repr(document)[:200])])
        if not isinstance(digest, str) or not is_digest(digest):
            raise InputError("a descriptor's digest is not sha256", details=[("found", repr(digest)[:200])])
        annotations = document.get("annotations")
        platform = document.get("platform")
        artifact_type = document.get("artifactType")
        return cls(
            media_type,
            digest,
            size,
            dict(annotations) if isinstance(annotations, dict) else {},
            dict(platform) if isinstance(platform, dict) else None,
            artifact_type if isinstance(artifact_type, str) else "",
        )


BlobSource = Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]]
"""Opens a blob: its bytes as they are stored, in pieces."""


@dataclass(frozen=True, order=True)
class Platform:
    """An OCI platform, `os/architecture[/variant]`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.]+", part) for part in parts):
            raise InputError(f"{text!r} is not a platform", hint="write it as linux/amd64 or linux/arm64")
        return cls(*parts)

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether an index entry's or config's `platform` is this one; a variant counts only when both name one."""
        variant = document.get("variant", "")
        return (
            document.get("os") == self.os
            and document.get("architecture") == self.architecture
            and (not self.variant or not variant or variant == self.variant)
        )


LINUX_AMD64: Final = Platform("linux", "amd64")


@dataclass(frozen=True)
class Reference:
    """A registry reference, normalised as Docker does: `vllm/vllm-openai:v1` is `docker.io/vllm/vllm-openai:v1`."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises `InputError` when `text` is not a reference."""
        rest, digest = text, None
        if "@" in rest:
            rest, digest = rest.split("@", 1)
            if not is_digest(digest):
                raise InputError(
                    f"{text!r} is not an image reference", hint="a digest is sha256: and 64 hexadecimal digits"
                )
        tag = None
        if ":" in rest.rsplit("/", 1)[-1]:
            rest, tag = rest.rsplit(":", 1)
            if not _TAG.fullmatch(tag):
                raise InputError(f"{text!r} is not an image reference", details=[("why", f"{tag!r} is not a tag")])
        registry, repository = "docker.io", rest
        head, slash, tail = rest.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry, repository = head, tail
        if registry == "docker.io" and "/" not in repository:
            repository = f"library/{repository}"
        if not _HOST.fullmatch(registry) or not _REPOSITORY.fullmatch(repository):
            raise InputError(
                f"{text!r} is not an image reference", hint="write it as [REGISTRY/]REPOSITORY[:TAG][@DIGEST]"
            )
        if tag is None and digest is None:
            tag = "latest"
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    def with_digest(self, digest: str) -> Reference:
        return Reference(self.registry, self.repository, self.tag, digest)
