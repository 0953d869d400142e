"""`builder deploy compose`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import accepted, model_on_machine, published_options, services_of, write
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="compose")
@published_options
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
    allow_unaccepted: bool,
    model: str | None,
    port: int,
    console: Console,
) -> None:
    """Render a compose.yaml that serves PROFILES of RECIPE (default: the recipe's default profile)."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.compose import compose

    workspace = open_workspace(recipe, context=Context(console), make=False)
    services = services_of(workspace.lock, profiles, image, startup_seconds)
    folder = model_on_machine(workspace, model)
    note = accepted(workspace, [image], allow=allow_unaccepted)
    write({"compose.yaml": compose(services, model=folder, port=port)}, output, force, console, note)
