"""The sources of an image: what its lock names by digest and nobody has to fetch, as one small tar that travels with it.

It holds the canonical diffs, and manifest and config of the base for each platform, each under its SHA-256. Nothing in it
is trusted: a blob counts only when a lock asks for its digest. The same lock gives the same bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence

from builder.base.model import BaseImage
from builder.documents.lock import Lock
from builder.image.layer import make_layer
from builder.image.rootfs import Entry, Rootfs
from builder.patch.diff import parse
from builder.patch.model import Overlay
from builder.pipeline.locking.overlays import overlay_of
from builder.util.errors import BuilderError, MismatchError
from builder.util.files import sha256

_FOLDER = "blobs/sha256"
_MOST = 64 << 20
_MOST_ENTRIES = 10_000


def make_sources(lock: Lock, diffs: Iterable[bytes], bases: Iterable[BaseImage]) -> bytes:
    """The tar. `diffs` are canonical, `bases` one per platform of the lock."""
    blobs = [*diffs]
    for base in bases:
        blobs += [base.manifest_bytes, base.config_bytes]
    entries = {f"{_FOLDER}/{sha256(blob)}": blob for blob in blobs}
    listed = tuple(Entry(path, "file", 0o644, entries[path]) for path in sorted(entries))
    return make_layer(Rootfs(listed), epoch=lock.epoch).tar


def wanted_blobs(lock: Lock) -> list[str]:
    """SHA-256 of every blob that the sources of a lock hold."""
    wanted = [overlay.digest for overlay in lock.overlays]
    for platform in lock.base.platforms.values():
        wanted += [platform.manifest.removeprefix("sha256:"), platform.config.removeprefix("sha256:")]
    return list(dict.fromkeys(wanted))


def read_sources(data: bytes, lock: Lock) -> dict[str, bytes]:
    """The blobs of a tar by SHA-256. Raises `MismatchError` unless they are those that `lock` names, in their one form."""
    if len(data) > _MOST:
        raise MismatchError("the sources are larger than 64 MiB")
    wanted = wanted_blobs(lock)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for count, member in enumerate(archive):
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None or count > _MOST_ENTRIES:
                    raise MismatchError(f"the sources have an entry {member.name[:200]!r} that is not a blob")
                blob = stream.read(_MOST)
                found[sha256(blob)] = blob
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise MismatchError(f"the sources are not a tar: {error}") from error
    for digest in wanted:
        if digest not in found:
            raise MismatchError(f"the sources lack sha256:{digest}")
    listed = tuple(Entry(f"{_FOLDER}/{digest}", "file", 0o644, found[digest]) for digest in sorted(wanted))
    if make_layer(Rootfs(listed), epoch=lock.epoch).tar != data:
        raise MismatchError("the sources hold something that the lock does not name, or in another form")
    return found


def overlays_of(lock: Lock, blobs: Mapping[str, bytes]) -> Sequence[Overlay]:
    """The lock's overlays, ready to apply, from their diffs by SHA-256."""
    overlays = []
    for locked in lock.overlays:
        try:
            diff = parse(blobs[locked.digest], locked.diff)
        except BuilderError as error:
            raise MismatchError(f"the diff of {locked.id} cannot be read: {error.message}") from error
        if diff.digest != locked.digest:
            raise MismatchError(f"the diff of {locked.id} is not in its canonical form")
        overlays.append(overlay_of(locked, diff))
    return overlays
