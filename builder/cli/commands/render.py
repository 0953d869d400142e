"""`builder render`: the Docker contexts of recipes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import recipe_names, without_locks
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError

if TYPE_CHECKING:
    from builder.image.bake import Target


@click.command(name="render")
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...", shell_complete=recipe_names)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--bake", is_flag=True, help="Write a folder per recipe, and DIR/docker-bake.json over all of them.")
@offline_option
@common_options
def command(recipes: tuple[str, ...], output: Path, bake: bool, context: Context, console: Console) -> None:
    """Write RECIPE's self-contained Docker context: `docker build DIR` needs nothing else.

    With several platforms, each has its own folder in DIR. Several recipes go with --bake, and `docker buildx bake`
    then builds them all.
    """
    names = without_locks(recipes, "builder render RECIPE --output DIR")
    if bake:
        console.document(_bake(names, output, console=console, context=context))
        return
    if len(names) != 1:
        raise InputError("several recipes need --bake", hint="or render each into a folder of its own")
    console.document(_context(names[0], output, console=console, context=context)[0])


def _context(name: str, output: Path, *, console: Console, context: Context) -> tuple[dict[str, Any], list[Target]]:
    """Render one recipe; the document for `--json`, and its contexts as targets with absolute folders."""
    from builder.documents.lock import overlay_lines
    from builder.image.bake import Target
    from builder.image.context import render_context
    from builder.image.labels import entrypoint_of, image_labels
    from builder.image.tags import image_tags
    from builder.pipeline.build import rendered_base
    from builder.pipeline.workspace import open_workspace

    workspace = open_workspace(name, context=context)
    base = rendered_base(workspace)
    plans = workspace.plans()
    where = workspace.recipe.publish or workspace.lock.name
    tags = tuple(f"{where}:{tag}" for tag in image_tags(workspace.lock).all)
    targets = []
    for plan in plans:
        suffix = str(plan.platform).replace("/", "-")
        folder = output if len(plans) == 1 else output / suffix
        render_context(
            folder,
            base,
            plan.rootfs,
            labels=image_labels(workspace.lock, plan.record),
            entrypoint=entrypoint_of(plan.record),
            name=workspace.lock.name,
        )
        own = tags if len(plans) == 1 else tuple(f"{tag}-{suffix}" for tag in tags)
        target = workspace.lock.name if len(plans) == 1 else f"{workspace.lock.name}-{suffix}"
        # A target's name may have no dots.
        targets.append(Target(target.replace(".", "_"), str(folder), own, str(plan.platform)))
        console.out(f"rendered {folder}; build it with: docker build {shlex.quote(str(folder))}")
    overlays = [overlay.summary() for overlay in workspace.lock.overlays]
    for line in overlay_lines(overlays):
        console.out(f"  overlay {line}")
    document = {"name": workspace.lock.name, "base": base, "output": [each.context for each in targets]}
    return {**document, "overlays": overlays}, targets


def _bake(names: list[str], output: Path, *, console: Console, context: Context) -> dict[str, Any]:
    from dataclasses import replace

    from builder.image.bake import bake_file
    from builder.util.files import write_file

    path = output / "docker-bake.json"
    if output.exists() and any(output.iterdir()) and not path.is_file():
        raise InputError(
            f"{output} is not empty and has no docker-bake.json", hint="name another folder, or empty this one"
        )
    documents, targets = [], []
    for name in names:
        document, found = _context(name, output / Path(name).stem, console=console, context=context)
        documents.append(document)
        targets += [replace(each, context=str(Path(each.context).relative_to(output))) for each in found]
    write_file(path, json.dumps(bake_file(targets), indent=2).encode() + b"\n")
    console.out(f"wrote {path}; build everything with: docker buildx bake --file {shlex.quote(str(path))}")
    return {"bake": str(path), "recipes": documents}
