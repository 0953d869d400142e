"""An OCI image layout on disk as a base: `oci:DIR` or `oci:DIR:NAME`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.base.images import layered_tree, resolve_image
from builder.base.model import BaseImage, PackageTree
from builder.documents.reference import BaseReference, Platform
from builder.oci.blobs import checked
from builder.oci.layout import REF_NAME, Layout
from builder.oci.types import OCI_INDEX, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import sha256


class LayoutBase:
    """A base in an OCI layout. Its blobs are read in place."""

    def __init__(self, reference: BaseReference, *, root: Path, context: Context) -> None:
        self.reference = reference.text
        rest = reference.target
        self.folder = root / rest
        self._name: str | None = None
        if not self.folder.is_dir() and ":" in rest:
            folder, self._name = rest.rsplit(":", 1)
            self.folder = root / folder
        archive = next((each for each in (root / rest, self.folder) if each.is_file()), None)
        if archive is not None:
            raise InputError(
                f"{archive} is a file, and oci: names a folder",
                hint=f"unpack it: skopeo copy oci-archive:{shlex.quote(str(archive))} oci:base, or with docker-archive: what docker save wrote",
            )
        if not self.folder.is_dir():
            raise InputError(
                f"there is no folder {self.folder}", hint="the recipe's base is relative to the project root"
            )
        self._layout = Layout(self.folder)
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        top, data = self._top()
        return resolve_image(self.reference, top.digest, top.media_type, data, platform, self._layout.read)

    def _top(self) -> tuple[Descriptor, bytes]:
        """What the reference names, checked; the layout's own index, when that lists the images of several platforms."""
        entries = self._layout.entries()
        if len({each.digest for each in entries}) > 1:
            names = {each.annotations.get(REF_NAME, "") for each in entries}
            ours = len(names) == 1 and self._name in (None, *names)
            if ours and any(each.platform for each in entries):
                data = self._layout.index_bytes()
                return Descriptor(OCI_INDEX, f"sha256:{sha256(data)}", len(data)), data
        top = self._layout.resolve(self._name)
        return top, self._layout.read(top)

    def tree(self, platform: Platform, package: str, *further: str, listing: bool = False) -> PackageTree:
        image = self.image(platform)
        return layered_tree(
            image, (package, *further), lambda descriptor: self.blob(image, descriptor), self._context, whole=True,
            listing=listing,
        )  # fmt: skip

    @contextmanager
    def blob(self, image: BaseImage, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:  # noqa: ARG002
        with self._layout.chunks(descriptor.digest) as chunks:
            yield checked(chunks, descriptor)
