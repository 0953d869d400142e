"""What is known of one layer, and keeping that in the cache, bound to the layer and to its own bytes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from builder.oci.types import Descriptor
from builder.util.files import sha256, write_file

LayerKind = Literal["file", "directory", "symlink", "hardlink", "other"]


@dataclass(frozen=True)
class LayerEntry:
    """An entry of a layer. `digest` is the SHA-256 of a kept file's content.

    `target` is a symlink's text, or for a `hardlink` the path in the layers below whose file it is.
    """

    kind: LayerKind
    mode: int
    size: int = 0
    target: str = ""
    digest: str = ""


class PathSet:
    """Paths by a hash of 64 bits, sorted: what of a layer is a file, without its name."""

    def __init__(self, hashes: array[int]) -> None:
        self._hashes = hashes

    @classmethod
    def of(cls, hashes: Collection[int]) -> PathSet:
        return cls(array("Q", sorted(hashes)))

    @staticmethod
    @lru_cache(1 << 16)
    def hash(path: str) -> int:
        return int.from_bytes(
            hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little"
        )

    def __contains__(self, path: str) -> bool:
        wanted = self.hash(path)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted

    def dump(self) -> bytes:
        return self._hashes.tobytes()

    @classmethod
    def load(cls, data: bytes) -> PathSet:
        hashes = array("Q")
        hashes.frombytes(data)
        return cls(hashes)


@dataclass
class Snapshot:
    """What one layer says about a package: entries, whiteouts and opaque folders, and kept contents by SHA-256.

    `files` and `folders` have the paths of what is not kept. `diff_id` is the digest of the layer's tar.
    """

    entries: dict[str, LayerEntry] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    files: PathSet = field(default_factory=lambda: PathSet.of(()))
    folders: PathSet = field(default_factory=lambda: PathSet.of(()))
    diff_id: str = ""
    missing: frozenset[str] = frozenset()
    """Files of this layer that hard links name and that were not kept: the layer is read again for them."""


def save_snapshot(path: Path, made: Snapshot, descriptor: Descriptor, key: str) -> None:
    """Keep a snapshot. The file names the layer that it is of, and the digest of everything that follows."""
    index = {
        "entries": {name: [e.kind, e.mode, e.size, e.target, e.digest] for name, e in made.entries.items()},
        "removed": sorted(made.removed),
        "opaque": sorted(made.opaque),
        "diff_id": made.diff_id,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("index.json", json.dumps(index))
        archive.writestr("files", made.files.dump())
        archive.writestr("folders", made.folders.dump())
        for digest, data in made.contents.items():
            archive.writestr(digest, data)
    body = buffer.getvalue()
    write_file(path, _bound_to(descriptor, key, body) + body)


def _bound_to(descriptor: Descriptor, key: str, body: bytes) -> bytes:
    """A line of fixed length that ties a cached index to its layer, to what was kept, and to its own bytes."""
    layer = f"{descriptor.digest} {descriptor.size}"
    return f"{sha256(f'{layer} {key}'.encode('utf-8', 'surrogateescape'))} {sha256(body)}\n".encode()


def load_snapshot(path: Path, descriptor: Descriptor, key: str) -> Snapshot | None:
    """A snapshot from the cache, or None when there is none, or it is damaged or of another layer."""
    try:
        data = path.read_bytes()
        head, body = data[:130], data[130:]
        if head != _bound_to(descriptor, key, body):
            raise ValueError("another layer's")
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            index = json.loads(archive.read("index.json"))
            files, folders = PathSet.load(archive.read("files")), PathSet.load(archive.read("folders"))
            contents = {name: archive.read(name) for name in archive.namelist() if len(name) == 64}
        entries = {name: LayerEntry(*fields) for name, fields in index["entries"].items()}
        made = Snapshot(
            entries, set(index["removed"]), set(index["opaque"]), contents, files, folders, str(index["diff_id"])
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        path.unlink(missing_ok=True)
        return None
    return made if all(sha256(data) == digest for digest, data in contents.items()) else None
