"""`builder render`: the Docker context of a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli import common_options
from builder.console import Console


@click.command(name="render")
@click.argument("recipe")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--offline", is_flag=True, help="Use the vendored diffs and the cache only.")
@common_options
def command(recipe: str, output: Path, offline: bool, console: Console) -> None:
    """Write RECIPE's self-contained Docker context: `docker build DIR` needs nothing else.

    With several platforms, each has its own folder in DIR.
    """
    from builder.build import ENTRYPOINT, docker_base, image_labels
    from builder.image.context import render_context
    from builder.opened import open_recipe

    opened = open_recipe(recipe, console=console, offline=offline)
    base = docker_base(opened)
    plans = opened.plans(console=console, offline=offline)
    folders = []
    for plan in plans:
        folder = output if len(plans) == 1 else output / str(plan.platform).replace("/", "-")
        render_context(
            folder,
            base,
            plan.rootfs,
            labels=image_labels(opened.lock, plan.record),
            entrypoint=ENTRYPOINT,
            name=opened.lock.name,
        )
        folders.append(str(folder))
        console.out(f"rendered {folder}; build it with: docker build {folder}")
    console.document({"name": opened.lock.name, "base": base, "output": folders})
