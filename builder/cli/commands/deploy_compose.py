"""`builder deploy compose`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import FORCE, IMAGE, OUTPUT, SECONDS, services_of, write
from builder.cli.commands.names import profile_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="compose")
@click.argument("recipe", shell_complete=recipe_names)
@click.argument("profiles", nargs=-1, shell_complete=profile_names)
@IMAGE
@OUTPUT
@FORCE
@SECONDS
@click.option("--model", metavar="DIR", help="The checkpoint's folder on the machine. Default: the recipe's.")
@click.option(
    "--port", type=click.IntRange(1, 65000), default=8000, show_default=True, help="Port of the first profile."
)
@common_options
def command(
    recipe: str,
    profiles: tuple[str, ...],
    image: str,
    output: str,
    force: bool,
    startup_seconds: int | None,
    model: str | None,
    port: int,
    console: Console,
) -> None:
    """Render a compose.yaml that serves PROFILES of RECIPE (default: the recipe's default profile)."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.container import model_folder
    from builder.serve.deploy.compose import compose

    workspace = open_workspace(recipe, context=Context(console), make=False)
    services = services_of(workspace.lock, profiles, image, startup_seconds)
    folder = model or str(model_folder(workspace.project, workspace.lock, None))
    if not folder.startswith("/"):
        raise InputError(f"--model {folder!r} is relative", hint="name the folder's whole path on that machine")
    write({"compose.yaml": compose(services, model=folder, port=port)}, output, force, console)
