"""Pushing an image: only what the registry lacks moves, and tags are set last, when the registry has all that they promise.

Order: blobs, manifests by digest, the index, evidence, the immutable tag, then the tags that were asked to move. An image whose
immutable tag is set already is not sent again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from builder.documents.reference import Reference
from builder.image.built import Built
from builder.oci.artifact import Evidence, referrer
from builder.oci.referrers import attach
from builder.oci.registry.client import PARALLEL, Registry, UnsupportedManifestError
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import BlobSource, Descriptor
from builder.release.tags import held_digest, set_tag
from builder.util.context import Context, Progress
from builder.util.errors import MismatchError, UnreachableError

# Large layers: two at once fill a line, and hold two chunks in memory.
_STREAMS = 2
# Below this, asking whether the registry has a blob costs more than sending it.
_SMALL = 64 << 10


@dataclass
class Moved:
    """What a push did, in bytes and blobs."""

    uploaded: int = 0
    streamed: int = 0
    mounted: int = 0
    present: int = 0
    evidence: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, *, uploaded: int = 0, streamed: int = 0, mounted: int = 0, present: int = 0) -> None:
        """Add to the figures, from any thread."""
        with self._lock:
            self.uploaded += uploaded
            self.streamed += streamed
            self.mounted += mounted
            self.present += present


def check_immutable(registry: Registry, target: Reference, built: Built) -> bool:
    """Whether the immutable tag is set. Raises `MismatchError` when it names another image."""
    held = held_digest(registry, target, built.tags.immutable, built.top.digest)
    if held not in (None, built.top.digest):
        raise MismatchError(
            f"{target.name}:{built.tags.immutable} is another image",
            details=[("wanted", built.top.digest), ("found", str(held))],
            hint="an immutable tag is never moved: somebody pushed other content under it, find out who",
        )
    return held is not None


def push(
    built: Built,
    target: Reference,
    base: Reference | None,
    source: BlobSource,
    *,
    evidence: Sequence[Evidence] = (),
    tags: Sequence[str] = (),
    sign: Callable[[str], None] | None = None,
    registry: Registry | None = None,
    context: Context,
) -> Moved:
    """Push every platform, the index, the evidence, then the tags.

    `base` is where the base's layers are, when that is a registry; layers of the same registry are mounted, others are
    streamed through. The immutable tag is never given to another digest (`MismatchError`); `tags` move. `sign` is called
    with the image's name by digest before any tag is set.
    """
    registry = registry or Registry(target.registry, context=context)
    moved = Moved()
    complete = _is_complete(registry, target, built)
    if not complete:
        _push_blobs(registry, target.repository, built, base, source, moved, context)
        _push_manifests(registry, target, built)
    moved.evidence = attach(registry, target.repository, [referrer(each) for each in evidence])
    if sign is not None:
        sign(f"{target.name}@{built.top.digest}")
    data = built.index if built.index is not None else next(iter(built.images.values())).manifest_bytes
    # Where nothing was missing and nothing was sent, the tag is what it was a moment ago.
    unchanged = complete and not moved.evidence and sign is None
    if not unchanged and not check_immutable(registry, target, built):
        set_tag(registry, target, built.tags.immutable, data, built.top, again="publish")
    for tag in tags:
        if held_digest(registry, target, tag, built.top.digest) != built.top.digest:
            set_tag(registry, target, tag, data, built.top, again="publish")
    return moved


def _is_complete(registry: Registry, target: Reference, built: Built) -> bool:
    """Whether the registry has the whole image: its immutable tag was set last. Cleaning jobs delete an index's parts."""
    if not check_immutable(registry, target, built):
        return False
    parts = [image.manifest.digest for image in built.images.values() if built.index is not None]
    return all(registry.has_manifest(target.repository, each) == each for each in parts)


def _push_manifests(registry: Registry, target: Reference, built: Built) -> None:
    for image in built.images.values():
        registry.put_manifest(target.repository, image.manifest.digest, image.manifest_bytes, image.manifest.media_type)
    if built.index is None:
        return
    try:
        registry.put_manifest(target.repository, built.top.digest, built.index, built.top.media_type)
    except UnsupportedManifestError as error:
        raise UnreachableError(
            f"{registry.name} does not accept an image index",
            details=error.details,
            hint="publish a recipe with a single entry in `platforms`: such an image needs no index",
        ) from error


def _push_blobs(
    registry: Registry,
    repository: str,
    built: Built,
    base: Reference | None,
    source: BlobSource,
    moved: Moved,
    context: Context,
) -> None:
    """Every blob of every platform, each once, several at a time. The base's layers are asked for or mounted first."""
    layers = {each.digest: each for image in built.images.values() for each in image.base_layers}
    own: dict[str, tuple[Descriptor, bytes]] = {}
    for image in built.images.values():
        own[image.layer.digest] = (Descriptor("", image.layer.digest, image.layer.size), image.layer.data)
        own[image.config.digest] = (image.config, image.config_bytes)
    with ThreadPoolExecutor(PARALLEL) as pool:
        uploads = [pool.submit(_own, registry, repository, blob, data, moved) for blob, data in own.values()]
        homes = pool.map(lambda each: _mount(registry, repository, each, base, moved), layers.values())
        absent = [(each, where) for each, where in zip(layers.values(), homes, strict=True) if where is not None]
        _all(uploads)
    with (
        context.console.progress("base layers", total=sum(each.size for each, _ in absent)) as bar,
        ThreadPoolExecutor(_STREAMS) as pool,
    ):
        _all(
            [pool.submit(_stream, registry, repository, each, source, where, moved, bar) for each, where in absent],
        )


def _own(registry: Registry, repository: str, blob: Descriptor, data: bytes, moved: Moved) -> None:
    """Send a blob that this build has made."""
    if blob.size > _SMALL and registry.has_blob(repository, blob.digest):
        moved.count(present=1)
        return
    upload(registry, repository, blob, at_hand(data))
    moved.count(uploaded=len(data))


def _mount(registry: Registry, repository: str, layer: Descriptor, base: Reference | None, moved: Moved) -> str | None:
    """None when the repository has the layer; else where to upload it: an upload that a refused mount has opened, or ''."""
    if base is None or base.registry != registry.name:
        if registry.has_blob(repository, layer.digest):
            moved.count(present=1)
            return None
        return ""
    location = registry.mount(repository, layer.digest, base.repository)
    if location is None:
        moved.count(mounted=1)
    elif registry.has_blob(repository, layer.digest):
        if location:
            registry.cancel_upload(repository, location)
        moved.count(present=1)
        return None
    return location


def _stream(
    registry: Registry,
    repository: str,
    layer: Descriptor,
    source: BlobSource,
    location: str,
    moved: Moved,
    bar: Progress,
) -> None:
    upload(registry, repository, layer, source, location=location or None, advance=bar.advance)
    moved.count(streamed=layer.size)


def _all(running: Sequence[Future[None]]) -> None:
    """Wait for all; at the first failure the ones that have not begun do not begin."""
    try:
        for each in running:
            each.result()
    except BaseException:
        for each in running:
            each.cancel()
        raise
