"""Pushing an image: only what the registry lacks moves, and tags are set last, when the registry has all that they promise.

Order: all blobs, those of the evidence too; the manifests below an index, and those of the evidence; the immutable tag, with
the image itself; then the tags that were asked to move. An image whose immutable tag is set already is not sent again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from builder.documents.reference import Reference
from builder.image.built import Built
from builder.oci.artifact import Evidence, Referrer, referrer
from builder.oci.referrers import attach, attach_first, documents, send_document
from builder.oci.registry.client import PARALLEL, STREAMS, Registry, UnsupportedManifestError
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import BlobSource, Descriptor
from builder.release.tags import held_digest, set_tag
from builder.util.context import Context, Progress
from builder.util.errors import MismatchError, UnreachableError

# Below this, sending a blob costs less than asking whether the registry has it.
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
    evidence: Callable[[], Sequence[Evidence]] = tuple,
    tags: Sequence[str] = (),
    sign: Callable[[str], None] | None = None,
    registry: Registry | None = None,
    context: Context,
) -> Moved:
    """Push every platform, the index, the evidence, then the tags.

    `base` is where the base's layers are, when that is a registry; layers of the same registry are mounted, others are
    streamed through. The immutable tag is never given to another digest (`MismatchError`); `tags` move. `sign` is called
    with the image's name by digest before any tag is set. `evidence` is called once, when the image is on its way: making the
    documents takes as long as a registry takes for the first blobs.
    """
    registry = registry or Registry(target.registry, context=context)
    moved = Moved()
    complete = _is_complete(registry, target, built)
    if complete:
        moved.evidence = attach(registry, target.repository, [referrer(each) for each in evidence()])
    else:
        pushing = _Push(registry, target, built, moved)
        referrers = pushing.blobs(base, source, evidence, context)
        pushing.manifests(referrers, signed=sign is not None)
    if sign is not None:
        sign(f"{target.name}@{built.top.digest}")
    # Where nothing was missing and nothing was sent, the tag is what it was a moment ago.
    unchanged = complete and not moved.evidence and sign is None
    with ThreadPoolExecutor(PARALLEL) as pool:
        immutable = pool.submit(lambda: unchanged or check_immutable(registry, target, built))
        held = pool.map(lambda tag: held_digest(registry, target, tag, built.top.digest), tags)
        to_move = [tag for tag, digest in zip(tags, held, strict=True) if digest != built.top.digest]
        to_set = [] if immutable.result() else [built.tags.immutable]
    for tag in (*to_set, *to_move):
        try:
            set_tag(registry, target, tag, _top(built), built.top, again="publish")
        except UnsupportedManifestError as error:
            raise _refused(registry, built, error) from error
    return moved


def _is_complete(registry: Registry, target: Reference, built: Built) -> bool:
    """Whether the registry has the whole image: its immutable tag was set last. Cleaning jobs delete an index's parts."""
    if not check_immutable(registry, target, built):
        return False
    parts = [image.manifest.digest for image in built.images.values() if built.index is not None]
    return all(registry.has_manifest(target.repository, each) == each for each in parts)


def _top(built: Built) -> bytes:
    """What the tags name: the index, or the only manifest."""
    return built.index if built.index is not None else next(iter(built.images.values())).manifest_bytes


class _Push:
    """An image and its evidence on their way to a repository that does not have the image."""

    def __init__(self, registry: Registry, target: Reference, built: Built, moved: Moved) -> None:
        self._registry = registry
        self._target = target
        self._built = built
        self._moved = moved
        self._stopped = threading.Event()

    def blobs(
        self, base: Reference | None, source: BlobSource, evidence: Callable[[], Sequence[Evidence]], context: Context
    ) -> list[Referrer]:
        """Every blob of every platform and of the evidence, each once, several at a time; what refers to the image."""
        images = self._built.images.values()
        layers = {each.digest: each for image in images for each in image.base_layers}
        own: dict[str, tuple[Descriptor, bytes]] = {}
        for image in images:
            own[image.layer.digest] = (Descriptor("", image.layer.digest, image.layer.size), image.layer.data)
            own[image.config.digest] = (image.config, image.config_bytes)
        registry, repository = self._registry, self._target.repository
        with ThreadPoolExecutor(PARALLEL) as pool, ThreadPoolExecutor(STREAMS) as lines:
            mounts = [pool.submit(self._mount, each, base) for each in layers.values()]
            uploads: list[Future[Any]] = [pool.submit(self._own, blob, data) for blob, data in own.values()]
            referrers = [referrer(each) for each in evidence()]
            sent = [pool.submit(send_document, registry, repository, *each) for each in documents(referrers).items()]
            homes = [each.result() for each in mounts]
            absent = [(each, where) for each, where in zip(layers.values(), homes, strict=True) if where is not None]
            with context.console.progress("base layers", total=sum(each.size for each, _ in absent)) as bar:
                streams = [lines.submit(self._stream, each, source, where, bar) for each, where in absent]
                try:
                    _all([*uploads, *sent, *streams])
                except BaseException:
                    self._stopped.set()
                    raise
            self._moved.evidence += sum(each.result() for each in sent)
        return referrers

    def manifests(self, referrers: Sequence[Referrer], *, signed: bool) -> None:
        """The manifests below an index, and those of the evidence. The image itself comes with its tag.

        It is stored by its digest before when somebody signs it, or when the registry takes nothing that refers to it.
        """
        with ThreadPoolExecutor(PARALLEL) as pool:
            parts = list(self._built.images.values()) if self._built.index is not None else []
            stored = [pool.submit(self._put, each.manifest, each.manifest_bytes) for each in parts]

            def top() -> None:
                _all(stored)
                self._put_top()

            if signed:
                top()
            self._moved.evidence += attach_first(pool, self._registry, self._target.repository, referrers, top)
            _all(stored)

    def _put_top(self) -> None:
        try:
            self._put(self._built.top, _top(self._built))
        except UnsupportedManifestError as error:
            raise _refused(self._registry, self._built, error) from error

    def _put(self, manifest: Descriptor, data: bytes) -> None:
        self._registry.put_manifest(self._target.repository, manifest.digest, data, manifest.media_type)

    def _own(self, blob: Descriptor, data: bytes) -> None:
        """Send a blob that this build has made. Where it is large, the repository is asked to take its own."""
        location = ""
        if blob.size > _SMALL:
            found = self._registry.mount(self._target.repository, blob.digest, self._target.repository)
            if found is None:
                self._moved.count(present=1)
                return
            location = found
        upload(self._registry, self._target.repository, blob, at_hand(data), location=location or None)
        self._moved.count(uploaded=len(data))

    def _mount(self, layer: Descriptor, base: Reference | None) -> str | None:
        """None when the repository has the layer; else where to upload it: an upload that a refused mount has opened, or ''."""
        registry, repository = self._registry, self._target.repository
        if base is None or base.registry != registry.name:
            if registry.has_blob(repository, layer.digest):
                self._moved.count(present=1)
                return None
            return ""
        location = registry.mount(repository, layer.digest, base.repository)
        if location is None:
            self._moved.count(mounted=1)
        elif registry.has_blob(repository, layer.digest):
            if location:
                registry.cancel_upload(repository, location)
            self._moved.count(present=1)
            return None
        return location

    def _stream(self, layer: Descriptor, source: BlobSource, location: str, bar: Progress) -> None:
        upload(self._registry, self._target.repository, layer, source, location=location or None, advance=bar.advance)
        self._moved.count(streamed=layer.size)


def _refused(registry: Registry, built: Built, error: UnsupportedManifestError) -> UnreachableError:
    if built.index is None:
        return error
    return UnreachableError(
        f"{registry.name} does not accept an image index",
        details=error.details,
        hint="publish a recipe with a single entry in `platforms`: such an image needs no index",
    )


def _all(running: Sequence[Future[Any]]) -> None:
    """Wait for all; at the first failure the ones that have not begun do not begin."""
    try:
        for each in running:
            each.result()
    except BaseException:
        for each in running:
            each.cancel()
        raise
