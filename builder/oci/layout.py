"""OCI image layouts: writing images into one, and reading what is in it.

Source: OCI image layout spec 1.0.0 (`oci-layout`, `index.json`, `blobs/sha256/`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.documents.reference import with_algorithm
from builder.oci.blobs import check_bytes, check_layer
from builder.oci.document import DOCUMENT_LIMIT, parse_object, read_manifest
from builder.oci.platforms import CONFIG_TYPES
from builder.oci.types import MANIFEST_TYPES, OCI_INDEX, BlobSource, Descriptor, encode
from builder.util.errors import InputError, MismatchError
from builder.util.files import (
    CheckedFiles,
    clear_leftovers,
    open_regular,
    read_regular,
    replacing,
    write_file,
)
from builder.util.holding import holding

REF_NAME = "org.opencontainers.image.ref.name"
RECIPE_NAME = "dev.overlay-image-builder.name"
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK = 1 << 20
_BLOB_LIMIT = 512 << 20
"""Bytes of a blob that is read into memory: a manifest, a config, our own layer, evidence."""
_MANIFEST_LIMIT = 4 << 20


@dataclass(frozen=True)
class Layout:
    """An OCI layout on disk."""

    folder: Path

    def blob_path(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read_blob(self, digest: str) -> bytes:
        """A small blob (manifest, config, our layer), checked. Raises `InputError` when it is missing."""
        with self._reading(digest):
            data = read_regular(self.blob_path(digest), limit=_BLOB_LIMIT)
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise MismatchError(
                f"a blob in {self.folder} does not have the content that its name promises",
                details=[("wanted", digest), ("found", found)],
                hint="the layout is damaged or was changed: build it again",
            )
        return data

    def read(self, descriptor: Descriptor) -> bytes:
        """A manifest or config, checked against digest and size. Raises `MismatchError` when they differ."""
        with self._reading(descriptor.digest):
            data = read_regular(self.blob_path(descriptor.digest), limit=DOCUMENT_LIMIT)
        return check_bytes(data, descriptor)

    @contextmanager
    def chunks(self, digest: str) -> Iterator[Iterator[bytes]]:
        """A blob's bytes as they are stored, not checked."""
        with self._reading(digest), open_regular(self.blob_path(digest)) as stream:
            yield iter(lambda: stream.read(_CHUNK), b"")

    @contextmanager
    def _reading(self, digest: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(
                f"{self.folder} has no blob {digest}",
                hint="the layout is incomplete: build it again, or copy it whole",
            ) from error

    def read_json(self, digest: str) -> dict[str, Any]:
        return parse_object(self.read_blob(digest), f"blob {digest} in {self.folder}")

    def index_bytes(self) -> bytes:
        """`index.json` as it is. Raises `InputError` when the folder is not a layout."""
        try:
            return read_regular(self.folder / "index.json", limit=DOCUMENT_LIMIT)
        except OSError as error:
            raise self._no_layout() from error

    def entries(self) -> list[Descriptor]:
        """What `index.json` lists. Raises `InputError` when the folder is not a layout."""
        manifests = parse_object(self.index_bytes(), f"{self.folder}/index.json").get("manifests")
        if not isinstance(manifests, list):
            raise self._no_layout()
        return [Descriptor.from_json(each) for each in manifests]

    def _no_layout(self) -> InputError:
        return InputError(
            f"{self.folder} is not an OCI image layout",
            hint="it has a file index.json, which lists manifests, and a folder blobs/",
        )

    def resolve(self, name: str | None = None) -> Descriptor:
        """The entry called `name` (a tag or a digest), or the only image when no name is given."""
        # What only refers to an image, and has no name, is never what was meant.
        entries = [each for each in self.entries() if REF_NAME in each.annotations or not each.artifact_type]
        if name is not None:
            wanted = with_algorithm(name)
            named = [each for each in entries if name == each.annotations.get(REF_NAME) or wanted == each.digest]
            if not named:
                known = sorted({each.annotations.get(REF_NAME, each.digest) for each in entries})
                raise InputError(
                    f"{self.folder} has no image {name!r}", hint=f"it has: {', '.join(known) or 'nothing'}"
                )
            return named[0]
        if len({each.digest for each in entries}) > 1:
            entries = [each for each in entries if self._is_image(each)] or entries
        digests = {each.digest for each in entries}
        if len(digests) != 1:
            known = sorted({each.annotations.get(REF_NAME, each.digest) for each in entries})
            raise InputError(
                f"{self.folder} has {len(digests)} images",
                hint=f"name one as oci:{self.folder}:NAME: {', '.join(known)}",
            )
        return entries[0]

    def _is_image(self, entry: Descriptor) -> bool:
        """Whether an entry is not an artifact (a signature, an SBOM), which tools list beside an image without saying so."""
        if entry.media_type not in MANIFEST_TYPES:
            return True
        try:
            manifest = read_manifest(self.read(entry), entry.digest)
        except (InputError, MismatchError):
            # What is wrong with it is said when it is used.
            return True
        return manifest.config.media_type in CONFIG_TYPES and "subject" not in manifest.document


def check_target(folder: Path) -> None:
    """Refuse an existing target that is not a layout: a user's folder is never written into."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file", hint="name a folder for the OCI layout")
    # A run that was killed while it wrote the marker has left nothing but that.
    named = any(not each.name.startswith(".oci-layout.") for each in folder.iterdir())
    if named and not (folder / "oci-layout").is_file():
        raise InputError(
            f"{folder} is not empty and is not an OCI layout", hint="name another folder, or empty this one"
        )


def write_layout(
    folder: Path,
    name: str,
    entries: Sequence[tuple[Descriptor, Sequence[str]]],
    blobs: dict[str, bytes],
    base_layers: Sequence[Descriptor] = (),
    source: BlobSource | None = None,
    *,
    local: Layout | None = None,
    diff_ids: Mapping[str, str] | None = None,
    referrers: Sequence[Descriptor] = (),
    advance: Callable[[int], None] = lambda _amount: None,
    waiting: Callable[[str], object] = lambda _who: None,
) -> None:
    """Write images into a layout, which becomes visible last, by its index.

    `referrers` are manifests among `blobs` that refer to the images; the index lists them without a name.
    `entries` are the top descriptors with their tags, `blobs` everything that is at hand, `base_layers` what is linked
    from `local` or streamed from `source`; with neither they stay out, and the layout only names them.
    Whatever is linked or copied is checked against size, digest and, where `diff_ids` (by digest) has one, its diff id.
    Entries of earlier builds of the recipe `name` leave the layout, whatever their tags; images of others are kept.
    The layout is held from the first blob to the last removal; `waiting` is told who holds it, when somebody does.

    Raises `MismatchError` when a base's layer is not what it should be. Then the index stays as it was.
    """
    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder, waiting=waiting):
        check_target(folder)
        target = Layout(folder)
        # First of all, so that what a killed run leaves is known for a layout.
        if not (folder / "oci-layout").is_file():
            write_file(folder / "oci-layout", _MARKER)
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        for digest, data in blobs.items():
            _put(target.blob_path(digest), data)
        checks = _Checks(diff_ids or {})
        for descriptor in base_layers:
            _bring(target, descriptor, source, local, checks, advance)
        _update_index(target, name, entries, referrers)
        collect_garbage(target)


def _put(path: Path, data: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    write_file(path, data)


class _Checks:
    """Checks layers on disk, each file once: what was checked is remembered as long as the file does not change."""

    def __init__(self, diff_ids: Mapping[str, str]) -> None:
        self._diff_ids = diff_ids
        self._known = CheckedFiles()

    def diff_id(self, descriptor: Descriptor) -> str | None:
        return self._diff_ids.get(descriptor.digest)

    def _claim(self, descriptor: Descriptor) -> str:
        return f"layer {descriptor.digest} {descriptor.size} {self.diff_id(descriptor) or '-'}"

    def passed(self, path: Path, descriptor: Descriptor) -> bool:
        return self._known.knows(path, self._claim(descriptor))

    def check(self, path: Path, descriptor: Descriptor, advance: Callable[[int], None]) -> None:
        """Read the file and check it. Raises `MismatchError` when it is not the layer."""
        with open_regular(path) as stream:
            chunks = iter(lambda: stream.read(_CHUNK), b"")
            check_layer(chunks, descriptor, self.diff_id(descriptor), each=lambda chunk: advance(len(chunk)))

    def remember(self, path: Path, descriptor: Descriptor) -> None:
        self._known.remember(path, self._claim(descriptor))


def _bring(
    target: Layout,
    descriptor: Descriptor,
    source: BlobSource | None,
    local: Layout | None,
    checks: _Checks,
    advance: Callable[[int], None],
) -> None:
    """Bring one layer of the base into the layout, checked."""
    path = target.blob_path(descriptor.digest)
    if path.is_file():
        if checks.passed(path, descriptor):
            advance(descriptor.size)
            return
        try:
            checks.check(path, descriptor, advance)
        except MismatchError:
            # Damaged since an earlier build, or by it. The base may have it whole.
            path.unlink()
        else:
            checks.remember(path, descriptor)
            return
    if local is not None:
        origin = local.blob_path(descriptor.digest)
        try:
            passed = checks.passed(origin, descriptor)
            if not passed:
                checks.check(origin, descriptor, advance)
            else:
                advance(descriptor.size)
            _link(origin, path)
        except FileNotFoundError as error:
            raise InputError(
                f"the base layout has no blob {origin.name}", hint="the base is incomplete: copy it whole"
            ) from error
        # A link changes the file's time of change, for both names; a copy is a file of its own.
        checks.remember(origin, descriptor)
        checks.remember(path, descriptor)
    elif source is not None:
        with source(descriptor) as chunks, replacing(path) as stream:

            def keep(chunk: bytes) -> None:
                stream.write(chunk)
                advance(len(chunk))

            check_layer(chunks, descriptor, checks.diff_id(descriptor), each=keep)
        checks.remember(path, descriptor)


def _link(source: Path, target: Path) -> None:
    """Hard-link a blob, or copy it where that cannot be done (another file system)."""
    # The file itself, not a link to it that can point elsewhere tomorrow.
    real = source.resolve(strict=True)
    try:
        os.link(real, target)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError:
        digest = hashlib.sha256()
        with open_regular(real) as reading, replacing(target) as writing:
            while chunk := reading.read(_CHUNK):
                digest.update(chunk)
                writing.write(chunk)
            if digest.hexdigest() != source.name:
                raise MismatchError(f"{source} changed while it was copied", hint="run it again") from None


def _update_index(
    target: Layout, name: str, entries: Sequence[tuple[Descriptor, Sequence[str]]], referrers: Sequence[Descriptor]
) -> None:
    named = [
        Descriptor(each.media_type, each.digest, each.size, {REF_NAME: tag, RECIPE_NAME: name}, each.platform)
        for each, tags in entries
        for tag in tags
    ]
    taken = {each.annotations[REF_NAME] for each in named}
    named += [
        Descriptor(
            each.media_type,
            each.digest,
            each.size,
            {**each.annotations, RECIPE_NAME: name},
            artifact_type=each.artifact_type,
        )
        for each in referrers
    ]
    earlier = target.entries() if (target.folder / "index.json").is_file() else []
    kept = [
        each
        for each in earlier
        if each.annotations.get(RECIPE_NAME) != name and each.annotations.get(REF_NAME) not in taken
    ]
    listed = sorted([*kept, *named], key=lambda each: (each.annotations.get(REF_NAME, ""), each.digest))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.as_json() for each in listed]}
    write_file(target.folder / "index.json", encode(index))


def collect_garbage(layout: Layout) -> None:
    """Remove the blobs that no image of the layout names any more, and what killed runs have left.

    A manifest that cannot be read could name anything: then nothing is removed. The layout must be held.
    """
    with holding(layout.folder):
        wanted = _named(layout)
        clear_leftovers(layout.folder / "index.json")
        clear_leftovers(layout.folder / "oci-layout")
        for path in (layout.folder / "blobs" / "sha256").iterdir():
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                clear_leftovers(path.with_name(path.name.split(".")[1]))
            elif wanted is not None and not path.name.startswith(".") and f"sha256:{path.name}" not in wanted:
                with suppress(IsADirectoryError):
                    path.unlink()


def _named(layout: Layout) -> set[str] | None:
    """Every digest that an image of the layout names, or None when that cannot be told."""
    wanted: set[str] = set()
    queue = [descriptor.digest for descriptor in layout.entries()]
    while queue:
        digest = queue.pop()
        if digest in wanted:
            continue
        wanted.add(digest)
        path = layout.blob_path(digest)
        if not path.is_file() or path.stat().st_size > _MANIFEST_LIMIT:
            continue
        data = path.read_bytes()
        if data[:64].lstrip()[:1] != b"{":
            continue
        try:
            queue += _children(parse_object(data, digest))
        except InputError:
            return None
    return wanted


def _children(document: Mapping[str, Any]) -> Iterable[str]:
    """The digests that an index, a manifest or an artifact names; none for other JSON. Raises `InputError`."""
    for key in ("manifests", "layers", "blobs"):
        listed = document.get(key)
        if isinstance(listed, list) and any(isinstance(each, dict) and "digest" in each for each in listed):
            yield from (Descriptor.from_json(each).digest for each in listed)
    for key in ("config", "subject"):
        child = document.get(key)
        if isinstance(child, dict) and "digest" in child:
            yield Descriptor.from_json(child).digest
