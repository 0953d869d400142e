"""An image in a registry as a base. Its layers are streamed as far as the package's files need, and cached by digest.

A base that is pinned may have mirrors: other repositories with the same bytes, asked when its own registry does not give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from builder.base.images import layered_tree, resolve_image
from builder.base.model import BaseImage, Mirrors, PackageTree
from builder.documents.reference import BaseReference, Platform, Reference
from builder.oci.registry.client import Registry
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Place:
    """A repository that may have the base, and the client of its registry."""

    repository: Reference
    context: Context

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.repository.registry, context=self.context)

    def small(self, descriptor: Descriptor) -> bytes:
        if descriptor.media_type in (*INDEX_TYPES, *MANIFEST_TYPES):
            return self.registry.manifest(self.repository.repository, descriptor.digest)[0]
        return self.registry.read_blob(self.repository.repository, descriptor)


class RegistryBase:
    """A base by tag or digest."""

    def __init__(self, reference: BaseReference, *, context: Context, mirrors: Mirrors = Mirrors()) -> None:  # noqa: B008
        self.reference = reference.text
        self.parsed = reference.image
        if context.offline:
            raise InputError(
                f"--offline: the base {reference} is not in the cache as far as it is needed",
                hint="run once with the network",
            )
        # A mirror is asked by digest: what only a tag names can be anything there.
        others = [Reference.parse(each) for each in mirrors.repositories] if self.parsed.digest else []
        self._manifests = mirrors.manifests
        self._places = [_Place(each, context) for each in (self.parsed, *others)]
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        return self._first(lambda place: self._image(place, platform))

    def _image(self, place: _Place, platform: Platform) -> BaseImage:
        wanted = self.parsed.digest or self.parsed.tag or "latest"
        try:
            data, media_type, digest = place.registry.manifest(place.repository.repository, wanted)
        except UnreachableError:
            manifest = self._manifests.get(str(platform))
            if place is self._places[0] or manifest is None:
                raise
            # A mirror may have the locked platform alone: a registry takes no index whose other parts it lacks.
            data, media_type, digest = place.registry.manifest(place.repository.repository, manifest)
            found = resolve_image(self.reference, digest, media_type, data, platform, place.small)
            return replace(found, digest=wanted)
        return resolve_image(self.reference, digest, media_type, data, platform, place.small)

    def tree(self, platform: Platform, package: str, *further: str, listing: bool = False) -> PackageTree:
        image = self.image(platform)
        return layered_tree(
            image, (package, *further), lambda descriptor: self.blob(image, descriptor), self._context, listing=listing
        )

    @contextmanager
    def blob(self, image: BaseImage, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:  # noqa: ARG002
        place = self._places[0] if len(self._places) == 1 else self._first(lambda each: self._holder(each, descriptor))
        with place.registry.blob(place.repository.repository, descriptor) as chunks:
            yield chunks

    @staticmethod
    def _holder(place: _Place, descriptor: Descriptor) -> _Place:
        if not place.registry.has_blob(place.repository.repository, descriptor.digest):
            raise UnreachableError(
                f"{place.repository.name} does not have {descriptor.digest}", hint="name another mirror"
            )
        return place

    def _first(self, ask: Callable[[_Place], Result]) -> Result:
        """The result of the first place that gives one. Raises the error of the base's own registry when none does."""
        errors: list[UnreachableError] = []
        for place in self._places:
            try:
                return ask(place)
            except UnreachableError as error:
                errors.append(error)
                self._context.console.detail(f"not from {place.repository.name}: {error.message}")
        first, *others = errors
        if others:
            names = zip(self._places[1:], others, strict=True)
            first.details = (
                *first.details,
                *((f"mirror {place.repository.name}", error.message) for place, error in names),
            )
        raise first
