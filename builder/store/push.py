"""Pushing an image: only what the registry lacks moves, and a tag is set last, when all that it names is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from builder.build import Built
from builder.console import Console
from builder.errors import MismatchError
from builder.image.manifest import Image
from builder.oci import Descriptor, Reference
from builder.registry.client import Registry

BlobSource = Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]]


@dataclass
class Moved:
    """What a push did, in bytes and blobs."""

    uploaded: int = 0
    streamed: int = 0
    mounted: int = 0
    present: int = 0


def push(
    built: Built, target: Reference, base: Reference | None, source: BlobSource, *, move: bool, console: Console
) -> Moved:
    """Push every platform, then the index, then the tags.

    `base` is where the base's layers are, when that is a registry; layers of the same registry are mounted, others are
    streamed through. The immutable tag comes first; it is never given to another digest (`MismatchError`). The moving
    tag follows only with `move`.
    """
    registry = Registry(target.registry)
    held = registry.has_manifest(target.repository, built.tags.immutable)
    if held not in (None, built.top.digest):
        raise MismatchError(
            f"{target.name}:{built.tags.immutable} is another image",
            details=[("wanted", built.top.digest), ("found", str(held))],
            hint="an immutable tag is never moved: somebody else pushed other content under it, find out who",
        )
    moved = Moved()
    for image in built.images.values():
        _push_image(registry, target.repository, image, base, source, moved, console)
    if built.index is not None:
        registry.put_manifest(target.repository, built.top.digest, built.index, built.top.media_type)
    data = built.index if built.index is not None else next(iter(built.images.values())).manifest_bytes
    for tag in [built.tags.immutable, *([built.tags.moving] if move and built.tags.moving else [])]:
        registry.put_manifest(target.repository, tag, data, built.top.media_type)
    return moved


def _push_image(
    registry: Registry,
    repository: str,
    image: Image,
    base: Reference | None,
    source: BlobSource,
    moved: Moved,
    console: Console,
) -> None:
    for descriptor in image.base_layers:
        if registry.has_blob(repository, descriptor.digest):
            moved.present += 1
            continue
        location = None
        if base is not None and base.registry == registry.name:
            location = registry.mount(repository, descriptor.digest, base.repository)
            if location is None:
                moved.mounted += 1
                continue
        with (
            console.progress(f"base layer {descriptor.digest[7:19]}", total=descriptor.size) as bar,
            source(descriptor) as pieces,
        ):
            registry.upload(repository, descriptor.digest, _counted(pieces, bar.advance), location=location)
        moved.streamed += descriptor.size
    for digest, data in ((image.layer.digest, image.layer.data), (image.config.digest, image.config_bytes)):
        if registry.has_blob(repository, digest):
            moved.present += 1
            continue
        registry.upload(repository, digest, iter([data]))
        moved.uploaded += len(data)
    registry.put_manifest(repository, image.manifest.digest, image.manifest_bytes, image.manifest.media_type)


def _counted(pieces: Iterator[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        advance(len(piece))
        yield piece
