"""An OCI image layout on disk as a base: `oci:DIR` or `oci:DIR:NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.base.images import layered_tree, resolve_image
from builder.base.model import BaseImage
from builder.base.tree import LayeredTree
from builder.documents.reference import BaseReference, Platform
from builder.oci.layout import Layout
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.errors import InputError

_PIECE = 1 << 20


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
        if not self.folder.is_dir():
            raise InputError(
                f"there is no folder {self.folder}", hint="the recipe's base is relative to the project root"
            )
        self._layout = Layout(self.folder)
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        top = self._layout.resolve(self._name)
        data = self._layout.read_blob(top.digest)
        return resolve_image(
            self.reference, top.digest, top.media_type, data, platform, lambda each: self._layout.read_blob(each.digest)
        )

    def tree(self, platform: Platform, package: str) -> LayeredTree:
        image = self.image(platform)
        return layered_tree(image, package, lambda descriptor: self.blob(image, descriptor), self._context)

    @contextmanager
    def blob(self, image: BaseImage, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        path = self._layout.blob_path(descriptor.digest)
        try:
            stream = path.open("rb")
        except OSError as error:
            raise InputError(
                f"{image.reference} has no blob {descriptor.digest}", hint="the layout is incomplete: copy it whole"
            ) from error
        with stream:
            yield iter(lambda: stream.read(_PIECE), b"")
