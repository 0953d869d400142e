"""What image bases have in common: choosing a platform's manifest, and the tree over its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from builder.base.filter import Filter
from builder.base.layers import snapshot
from builder.base.model import BaseImage, PackageTree
from builder.base.snapshot import Snapshot
from builder.base.together import together
from builder.base.tree import LayeredTree
from builder.documents.reference import Platform
from builder.oci.blobs import check_bytes
from builder.oci.document import DOCUMENT_LIMIT, parse_object, read_config, read_manifest
from builder.oci.platforms import CONFIG_TYPES, choose_image, preference
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError


def resolve_image(
    reference: str, digest: str, media_type: str, data: bytes, platform: Platform, fetch: Callable[[Descriptor], bytes]
) -> BaseImage:
    """From the bytes that a reference named (an index or a manifest) to one platform's image. `fetch` reads small blobs.

    Raises `InputError` when there is no image for the platform, or when index, manifest and config are not sound;
    `MismatchError` when one of them is not what its descriptor says.
    """

    def checked(descriptor: Descriptor) -> bytes:
        if descriptor.size > DOCUMENT_LIMIT:
            raise InputError(
                f"{reference} has a manifest or config of {descriptor.size:,} bytes", hint="do not use this base"
            )
        return check_bytes(fetch(descriptor), descriptor)

    document = parse_object(data, f"the manifest of {reference}")
    written = document.get("mediaType")
    media_type = written if isinstance(written, str) and written else media_type
    if media_type not in (*INDEX_TYPES, *MANIFEST_TYPES) and "manifests" not in document and "layers" not in document:
        raise _not_an_image(reference, media_type)
    top = Descriptor(media_type, digest, len(data))
    descriptor, data = choose_image(top, data, platform, reference, checked)
    if descriptor.media_type not in MANIFEST_TYPES:
        raise _not_an_image(reference, descriptor.media_type)
    manifest = read_manifest(data, f"the manifest of {reference}")
    if manifest.config.media_type not in CONFIG_TYPES:
        raise InputError(
            f"{reference} is not a container image: its config is {manifest.config.media_type[:100]}",
            hint="it is an artifact, such as a chart or a signature; name the image itself",
        )
    if any(layer.media_type.endswith("+encrypted") for layer in manifest.layers):
        raise InputError(
            f"{reference} has encrypted layers", hint="decrypt it first, with skopeo copy --decryption-key"
        )
    config_bytes = checked(manifest.config)
    config = read_config(config_bytes, f"the config of {reference}")
    if preference(platform, config.platform) is None:
        found = "/".join(config.platform.values())
        raise InputError(f"{reference} is for {found}, not {platform}", hint="change the recipe's platforms")
    if len(config.diff_ids) != len(manifest.layers):
        raise InputError(
            f"{reference} has {len(manifest.layers)} layers, and its config names {len(config.diff_ids)}",
            details=[("place", "rootfs.diff_ids")],
            hint="no client would run this image: do not use this base",
        )
    return BaseImage(reference, digest, descriptor, data, config_bytes, platform)


def _not_an_image(reference: str, media_type: str) -> InputError:
    hint = "name an image"
    if media_type.startswith("application/vnd.docker.distribution.manifest.v1+"):
        hint = "it has the old schema 1, which clients no longer take: push it again with a current Docker"
    return InputError(f"{reference} is not a container image but {media_type[:100]}", hint=hint)


def layered_tree(
    image: BaseImage,
    packages: tuple[str, ...],
    open_blob: Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]],
    context: Context,
    *,
    whole: bool = False,
    listing: bool = False,
) -> PackageTree:
    """The tree of one package or several of an image, whose layers are streamed as far as they are needed, or all with `whole`.

    With `listing`, what every distribution says of itself can be read, for which all layers are read.
    """
    manifest = read_manifest(image.manifest_bytes, f"the manifest of {image.reference}")
    config = read_config(image.config_bytes, f"the config of {image.reference}")

    def read(descriptor: Descriptor, wanted: Filter, diff_id: str | None) -> Snapshot:
        label = f"reading layer {descriptor.digest[7:19]}"
        with context.console.progress(label, total=descriptor.size) as bar:
            return snapshot(descriptor, open_blob, wanted, bar.advance, diff_id=diff_id)

    package, *further = packages
    first = LayeredTree(
        manifest.layers, config, package, read, image.reference, whole=whole, further=further, listing=listing
    )
    return together({package: first, **{each: first.beside(each) for each in further}}, image.reference)
