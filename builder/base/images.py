"""What image bases have in common: choosing a platform's manifest, and the tree over its layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from builder.base.layers import Filter, Snapshot, snapshot
from builder.base.model import BaseImage
from builder.base.tree import LayeredTree
from builder.documents.reference import Platform
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}", hint="this is not an image") from error
    if not isinstance(document, dict):
        raise InputError(f"{what} is not a JSON object", hint="this is not an image")
    return document


def choose_platform(index: dict[str, Any], platform: Platform, name: str) -> Descriptor:
    """The entry for `platform` of an image index."""
    entries = [Descriptor.from_json(each) for each in index.get("manifests", [])]
    for entry in entries:
        if entry.platform is not None and platform.matches(entry.platform):
            return entry
    known = sorted(
        {f"{each.platform.get('os')}/{each.platform.get('architecture')}" for each in entries if each.platform}
    )
    raise InputError(f"{name} has no image for {platform}", hint=f"it has: {', '.join(known) or 'none'}")


def resolve_image(
    reference: str, digest: str, media_type: str, data: bytes, platform: Platform, fetch: Callable[[Descriptor], bytes]
) -> BaseImage:
    """From the bytes that a reference named (an index or a manifest) to one platform's image. `fetch` reads small blobs."""
    document = parse_json(data, f"the manifest of {reference}")
    media_type = document.get("mediaType") or media_type
    descriptor = Descriptor(media_type, digest, len(data))
    if media_type in INDEX_TYPES:
        descriptor = choose_platform(document, platform, reference)
        data = fetch(descriptor)
        document = parse_json(data, f"the manifest of {reference}")
    if descriptor.media_type not in MANIFEST_TYPES or "config" not in document:
        raise InputError(f"{reference} is no container image but {descriptor.media_type}", hint="name an image")
    config = fetch(Descriptor.from_json(document["config"]))
    found = parse_json(config, f"the config of {reference}")
    if not platform.matches(found):
        raise InputError(
            f"{reference} is for {found.get('os')}/{found.get('architecture')}, not {platform}",
            hint="change the recipe's platforms",
        )
    return BaseImage(reference, digest, descriptor, data, config, platform)


def layered_tree(
    image: BaseImage,
    package: str,
    open_blob: Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]],
    context: Context,
) -> LayeredTree:
    """The package tree of an image, whose layers are streamed as far as they are needed."""
    manifest = parse_json(image.manifest_bytes, "the manifest")
    layers = [Descriptor.from_json(each) for each in manifest.get("layers", [])]

    def read(descriptor: Descriptor, wanted: Filter) -> Snapshot:
        label = f"reading layer {descriptor.digest[7:19]}"
        with context.console.progress(label, total=descriptor.size) as bar:
            return snapshot(descriptor, open_blob, wanted, bar.advance)

    return LayeredTree(layers, parse_json(image.config_bytes, "the config"), package, read, image.reference)
