"""Evidence: documents about an image that travel with it as OCI referrers.

Source: OCI image spec 1.1 ("Guidelines for Artifact Usage") and distribution spec 1.1 (referrers, tag schema).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from builder.oci.types import OCI_EMPTY, OCI_MANIFEST, Descriptor, encode
from builder.util.files import sha256

SBOM: Final = "application/vnd.cyclonedx+json"
PROVENANCE: Final = "application/vnd.in-toto+json"
LOCK: Final = "application/vnd.overlay-image-builder.lock.v1+yaml"
SOURCES: Final = "application/vnd.overlay-image-builder.sources.v1.tar"
VERDICT: Final = "application/vnd.in-toto.test-result+json"
IN_TOTO: Final = PROVENANCE
"""Any unsigned in-toto statement: its predicate type says what it is."""
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""A signed statement. Source: cosign's BUNDLE_SPEC."""
OUTCOME: Final = "dev.overlay-image-builder.verdict.outcome"
"""The annotation of an attached verdict without an envelope: passed, warned, failed or unreadable."""

_EMPTY = b"{}"
_TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True)
class Evidence:
    """One document about the manifest `subject`. `name` is its file name, `kind` its media and artifact type.

    Without a name it has no title: bundles have none.
    """

    name: str
    kind: str
    subject: Descriptor
    data: bytes = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Referrer:
    """A piece of evidence as a manifest that names its subject, with the blobs below it."""

    subject: str
    descriptor: Descriptor
    manifest: bytes = field(repr=False)
    blobs: dict[str, bytes] = field(repr=False)


def referrer(evidence: Evidence) -> Referrer:
    """The artifact manifest of a document: always the same bytes for the same document and subject."""
    title = {_TITLE: evidence.name} if evidence.name else {}
    blob = Descriptor(evidence.kind, f"sha256:{sha256(evidence.data)}", len(evidence.data), title)
    config = Descriptor(OCI_EMPTY, f"sha256:{sha256(_EMPTY)}", len(_EMPTY))
    subject = Descriptor(evidence.subject.media_type, evidence.subject.digest, evidence.subject.size)
    annotations = {**title, **evidence.annotations}
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": evidence.kind,
            "config": config.as_json(),
            "layers": [blob.as_json()],
            "subject": subject.as_json(),
            "annotations": annotations,
        }
    )
    descriptor = Descriptor(
        OCI_MANIFEST, f"sha256:{sha256(manifest)}", len(manifest), annotations, artifact_type=evidence.kind
    )
    return Referrer(subject.digest, descriptor, manifest, {config.digest: _EMPTY, blob.digest: evidence.data})
