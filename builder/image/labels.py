"""What ties an image to its record and its lock: labels of its config, and its entrypoint."""

from __future__ import annotations

from typing import Final

from builder.documents.lock import Lock
from builder.image.manifest import timestamp
from builder.util.files import sha256

SERVE: Final = "/opt/builder/serve"
RECORD_OPTION: Final = "--record="
RECORD_LABEL: Final = "dev.overlay-image-builder.record"
INPUTS_LABEL: Final = "dev.overlay-image-builder.inputs"


def entrypoint_of(record: bytes) -> tuple[str, ...]:
    """The image's ENTRYPOINT: the program, and the digest of the record that it may trust.

    The record is in our layer, the digest in the image's config. Inside a container nothing else of the config can be
    seen, so this is what lets the entrypoint refuse a record that only the layer vouches for.
    """
    return (SERVE, f"{RECORD_OPTION}sha256:{sha256(record)}")


def image_labels(lock: Lock, record: bytes) -> dict[str, str]:
    """Labels in the OCI's names, and the digests that tie the image to its record and its lock."""
    labels = {
        "org.opencontainers.image.title": lock.name,
        "org.opencontainers.image.description": lock.description,
        "org.opencontainers.image.version": lock.inputs[:12],
        "org.opencontainers.image.base.name": lock.base.reference,
        "org.opencontainers.image.base.digest": lock.base.digest,
        RECORD_LABEL: f"sha256:{sha256(record)}",
        INPUTS_LABEL: f"sha256:{lock.inputs}",
        "org.opencontainers.image.source": lock.source,
        "org.opencontainers.image.licenses": lock.licenses,
        # Whoever names neither keeps the digests of before these labels.
        "org.opencontainers.image.created": timestamp(lock.epoch) if lock.source or lock.licenses else "",
    }
    return {key: text for key, text in labels.items() if text}
