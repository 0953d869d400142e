"""OCI image layouts: writing images into one, and reading what is there.

Source: OCI image layout spec 1.0.0 (`oci-layout`, `index.json`, `blobs/sha256/`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, BlobSource, Descriptor, encode
from builder.util.errors import InputError, MismatchError
from builder.util.files import replacing, write_file

REF_NAME = "org.opencontainers.image.ref.name"
RECIPE_NAME = "dev.overlay-image-builder.name"
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True)
class Layout:
    """An OCI layout on disk."""

    folder: Path

    def blob_path(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read_blob(self, digest: str) -> bytes:
        """A small blob (manifest, config, our layer), checked. Raises `InputError` when it is not there."""
        try:
            data = self.blob_path(digest).read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.folder} has no blob {digest}",
                hint="the layout is incomplete: build it again, or copy it whole",
            ) from error
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise MismatchError(
                f"a blob in {self.folder} does not have the content that its name promises",
                details=[("wanted", digest), ("found", found)],
                hint="the layout is damaged or was changed: build it again",
            )
        return data

    def read_json(self, digest: str) -> dict[str, Any]:
        try:
            document = json.loads(self.read_blob(digest))
        except ValueError as error:
            raise InputError(f"blob {digest} in {self.folder} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"blob {digest} in {self.folder} is not a JSON object")
        return document

    def entries(self) -> list[Descriptor]:
        """What `index.json` lists. Raises `InputError` when the folder is no layout."""
        try:
            index = json.loads((self.folder / "index.json").read_bytes())
            manifests = index["manifests"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.folder} is not an OCI image layout", hint="it has a file index.json and a folder blobs/"
            ) from error
        if not isinstance(manifests, list):
            raise InputError(f"{self.folder}/index.json lists no manifests")
        return [Descriptor.from_json(each) for each in manifests]

    def resolve(self, name: str | None = None) -> Descriptor:
        """The entry called `name` (a tag or a digest), or the only image when no name is given."""
        # What only refers to an image, and has no name, is never what was meant.
        entries = [each for each in self.entries() if REF_NAME in each.annotations or not each.artifact_type]
        if name is not None:
            named = [each for each in entries if name in (each.annotations.get(REF_NAME), each.digest)]
            if not named:
                known = sorted({each.annotations.get(REF_NAME, each.digest) for each in entries})
                raise InputError(
                    f"{self.folder} has no image {name!r}", hint=f"it has: {', '.join(known) or 'nothing'}"
                )
            return named[0]
        digests = {each.digest for each in entries}
        if len(digests) != 1:
            known = sorted({each.annotations.get(REF_NAME, each.digest) for each in entries})
            raise InputError(
                f"{self.folder} has {len(digests)} images",
                hint=f"name one as oci:{self.folder}:NAME: {', '.join(known)}",
            )
        return entries[0]


def check_target(folder: Path) -> None:
    """Refuse a target that is there and is not a layout: a user's folder is never written into."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file", hint="name a folder for the OCI layout")
    if any(folder.iterdir()) and not (folder / "oci-layout").is_file():
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
    referrers: Sequence[Descriptor] = (),
    advance: Callable[[int], None] = lambda _amount: None,
) -> None:
    """Write images into a layout, which becomes visible last, by its index.

    `referrers` are manifests among `blobs` that refer to the images; the index lists them without a name.
    `entries` are the top descriptors with their tags, `blobs` everything that is at hand, `base_layers` what is linked
    from `local` or streamed from `source`; with neither they stay out, and the layout only names them.
    Entries of earlier builds of the recipe `name` leave the layout, whatever their tags; images of others are kept.
    """
    check_target(folder)
    target = Layout(folder)
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    for digest, data in blobs.items():
        path = target.blob_path(digest)
        if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
            write_file(path, data)
    for descriptor in base_layers:
        path = target.blob_path(descriptor.digest)
        if path.is_file() and path.stat().st_size == descriptor.size:
            advance(descriptor.size)
        elif local is not None:
            _link(local.blob_path(descriptor.digest), path)
            advance(descriptor.size)
        elif source is not None:
            with source(descriptor) as pieces, replacing(path) as stream:
                for piece in pieces:
                    stream.write(piece)
                    advance(len(piece))
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
    earlier = target.entries() if (folder / "index.json").is_file() else []
    kept = [
        each
        for each in earlier
        if each.annotations.get(RECIPE_NAME) != name and each.annotations.get(REF_NAME) not in taken
    ]
    listed = sorted([*kept, *named], key=lambda each: (each.annotations.get(REF_NAME, ""), each.digest))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.as_json() for each in listed]}
    write_file(folder / "oci-layout", _MARKER)
    write_file(folder / "index.json", encode(index))
    collect_garbage(target)


def collect_garbage(layout: Layout) -> None:
    """Remove the blobs that no image of the layout names any more: yesterday's builds."""
    wanted: set[str] = set()
    queue = [descriptor.digest for descriptor in layout.entries()]
    while queue:
        digest = queue.pop()
        if digest in wanted:
            continue
        wanted.add(digest)
        path = layout.blob_path(digest)
        if not path.is_file() or path.stat().st_size > 4 << 20:
            continue
        try:
            document = json.loads(path.read_bytes())
        except ValueError:
            continue
        if isinstance(document, dict) and document.get("mediaType") in (*INDEX_TYPES, *MANIFEST_TYPES):
            children = [*document.get("manifests", []), *document.get("layers", []), document.get("config")]
            queue += [child["digest"] for child in children if child]
    for path in (layout.folder / "blobs" / "sha256").iterdir():
        if not path.name.startswith(".") and f"sha256:{path.name}" not in wanted:
            path.unlink()


def _link(source: Path, target: Path) -> None:
    """Hard-link a blob, or copy it where that cannot be done (another file system)."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError as error:
        raise InputError(
            f"the base layout has no blob {source.name}", hint="the base is incomplete: copy it whole"
        ) from error
    except OSError:
        with source.open("rb") as reading, replacing(target) as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
