"""`builder deploy compose`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import MODEL, PORT, Published, published, published_options


@click.command(name="compose")
@published_options
@MODEL
@PORT
@common_options
@published
def command(to: Published, model: str | None, port: int) -> None:
    """Render a compose.yaml that serves PROFILES of RECIPE (default: the recipe's default profile)."""
    from builder.serve.deploy.compose import compose

    to.write({"compose.yaml": compose(to.services, model=to.model(model), port=port)})
