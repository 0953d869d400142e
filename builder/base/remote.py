"""An image in a registry as a base. Its layers are streamed as far as the package's files need, and cached by digest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from builder.base.images import layered_tree, resolve_image
from builder.base.model import BaseImage, PackageTree
from builder.documents.reference import BaseReference, Platform
from builder.oci.registry.client import Registry
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.errors import InputError


class RegistryBase:
    """A base by tag or digest."""

    def __init__(self, reference: BaseReference, *, context: Context) -> None:
        self.reference = reference.text
        self.parsed = reference.image
        if context.offline:
            raise InputError(
                f"--offline: the base {reference} is not in the cache as far as it is needed",
                hint="run once with the network",
            )
        self._registry = Registry(self.parsed.registry, context=context)
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        wanted = self.parsed.digest or self.parsed.tag or "latest"
        data, media_type, digest = self._registry.manifest(self.parsed.repository, wanted)
        return resolve_image(self.reference, digest, media_type, data, platform, self._small)

    def tree(self, platform: Platform, package: str, *further: str) -> PackageTree:
        image = self.image(platform)
        return layered_tree(image, (package, *further), lambda descriptor: self.blob(image, descriptor), self._context)

    @contextmanager
    def blob(self, image: BaseImage, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:  # noqa: ARG002
        with self._registry.blob(self.parsed.repository, descriptor) as pieces:
            yield pieces

    def _small(self, descriptor: Descriptor) -> bytes:
        if "manifest" in descriptor.media_type:
            return self._registry.manifest(self.parsed.repository, descriptor.digest)[0]
        return self._registry.read_blob(self.parsed.repository, descriptor)
