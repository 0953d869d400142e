"""`builder deploy llama-swap`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import accepted, model_on_machine, published_options, services_of, write
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="llama-swap")
@published_options
@click.option("--model", metavar="DIR", help="The checkpoint's folder on the machine. Default: the recipe's.")
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    default="docker",
    show_default=True,
    help="What runs the containers.",
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
    engine: str,
    console: Console,
) -> None:
    """Render a llama-swap configuration that starts PROFILES of RECIPE when they are asked for."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.llama_swap import config

    workspace = open_workspace(recipe, context=Context(console), make=False)
    found = services_of(workspace.lock, profiles, image, startup_seconds)
    documents = {"config.yaml": config(found, model=model_on_machine(workspace, model), engine=engine)}
    note = accepted(workspace, [image], allow=allow_unaccepted)
    write(documents, output, force, console, note)
