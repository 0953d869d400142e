"""Reading one layer's tar as a stream: which entries it has below the places that matter, and the text files among them.

A layer is bytes from somebody else: names that leave the tree are refused, links are noted and never followed, and
nothing is kept before size, digest and diff id of the whole stream are right.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import PurePosixPath

from builder.base.filter import COMPILED, KEPT_BYTES, Filter
from builder.base.snapshot import LayerEntry, PathSet, Snapshot, load_snapshot, save_snapshot
from builder.base.tarstream import Member, Readable, TarError, TarReader, clean_name
from builder.oci.blobs import BlobStream, LayerStream, check_diff_id, is_unsound
from builder.oci.types import Descriptor
from builder.util.errors import InputError
from builder.util.files import cache_dir, sha256

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."

_KEPT_TOGETHER = 128 << 20
_MAX_ENTRIES = 2_000_000
_MAX_KEPT = 400_000


def snapshot(
    descriptor: Descriptor,
    open_blob: Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]],
    wanted: Filter,
    advance: Callable[[int], None],
    *,
    diff_id: str | None = None,
) -> Snapshot:
    """What a layer says, from the cache by its digest, else by streaming it: once, or twice for odd hard links.

    Raises `MismatchError` when the bytes are not those of `descriptor`, or the tar is not that of `diff_id`,
    `InputError` when they are not a sound layer.
    """
    path = cache_dir("layers") / f"{descriptor.digest.removeprefix('sha256:')}-{sha256(wanted.key.encode())[:16]}.zip"
    made = load_snapshot(path, descriptor, wanted.key)
    if made is not None:
        advance(descriptor.size)
        check_diff_id(made.diff_id, diff_id, descriptor)
        return made
    made = _stream(descriptor, open_blob, wanted, advance)
    check_diff_id(made.diff_id, diff_id, descriptor)
    if made.missing:
        made = _stream(descriptor, open_blob, wanted.with_extra(made.missing), lambda _amount: None)
    save_snapshot(path, made, descriptor, wanted.key)
    return made


def has_index(descriptor: Descriptor) -> bool:
    """Whether an index of a layer is in the cache, whatever was kept of the layer."""
    return any(cache_dir("layers").glob(f"{descriptor.digest.removeprefix('sha256:')}-*.zip"))


def _stream(
    descriptor: Descriptor,
    open_blob: Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]],
    wanted: Filter,
    advance: Callable[[int], None],
) -> Snapshot:
    with open_blob(descriptor) as chunks:
        raw = BlobStream(chunks, descriptor, each=lambda chunk: advance(len(chunk)))
        try:
            stream = LayerStream(raw, descriptor.size)
            made = scan(stream, wanted)
            made.diff_id = stream.finish()
        except Exception as error:
            if not is_unsound(error) and not isinstance(error, InputError):
                raise
            # A damaged stream is first of all not the blob that is named.
            raw.finish()
            if isinstance(error, InputError):
                raise
            raise _unsound(error) from error
        raw.finish()
    return made


def _unsound(error: Exception) -> InputError:
    return InputError(
        f"a layer of the base is not a sound tar: {error}",
        hint="Docker and containerd refuse such a layer, or read it in another way: do not use this base",
    )


def scan(stream: Readable, wanted: Filter) -> Snapshot:
    """What a layer's tar says. Raises `InputError` when it is not a sound layer."""
    notes = _Notes(wanted)
    try:
        reader = TarReader(stream)
        for count, member in enumerate(reader):
            if count > _MAX_ENTRIES:
                raise InputError(
                    f"a layer of the base has more than {_MAX_ENTRIES:,} entries", hint="do not use this base"
                )
            notes.add(member, reader)
    except (TarError, EOFError, zlib.error, OverflowError) as error:
        raise _unsound(error) from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise _unsound(error) from error
        raise
    return notes.done()


class _Notes:
    """What is known of a layer while its tar is read, in its order: a hard link is the file that its target is then."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._found = Snapshot()
        self._files: set[int] = set()
        self._folders: set[int] = set()
        self._aside: dict[str, LayerEntry] = {}
        self._links: dict[str, str] = {}
        self._missing: set[str] = set()
        self._above: set[str] = set()
        self._kept = 0

    def done(self) -> Snapshot:
        self._found.files = PathSet.of(self._files)
        self._found.folders = PathSet.of(self._folders)
        used = {entry.digest for entry in self._found.entries.values()}
        self._found.contents = {digest: data for digest, data in self._found.contents.items() if digest in used}
        missing = set(self._missing)
        for name in list(missing):
            # A chain of links: the content is that of the first name.
            while (name := self._links.get(name, "")) and name not in missing:
                missing.add(name)
        self._found.missing = frozenset(missing)
        return self._found

    def add(self, member: Member, reader: TarReader) -> None:
        name = clean_name(member.name)
        if not name:
            return
        base = PurePosixPath(name).name
        if base.startswith(WHITEOUT):
            self._whiteout(PurePosixPath(name), base)
            return
        entry = self._entry(name, member, reader)
        if self._wanted.wants(name) or member.kind == "symlink" or self._owns(name, entry):
            if self._wanted.inside(name):
                _check_name(name)
                if name.rpartition("/")[0] not in self._above:
                    self._above.update(map(str, PurePosixPath(name).parents))
            self._found.entries[name] = entry
            if len(self._found.entries) > _MAX_KEPT:
                raise InputError(
                    "a layer of the base has too many links, or its package too many files", hint="do not use this base"
                )
            return
        # The last of several entries of one name is what is unpacked.
        self._found.entries.pop(name, None)
        now, before = (self._folders, self._files) if member.kind == "directory" else (self._files, self._folders)
        now.add(PathSet.hash(name))
        before.discard(PathSet.hash(name))
        if member.kind != "directory" and (entry.digest or member.kind == "hardlink" or name in self._aside):
            self._aside[name] = entry

    def _owns(self, name: str, entry: LayerEntry) -> bool:
        """Whether an entry is the RECORD of a distribution that has the package, or may be as a link into a lower layer."""
        return (bool(entry.digest) or entry.kind == "hardlink") and self._wanted.is_record(name, installed=True)

    def _whiteout(self, path: PurePosixPath, base: str) -> None:
        if base == OPAQUE:
            self._found.opaque.add(str(path.parent))
            return
        if base.startswith(_AUFS):
            # Notes of AUFS for itself, which every client passes over.
            return
        name = base.removeprefix(WHITEOUT)
        if name in ("", ".", ".."):
            raise InputError(f"a layer of the base has the whiteout {str(path)[:200]!r}", hint="do not use this base")
        removed = str(path.with_name(name))
        if removed in self._above or (removed in self._found.entries and self._wanted.inside(removed)):
            raise InputError(
                f"a layer of the base has /{removed[:200]} and removes it after that",
                hint="Docker refuses such a layer, and containerd removes what the specification keeps: do not use this base",
            )
        self._found.removed.add(removed)

    def _entry(self, name: str, member: Member, reader: TarReader) -> LayerEntry:
        if member.kind == "hardlink":
            return self._hard_link(name, clean_name(member.target))
        if member.kind == "symlink":
            return LayerEntry("symlink", 0o777, target=member.target)
        if member.kind == "directory":
            return LayerEntry("directory", member.mode)
        if member.kind != "file":
            return LayerEntry("other", member.mode)
        digest = ""
        if self._wanted.keeps_content(name, member.size):
            digest = self._keep(reader.content())
            if self._kept > _KEPT_TOGETHER:
                raise InputError(
                    f"the package in the base has more than {_KEPT_TOGETHER >> 20} MiB of text",
                    hint="do not use this base",
                )
        elif self._may_keep_aside(name, member.size):
            digest = self._keep(reader.content())
        elif member.size <= KEPT_BYTES and self._wanted.is_record(name):
            data = reader.content()
            digest = self._keep(data) if self._wanted.is_listed(data) else ""
        return LayerEntry("file", member.mode, member.size, digest=digest)

    def _may_keep_aside(self, name: str, size: int) -> bool:
        """Whether a file elsewhere is kept for a hard link that may follow; without it, the layer is read twice."""
        return (
            size <= KEPT_BYTES
            and self._kept + size <= _KEPT_TOGETHER // 2
            and not name.endswith(COMPILED)
            and self._wanted.may_be_linked(name)
        )

    def _keep(self, data: bytes) -> str:
        digest = sha256(data)
        if digest not in self._found.contents:
            self._found.contents[digest] = data
            self._kept += len(data)
        return digest

    def _hard_link(self, name: str, target: str) -> LayerEntry:
        """The same file under another name, as it is at this point of the tar; else one of the layers below."""
        known = self._found.entries.get(target) or self._aside.get(target)
        if known is not None:
            self._links[name] = target
            unread = known.kind == "file" and not known.digest and known.size <= KEPT_BYTES
            if (unread or (known.kind == "other" and target in self._links)) and self._needs(name, target):
                self._missing.add(target)
            return known if known.kind in ("file", "symlink", "hardlink") else LayerEntry("other", known.mode)
        if PathSet.hash(target) in self._files:
            self._links[name] = target
            if self._needs(name, target):
                self._missing.add(target)
            return LayerEntry("other", 0o644)
        # What the same layer removes is no longer in the layers below.
        gone = {target, *map(str, PurePosixPath(target).parents)} & (self._found.removed | self._found.opaque)
        return LayerEntry("other", 0o644) if gone else LayerEntry("hardlink", 0o644, target=target)

    def _needs(self, name: str, target: str) -> bool:
        """Whether a link's content is wanted. A RECORD under its own name was looked at when it was read."""
        if self._wanted.is_record(name, installed=True) and not self._wanted.is_record(target):
            return True
        return self._wanted.wants(name) and self._wanted.keeps_content(name, 0)


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"a layer of the base has a file in the package whose name is not UTF-8 text: {name[:200]!r}",
            hint="do not use this base",
        ) from error
