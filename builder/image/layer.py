"""The layer: one tar, packed by our own gzip, the same bytes on every machine.

Compressors differ between machines and Python versions, so it is packed by one that is written down (`image/deflate.py`),
if the lock says so. A tar above 4 MiB, which has files of a recipe or of wheels, is stored as it is: ours takes 0.1 s for
a megabyte. The tar is plain USTAR; an entry has a PAX header only where its path does not fit USTAR or is not ASCII.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import PurePosixPath

from builder.image.deflate import gzip
from builder.image.rootfs import Entry, Rootfs
from builder.util.aside import aside
from builder.util.files import sha256

WHITEOUT = ".wh."


LARGEST_PACKED = 4 << 20
"""Bytes of the largest tar that is packed."""


@dataclass(frozen=True)
class Layer:
    """A layer: its tar, and the bytes that a registry has."""

    tar: bytes = field(repr=False)
    packing: Callable[[], bytes] | None = field(default=None, repr=False)
    """Gives the tar as gzip; None where it is stored as it is."""

    @property
    def packed(self) -> bool:
        """Whether the blob is gzip."""
        return self.packing is not None

    @cached_property
    def data(self) -> bytes:
        """The blob: gzip, or the tar itself."""
        return self.packing() if self.packing is not None else self.tar

    @cached_property
    def diff_id(self) -> str:
        """The tar's digest, as an image's config names it."""
        return f"sha256:{sha256(self.tar)}"

    @cached_property
    def digest(self) -> str:
        """The blob's digest, as a manifest names it."""
        return f"sha256:{sha256(self.data)}"

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return len(self.data)


def make_layer(rootfs: Rootfs, *, epoch: int, pack: bool = False, ahead: bool = False) -> Layer:
    """The layer of `rootfs`. All entries get the time `epoch` (seconds since 1970) and belong to root.

    With `pack` it is stored as gzip, unless its tar is larger than `LARGEST_PACKED`; with `ahead` that begins at once, on
    another core, for who has something else to do before it is asked for.
    """
    members = sorted(((_name(entry), entry) for entry in rootfs.entries), key=lambda pair: pair[0].encode())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT, bufsize=tarfile.BLOCKSIZE) as archive:
        for name, entry in members:
            info = tarfile.TarInfo(name)
            info.mtime = epoch
            info.mode = entry.mode if entry.kind != "whiteout" else 0o644
            if entry.kind == "directory":
                info.type = tarfile.DIRTYPE
            info.size = len(entry.data) if entry.kind == "file" else 0
            archive.format = tarfile.USTAR_FORMAT if _fits_ustar(info) else tarfile.PAX_FORMAT
            archive.addfile(info, io.BytesIO(entry.data) if entry.kind == "file" else None)
    tar = buffer.getvalue()
    if not pack or len(tar) > LARGEST_PACKED:
        return Layer(tar)
    packing = partial(gzip, tar)
    return Layer(tar, aside(packing) if ahead else packing)


def _name(entry: Entry) -> str:
    if entry.kind != "whiteout":
        return entry.path
    path = PurePosixPath(entry.path)
    return str(path.with_name(f"{WHITEOUT}{path.name}"))


def _fits_ustar(info: tarfile.TarInfo) -> bool:
    """Whether a path fits USTAR's name and prefix fields. tarfile itself adds the slash of a folder."""
    if not info.name.isascii():
        return False
    try:
        info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:
        return False
    return True
