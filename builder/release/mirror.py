"""Keeping the base: a copy of the locked image in another repository, by digest, that the lock names from then on.

Tags of base images are overwritten and purged upstream; a lock that pins a digest nobody has any more cannot be built.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock as Mutex

from builder.base.model import Base
from builder.base.open import open_locked
from builder.documents.lock import Lock
from builder.documents.reference import Platform, Reference
from builder.oci.document import parse_object
from builder.oci.registry.client import STREAMS, Registry
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import Descriptor
from builder.pipeline.plan import base_image
from builder.pipeline.workspace import Workspace
from builder.util.context import Context, Progress
from builder.util.errors import InputError, UnreachableError
from builder.util.files import write_file


@dataclass
class Mirrored:
    """What was copied: `sent` are bytes, `blobs` what was sent and `present` what the repository had already."""

    repository: str
    tag: str
    digests: tuple[str, ...]
    whole: bool = True
    """Whether the base's index is there too, and not the locked platforms alone."""
    blobs: int = 0
    present: int = 0
    sent: int = 0


def mirror(workspace: Workspace, to: Reference) -> Mirrored:
    """Copy the locked platforms of the base to the repository `to`. What it has already is not sent again.

    Raises `InputError` for a base that has no registry, `UnreachableError` when a registry refuses.
    """
    lock, context = workspace.lock, workspace.context
    if lock.base.parsed.kind != "registry":
        raise InputError(
            f"{lock.base.reference} has no registry to be mirrored from",
            hint="keep the folder, the image or the wheel itself; a mirror is of a registry's image",
        )
    base = open_locked(lock.base, root=workspace.project.root, context=context)
    registry = Registry(to.registry, context=context)
    done = Mirrored(to.name, f"base-{lock.base.digest.removeprefix('sha256:')[:12]}", _manifests(lock))
    for name in lock.base.platforms:
        _copy_platform(workspace, Platform.parse(name), base, registry, to, done)
    _copy_index(lock, registry, to, done, context)
    return done


def _manifests(lock: Lock) -> tuple[str, ...]:
    return tuple(dict.fromkeys(platform.manifest for platform in lock.base.platforms.values()))


def _copy_platform(
    workspace: Workspace, platform: Platform, base: Base, registry: Registry, to: Reference, done: Mirrored
) -> None:
    """The blobs of one platform's image, then its manifest, then a tag that keeps it from being cleaned away."""
    image = base_image(workspace.project.root, workspace.lock, platform, context=workspace.context)
    manifest = parse_object(image.manifest_bytes, "the base's manifest")
    config = Descriptor.from_json(manifest["config"])
    layers = [Descriptor.from_json(each) for each in manifest["layers"]]
    counting = Mutex()

    def send(blob: Descriptor, bar: Progress) -> None:
        if registry.has_blob(to.repository, blob.digest):
            with counting:
                done.present += 1
            bar.advance(blob.size)
            return
        source = at_hand(image.config_bytes) if blob is config else (lambda each: base.blob(image, each))
        upload(registry, to.repository, blob, source, advance=bar.advance)
        with counting:
            done.blobs += 1
            done.sent += blob.size

    total = config.size + sum(each.size for each in layers)
    with (
        workspace.context.console.progress(f"mirroring {platform}", total=total) as bar,
        ThreadPoolExecutor(STREAMS) as pool,
    ):
        for running in [pool.submit(send, blob, bar) for blob in (config, *layers)]:
            running.result()
    tag = f"{done.tag}-{platform.architecture}" if len(workspace.lock.base.platforms) > 1 else done.tag
    for reference in (image.manifest.digest, tag):
        registry.put_manifest(to.repository, reference, image.manifest_bytes, image.manifest.media_type)


def _copy_index(lock: Lock, registry: Registry, to: Reference, done: Mirrored, context: Context) -> None:
    """The index that the base's digest names, where the registry takes it without the platforms that were not copied."""
    if lock.base.digest in done.digests:
        return
    origin = lock.base.pinned.image
    try:
        data, media_type, digest = Registry(origin.registry, context=context).manifest(
            origin.repository, lock.base.digest
        )
        for reference in (digest, done.tag):
            registry.put_manifest(to.repository, reference, data, media_type)
    except UnreachableError as error:
        done.whole = False
        context.console.detail(f"the index was not copied: {error.message}")


def write_mirror(workspace: Workspace, repository: str) -> bool:
    """Add `repository` to the lock's mirrors; whether the lock changed. The tags that follow from a lock stay the same."""
    lock = workspace.lock
    if repository in lock.base.mirrors:
        return False
    base = lock.base.model_copy(update={"mirrors": (*lock.base.mirrors, repository)})
    write_file(workspace.project.lock_path, lock.model_copy(update={"base": base}).dump())
    return True
