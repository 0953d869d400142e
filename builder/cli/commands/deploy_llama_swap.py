"""`builder deploy llama-swap`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import MODEL, Published, published, published_options


@click.command(name="llama-swap")
@published_options
@MODEL
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    default="docker",
    show_default=True,
    help="What runs the containers.",
)
@common_options
@published
def command(to: Published, model: str | None, engine: str) -> None:
    """Render a llama-swap configuration that starts PROFILES of RECIPE when they are asked for."""
    from builder.serve.deploy.llama_swap import config

    to.write({"config.yaml": config(to.services, model=to.model(model), engine=engine)})
