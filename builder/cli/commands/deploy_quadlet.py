"""`builder deploy quadlet`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import accepted, model_on_machine, published_options, services_of, write
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="quadlet")
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
    """Render podman Quadlet units that serve PROFILES of RECIPE, for podman 5 and systemd."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.quadlet import units

    workspace = open_workspace(recipe, context=Context(console), make=False)
    found = services_of(workspace.lock, profiles, image, startup_seconds)
    documents = units(found, model=model_on_machine(workspace, model), port=port)
    note = accepted(workspace, [image], allow=allow_unaccepted)
    write(documents, output, force, console, note)
