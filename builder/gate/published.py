"""The image that runs, as a registry knows it: its manifest, and the index around it."""

from __future__ import annotations

from builder.documents.verdict import ImageIdentity
from builder.oci.types import INDEX_TYPES
from builder.release.verify.reader import Reader, manifests, read_json
from builder.util.errors import MismatchError


def published(image: ImageIdentity | None, reader: Reader) -> ImageIdentity:
    """The manifest of `reader`'s image that is the one that runs, and its index when there is one.

    Docker knows an image by a registry's digest, by its manifest's, or by its config's, which names every layer's content. Raises
    `MismatchError` when it is none of those.
    """
    index = reader.top.digest if reader.top.media_type in INDEX_TYPES else None
    found = manifests(reader)
    known = {image.digest, image.id} if image is not None else set()
    for each in found:
        config = read_json(reader, each).get("config")
        names = {each.digest, config.get("digest") if isinstance(config, dict) else None}
        if image is not None and names & known:
            return image.model_copy(update={"digest": each.digest, "index": index})
    if image is not None and index in known and len(found) == 1:
        return image.model_copy(update={"digest": found[0].digest, "index": index})
    raise MismatchError(
        f"what runs is not {reader.reference}",
        details=[
            *(("wanted", each.digest) for each in found),
            ("found", image.digest if image is not None else "an image that is not known"),
        ],
        hint="pull that image and run it: builder gate RECIPE PROFILE --suite NAME --image REGISTRY/REPOSITORY@DIGEST",
    )
