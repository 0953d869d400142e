"""Files of a locked base from its layers as they arrive: what is wanted is known by its digest, so that reading ends with the last one.

A layer that is not read to its end is not checked as a whole, and no index of it is kept. Each file is: it counts when its
SHA-256 is the locked one, under whatever path it is (installers link files out of their caches).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from builder.base.filter import KEPT_BYTES
from builder.base.layers import has_index
from builder.base.model import Base, BaseImage
from builder.base.tarstream import TarReader
from builder.oci.blobs import BlobStream, LayerStream, unpacking
from builder.oci.document import read_manifest
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.files import sha256


@dataclass(frozen=True)
class LockedLayers:
    """The layers of a base in a registry. `image` is the locked one."""

    base: Base
    image: BaseImage
    context: Context

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """From the top down."""
        manifest = read_manifest(self.image.manifest_bytes, f"the manifest of {self.image.reference}")
        return tuple(reversed(manifest.layers))

    @property
    def kept(self) -> bool:
        """Whether the index of some layer is kept: then the layers above the package's were read before, and it too."""
        return any(has_index(each) for each in self.layers)

    def cost(self, wheel: int) -> int:
        """Bytes that reading the package's files may take. The package's layer holds what a wheel of `wheel` bytes holds."""
        if self.kept:
            return 0
        total = 0
        for layer in self.layers:
            total += layer.size
            if layer.size >= wheel // 2:
                break
        return total

    def read(self, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The files among `wanted` (path -> SHA-256) that the layers have, from the top down, until all are there.

        Raises `InputError` for a layer that is not sound as far as it is read, `UnreachableError` without a response.
        """
        found: dict[str, bytes] = {}
        for layer in self.layers:
            missing = {path: digest for path, digest in wanted.items() if digest not in found}
            if not missing:
                break
            with self.context.console.progress(f"reading layer {layer.digest[7:19]}", total=layer.size) as bar:
                self._read_layer(layer, missing, found, bar.advance)
        return {path: found[digest] for path, digest in wanted.items() if digest in found}

    def _read_layer(
        self, layer: Descriptor, missing: Mapping[str, str], found: dict[str, bytes], advance: Callable[[int], None]
    ) -> None:
        names = {path.rpartition("/")[2] for path in missing}
        left = set(missing.values())
        with self.base.blob(self.image, layer) as chunks:
            raw = BlobStream(chunks, layer, each=lambda chunk: advance(len(chunk)))
            with unpacking(raw, layer):
                if _take(TarReader(LayerStream(raw, layer.size)), names, left, found):
                    return
            raw.finish()


def _take(reader: TarReader, names: Collection[str], left: set[str], found: dict[str, bytes]) -> bool:
    """Move digests from `left` to `found` as their files pass. Whether none is left; then the rest is not read."""
    for member in reader:
        if member.kind != "file" or member.name.rpartition("/")[2] not in names or member.size > KEPT_BYTES:
            continue
        data = reader.content()
        digest = sha256(data)
        if digest in left:
            found[digest] = data
            left.remove(digest)
            if not left:
                return True
    return False
