"""Where an image to verify is: an OCI layout or a registry, read alike. Everything that is read is checked by digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from builder.documents.reference import Reference
from builder.oci.layout import Layout
from builder.oci.referrers import find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from builder.util.errors import InputError

_LAYER_LIMIT = 512 << 20


class Reader(Protocol):
    """An image that was named."""

    reference: str
    tag: str | None
    """The tag by which it was named, when it was."""
    top: Descriptor

    def read(self, descriptor: Descriptor) -> bytes: ...

    def evidence(self, subject: str) -> list[tuple[dict[str, Any], bytes]] | None:
        """Each referrer's manifest and document; None where evidence cannot be kept."""


class LayoutReader:
    """An image in an OCI layout."""

    def __init__(self, folder: Path, name: str | None) -> None:
        self._layout = Layout(folder)
        self.reference = f"oci:{folder}{f':{name}' if name else ''}"
        self.tag = name if name and not name.startswith("sha256:") else None
        self.top = self._layout.resolve(name)

    def read(self, descriptor: Descriptor) -> bytes:
        return self._layout.read_blob(descriptor.digest)

    def evidence(self, subject: str) -> None:  # noqa: ARG002
        return None


class RegistryReader:
    """An image in a registry."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self._parsed = Reference.parse(reference)
        self._registry = Registry(self._parsed.registry)
        self.tag = self._parsed.tag
        data, media_type, digest = self._registry.manifest(
            self._parsed.repository, self._parsed.digest or self._parsed.tag or "latest"
        )
        self.top = Descriptor(media_type, digest, len(data))

    def read(self, descriptor: Descriptor) -> bytes:
        if descriptor.media_type in (*INDEX_TYPES, *MANIFEST_TYPES):
            return self._registry.manifest(self._parsed.repository, descriptor.digest)[0]
        return self._registry.read_blob(self._parsed.repository, descriptor, limit=_LAYER_LIMIT)

    def evidence(self, subject: str) -> list[tuple[dict[str, Any], bytes]]:
        found = find_referrers(self._registry, self._parsed.repository, subject)
        return [read_referrer(self._registry, self._parsed.repository, each) for each in found]


def open_reader(text: str) -> Reader:
    """`oci:DIR`, `oci:DIR:NAME`, or a registry's reference."""
    if not text.startswith("oci:"):
        if text.startswith(("docker:", "wheel:", "oci-archive:")):
            raise InputError(
                f"cannot verify {text!r}",
                hint="name a layout (oci:DIR) or an image in a registry; a container verifies itself: docker run IMAGE verify",
            )
        return RegistryReader(text)
    rest = text.removeprefix("oci:")
    if Path(rest).is_dir():
        # A folder whose name has a colon is taken as it is when it is there.
        return LayoutReader(Path(rest), None)
    folder, colon, name = rest.rpartition(":")
    if ":sha256" in rest and not Path(folder).is_dir():
        folder, colon, name = rest.partition(":sha256:")
        name = f"sha256:{name}"
    if colon and Path(folder).is_dir():
        return LayoutReader(Path(folder), name)
    raise InputError(f"there is no folder {rest}", hint="name an OCI layout: oci:DIR or oci:DIR:TAG")


def read_json(reader: Reader, descriptor: Descriptor) -> dict[str, Any]:
    """A manifest or config. Raises `InputError` when it is not a JSON object."""
    try:
        document = json.loads(reader.read(descriptor))
    except ValueError as error:
        raise InputError(f"{descriptor.digest} in {reader.reference} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{descriptor.digest} in {reader.reference} is not a JSON object")
    return document


def manifests(reader: Reader) -> list[Descriptor]:
    """The image manifests of a reference, one per platform."""
    if reader.top.media_type not in INDEX_TYPES:
        return [reader.top]
    return [Descriptor.from_json(each) for each in read_json(reader, reader.top).get("manifests", [])]
