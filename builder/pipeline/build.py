"""Building: plans become an image, with one of the two engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder.base.oci_layout import LayoutBase
from builder.base.open import open_locked
from builder.documents.lock import Lock
from builder.documents.recipe import Recipe
from builder.documents.reference import BaseReference
from builder.image.built import Built, put_together
from builder.image.layer import make_layer
from builder.image.manifest import make_index
from builder.image.tags import image_tags
from builder.oci.artifact import Referrer
from builder.oci.document import read_config
from builder.oci.layout import Layout, write_layout
from builder.pipeline.docker_base import base_name
from builder.pipeline.plan import Plan
from builder.pipeline.workspace import Workspace
from builder.util.errors import InputError


def check_engine(recipe: Recipe, engine: str | None, *, load: bool) -> None:
    """Raise `InputError` when the recipe's image cannot be made by `engine`, or loaded into Docker.

    `engine` is None when it is chosen later. Asked before anything is resolved or built.
    """
    base = BaseReference.parse(recipe.base)
    if base.kind == "docker" and engine == "oci":
        raise _layers_are_unknown()
    if base.kind == "wheel" and load:
        raise InputError(
            "an image on a wheel base cannot be loaded into Docker",
            hint="leave out --load, or name a base such as vllm/vllm-openai:v0.20.0",
        )
    if base.kind == "wheel" and engine == "docker":
        raise _no_image_below()
    if engine == "docker" and len(recipe.platforms) > 1:
        raise InputError("the docker engine builds one platform", hint="use --engine oci for several platforms")


def _layers_are_unknown() -> InputError:
    return InputError(
        "the oci engine cannot name the layers of a docker: base, which only the daemon has",
        hint="use --engine docker without --output, --with-base and --load, or name the image in its registry as the base",
    )


def _no_image_below() -> InputError:
    return InputError(
        "a wheel base has no image to build on with Docker",
        hint="use --engine oci, or a base such as vllm/vllm-openai:v0.20.0",
    )


def build_images(lock: Lock, plans: Sequence[Plan], *, meanwhile: Callable[[], object] | None = None) -> Built:
    """Put layers and bases together. Nothing is read or written. `meanwhile` is run while layers are packed."""
    pack, ahead = lock.layer == "tar+gzip", meanwhile is not None or len(plans) > 1
    layers = [make_layer(plan.rootfs, epoch=lock.epoch, pack=pack, ahead=ahead) for plan in plans]
    if meanwhile is not None:
        meanwhile()
    images = {
        str(plan.platform): put_together(lock, plan.base, layer, plan.record)
        for plan, layer in zip(plans, layers, strict=True)
    }
    if len(images) == 1:
        return Built(images, next(iter(images.values())).manifest, None, image_tags(lock))
    top, data = make_index(list(images.values()))
    return Built(images, top, data, image_tags(lock))


def write_oci(
    workspace: Workspace, built: Built, folder: Path, *, with_base: bool, referrers: Sequence[Referrer] = ()
) -> bool:
    """Write the image as an OCI layout; whether the layout is complete (has the base's layers too).

    `referrers` are what travels with the image, so that the layout alone can be verified.
    A base that is an OCI layout itself is hard-linked. A registry's layers stay there unless `with_base` asks for them.
    """
    lock = workspace.lock
    kind = lock.base.parsed.kind
    if kind == "docker":
        raise _layers_are_unknown()
    blobs: dict[str, bytes] = {}
    for image in built.images.values():
        blobs |= image.own_blobs
    if built.index is not None:
        blobs[built.top.digest] = built.index
    for each in referrers:
        blobs |= {**each.blobs, each.descriptor.digest: each.manifest}
    owner = {each.digest: image.base for image in built.images.values() for each in image.base_layers}
    layers = {each.digest: each for image in built.images.values() for each in image.base_layers}
    wanted = list(layers.values()) if kind == "oci" or with_base else []
    base = open_locked(lock.base, root=workspace.project.root, context=workspace.context) if wanted else None
    with workspace.context.console.progress("base layers", total=sum(each.size for each in wanted)) as bar:
        write_layout(
            folder,
            lock.name,
            [(built.top, built.tags.all)],
            blobs,
            wanted,
            (lambda descriptor: base.blob(owner[descriptor.digest], descriptor)) if base is not None else None,
            local=Layout(base.folder) if isinstance(base, LayoutBase) else None,
            diff_ids=_diff_ids(built) if wanted else {},
            referrers=[each.descriptor for each in referrers],
            advance=bar.advance,
            waiting=lambda who: workspace.context.console.say(f"waiting for {who}, which writes to {folder}"),
        )
    return len(wanted) == len(layers)


def _diff_ids(built: Built) -> dict[str, str]:
    """Layer digest -> diff id of the base's layers. Raises `InputError` when two configs contradict each other."""
    found: dict[str, str] = {}
    for image in built.images.values():
        config = read_config(image.base.config_bytes, f"the config of {image.base.reference}")
        for layer, diff_id in zip(image.base_layers, config.diff_ids, strict=True):
            if found.setdefault(layer.digest, diff_id) != diff_id:
                raise InputError(
                    f"{image.base.reference} names two diff ids for layer {layer.digest}",
                    hint="no client would run this image: do not use this base",
                )
    return found


def docker_base(workspace: Workspace) -> str:
    """What FROM names: the registry's digest, or the name of an image that is in the daemon."""
    base = workspace.lock.base
    if base.parsed.kind == "registry":
        return str(base.pinned)
    if base.parsed.kind == "docker":
        return base.parsed.target
    if base.parsed.kind == "oci":
        return base_name(workspace.lock)
    raise _no_image_below()


def rendered_base(workspace: Workspace) -> str:
    """What FROM names in a context that leaves this machine: a registry's image, by digest.

    Raises `InputError` for a base that only this machine has.
    """
    base = workspace.lock.base
    if base.parsed.kind in ("docker", "oci"):
        raise InputError(
            f"only this machine has the base {base.reference}: a context with it would build nowhere else",
            hint=f"build it here: `builder build {workspace.project.recipe} --engine docker`; or push the base to a "
            "registry, and name it there as the recipe's base",
        )
    if base.wheel:
        raise InputError(
            "a wheel base has no image for a Dockerfile to begin with",
            hint=f"`builder build {workspace.project.recipe}` makes an image of the package's files alone; or name a base such "
            "as vllm/vllm-openai:v0.20.0",
        )
    return docker_base(workspace)
