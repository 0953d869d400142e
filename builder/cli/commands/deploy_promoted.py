"""`builder deploy promoted`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import TAG
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="promoted")
@click.argument("recipe", shell_complete=recipe_names)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@TAG
@common_options
def command(recipe: str, folder: Path, tag: str | None, console: Console) -> None:
    """Tell the router in FOLDER which image RECIPE's tag names now, and which verdicts its backends' images have.

    FOLDER is what `builder deploy router` wrote. The router shows it to Prometheus, which raises an alert when a backend runs
    another image than the promoted one, or one without a verdict. Run it after each promotion, or every few minutes.
    """
    from builder.pipeline.workspace import open_workspace
    from builder.release.promote.standing import chosen, standings, state
    from builder.serve.router.proxy import PROMOTED, deployed
    from builder.util.files import write_file

    workspace = open_workspace(recipe, context=Context(console), make=False)
    images = deployed(folder)
    if not images:
        raise InputError(
            f"no backend in {folder} has an image that is known",
            hint="name it when the router is deployed: --image REF@DIGEST",
        )
    name, loaded = chosen(workspace.recipe.policies, tag, workspace.project.root)
    found = standings(images, name, loaded, context=workspace.context)
    document = state(found, context=workspace.context)
    write_file(folder / PROMOTED, (json.dumps(document, indent=2) + "\n").encode())
    for backend, each in found.items():
        console.out(f"{backend}  {each.image}")
        console.out(
            f"  {name} names this image" if each.current else f"  {name} names {each.promoted or 'nothing'}: not this image"
        )  # fmt: skip
        for verdict in each.verdicts:
            console.out(f"  {verdict['suite']}  {verdict['reason']}")
    console.document(document)
