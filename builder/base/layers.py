"""Reading one layer's tar as a stream: which entries it has below the places that matter, and the text files among them.

A layer is bytes from somebody else: names that leave the tree are refused, links are noted and never followed, and
nothing is kept before the digest of the whole stream is right.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

from builder.base.model import EntryKind
from builder.oci.types import Descriptor
from builder.util.errors import InputError, UnreachableError
from builder.util.files import cache_dir, sha256, write_file

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

# What is kept of a file's content. vLLM's largest Python file is 300 kB; RECORD of 0.20.0 is 388 kB.
_KEPT_BYTES = 8 << 20
_MAX_ENTRIES = 5_000_000
_SKELETON_DEPTH = 2


@dataclass(frozen=True)
class LayerEntry:
    """An entry of a layer. `digest` is the SHA-256 of a kept file's content, `target` a symlink's."""

    kind: EntryKind
    mode: int
    size: int = 0
    target: str = ""
    digest: str = ""


@dataclass
class Snapshot:
    """What one layer says about a package: entries, whiteouts and opaque folders, and kept contents by SHA-256."""

    entries: dict[str, LayerEntry] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)


class _Pieces(io.RawIOBase):
    """A readable stream over pieces of bytes that hashes what goes through, and counts it."""

    def __init__(self, pieces: Iterator[bytes], advance: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._left = b""
        self._advance = advance
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self.digest.update(piece)
            self._advance(len(piece))
            self._left = piece
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


class _Gunzip(io.RawIOBase):
    """A gzip stream of one or many members, without gzip's header checks that other tools do not make."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(31)
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            data = self._pending or self._source.read(1 << 16)
            if not data:
                if not self._inflate.eof:
                    raise EOFError("the gzip stream is cut")
                return 0
            if self._inflate.eof:
                if not data.strip(b"\0"):
                    self._pending = b""
                    continue
                self._inflate = zlib.decompressobj(31)
            out = self._inflate.decompress(data, len(buffer))
            self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
            if out:
                buffer[: len(out)] = out
                return len(out)


def decompressed(stream: IO[bytes]) -> IO[bytes]:
    """The tar inside a layer's stream: gzip, zstd or plain, told by its first bytes rather than by its media type."""
    buffered = (
        stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream), 1 << 17)
    )
    magic = buffered.peek(4)[:4]
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(_Gunzip(buffered), 1 << 18)
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(buffered, read_across_frames=True))
    return buffered


def clean_name(name: str) -> str:
    """A tar member's path from `/`, without `./`. Raises `InputError` for one that leaves the tree."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InputError(f"a layer has an entry that leaves the tree: {name!r}", hint="do not use this base")
    return "/".join(parts)


class Filter:
    """Which entries of a layer are kept: the package's folder, its dist-info, the names of others, the top of the tree."""

    def __init__(self, package: str) -> None:
        name = re.escape(package)
        # Distribution names may be spelt with dots, dashes and underscores (PEP 503).
        info = re.sub(r"[-_.]+", "[-_.]+", package)
        self._package = re.compile(
            rf"(?:^|.*/)(?:site|dist)-packages(?:/{name}(?:/.*)?|/{info}-[^/]+\.dist-info(?:/.*)?)?"
        )
        self._distribution = re.compile(r"(?:^|.*/)(?:site|dist)-packages/[^/]+\.dist-info(?:/METADATA)?")
        # In a cache file's name: what is kept decides what the file holds.
        self.key = f"{package}-2"

    def wants(self, path: str) -> bool:
        return (
            path.count("/") < _SKELETON_DEPTH
            or self._package.fullmatch(path) is not None
            or self._distribution.fullmatch(path) is not None
        )

    def keeps_content(self, path: str, size: int) -> bool:
        if size > _KEPT_BYTES or path.count("/") < _SKELETON_DEPTH:
            return False
        return self._package.fullmatch(path) is not None and not path.endswith((".so", ".pyc", ".a", ".cubin", ".ptx"))


def snapshot(
    descriptor: Descriptor,
    open_blob: Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]],
    wanted: Filter,
    advance: Callable[[int], None],
) -> Snapshot:
    """What a layer says, from the cache by its digest, else by streaming it once."""
    path = cache_dir("layers") / f"{descriptor.digest.removeprefix('sha256:')}-{wanted.key}.zip"
    if path.is_file():
        kept = _load(path)
        if kept is not None:
            advance(descriptor.size)
            return kept
        path.unlink(missing_ok=True)
    with open_blob(descriptor) as pieces:
        raw = _Pieces(pieces, advance)
        made = scan(raw, wanted)
        for _ in iter(lambda: raw.read(1 << 20), b""):
            pass
    found = f"sha256:{raw.digest.hexdigest()}"
    if found != descriptor.digest:
        raise UnreachableError(
            "a layer of the base did not arrive whole",
            details=[("wanted", descriptor.digest), ("found", found)],
            hint="try again; a proxy or a mirror may have cut it",
        )
    _save(path, made)
    return made


def scan(stream: io.RawIOBase, wanted: Filter) -> Snapshot:
    """Read a layer's tar. Raises `InputError` when it is not a sound one."""
    found = Snapshot()
    try:
        with tarfile.open(fileobj=decompressed(cast("IO[bytes]", stream)), mode="r|", errorlevel=1) as archive:
            for count, member in enumerate(archive):
                if count > _MAX_ENTRIES:
                    raise InputError("a layer of the base has too many entries", hint="do not use this base")
                _note(found, archive, member, wanted)
    except (tarfile.TarError, EOFError, zlib.error, OverflowError, UnicodeError) as error:
        raise InputError(f"a layer of the base is not a sound tar: {error}", hint="pull the base again") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise InputError(f"a layer of the base is not sound zstd: {error}", hint="pull the base again") from error
        raise
    return found


def _note(found: Snapshot, archive: tarfile.TarFile, member: tarfile.TarInfo, wanted: Filter) -> None:
    name = clean_name(member.name)
    if not name:
        return
    path = PurePosixPath(name)
    if path.name == OPAQUE:
        found.opaque.add(str(path.parent))
        return
    if path.name.startswith(WHITEOUT):
        found.removed.add(str(path.with_name(path.name.removeprefix(WHITEOUT))))
        return
    if not wanted.wants(name):
        return
    if member.islnk():
        # A hard link to an earlier entry of the same layer: the same file under another name.
        earlier = found.entries.get(clean_name(member.linkname))
        found.entries[name] = earlier or LayerEntry("other", member.mode & 0o7777)
    elif member.isdir():
        found.entries[name] = LayerEntry("directory", member.mode & 0o7777)
    elif member.issym():
        found.entries[name] = LayerEntry("symlink", 0o777, target=member.linkname)
    elif member.isfile():
        digest = ""
        if wanted.keeps_content(name, member.size):
            stream = archive.extractfile(member)
            data = stream.read() if stream is not None else b""
            if len(data) != member.size:
                raise EOFError("a file in the layer is cut")
            digest = sha256(data)
            found.contents[digest] = data
        found.entries[name] = LayerEntry("file", member.mode & 0o7777, member.size, digest=digest)
    else:
        found.entries[name] = LayerEntry("other", member.mode & 0o7777)


def _save(path: Path, made: Snapshot) -> None:
    index = {
        "entries": {name: [e.kind, e.mode, e.size, e.target, e.digest] for name, e in made.entries.items()},
        "removed": sorted(made.removed),
        "opaque": sorted(made.opaque),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("index.json", json.dumps(index))
        for digest, data in made.contents.items():
            archive.writestr(digest, data)
    write_file(path, buffer.getvalue())


def _load(path: Path) -> Snapshot | None:
    """A snapshot from the cache, or None when the file is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read("index.json"))
            contents = {name: archive.read(name) for name in archive.namelist() if name != "index.json"}
        entries = {name: LayerEntry(*fields) for name, fields in index["entries"].items()}
        made = Snapshot(entries, set(index["removed"]), set(index["opaque"]), contents)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
    return made if all(sha256(data) == digest for digest, data in contents.items()) else None
