"""`builder publish`: build, and push what the registry lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import click

from builder.cli import common_options
from builder.console import Console
from builder.errors import InputError


@click.command(name="publish")
@click.argument("recipe")
@click.option("--to", metavar="REGISTRY/REPOSITORY", help="Where to push. Default: the recipe's 'publish'.")
@click.option("--move", is_flag=True, help="Move the checkpoint's tag (ckpt-HASH12) to this build as well.")
@common_options
def command(recipe: str, to: str | None, move: bool, console: Console) -> None:
    """Build RECIPE without Docker and push it.

    Layers of a base on the same registry are mounted; of others they are streamed through, without touching the disk.
    The immutable tag is set last, when everything that it names is there.
    """
    from builder.base.open import open_base, parse_reference
    from builder.build import build_images
    from builder.oci import Descriptor, Reference
    from builder.opened import open_recipe
    from builder.plan import pinned_reference
    from builder.store.push import push

    opened = open_recipe(recipe, console=console)
    where = to or opened.recipe.publish
    if where is None:
        raise InputError("where to?", hint="name a repository with --to, or 'publish' in the recipe")
    target = Reference.parse(where)
    if ":" in where.rsplit("/", 1)[-1] or target.digest:
        raise InputError(f"{where!r} has a tag or a digest", hint="name the repository; the tags follow from the lock")
    kind = parse_reference(opened.lock.base.reference)
    if kind in ("wheel", "docker"):
        raise InputError(
            f"an image on a {kind}: base cannot be published", hint="use a base in a registry or an OCI layout"
        )
    built = build_images(opened.lock, opened.plans(console=console, offline=False))
    base = open_base(pinned_reference(opened.lock), root=opened.project.root, console=console)
    owner = {each.digest: image.base for image in built.images.values() for each in image.base_layers}

    def source(descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]:
        return base.blob(owner[descriptor.digest], descriptor)

    home = Reference.parse(opened.lock.base.reference) if kind == "registry" else None
    moved = push(built, target, home, source, move=move, console=console)
    tags = [built.tags.immutable, *([built.tags.moving] if move and built.tags.moving else [])]
    console.out(f"{target.name}@{built.top.digest}")
    console.out(f"  tags  {', '.join(tags)}")
    console.out(
        f"  up    {moved.uploaded:,} bytes of our own; {moved.mounted} layers mounted, {moved.streamed:,} bytes streamed"
    )
    console.document(
        {
            "name": opened.lock.name,
            "reference": f"{target.name}@{built.top.digest}",
            "digest": built.top.digest,
            "tags": tags,
            "uploaded_bytes": moved.uploaded,
            "streamed_bytes": moved.streamed,
            "mounted_layers": moved.mounted,
            "present_blobs": moved.present,
        }
    )
