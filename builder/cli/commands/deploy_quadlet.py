"""`builder deploy quadlet`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import MODEL, PORT, Published, published, published_options


@click.command(name="quadlet")
@published_options
@MODEL
@PORT
@common_options
@published
def command(to: Published, model: str | None, port: int) -> None:
    """Render podman Quadlet units that serve PROFILES of RECIPE, for podman 5 and systemd."""
    from builder.serve.deploy.quadlet import units

    to.write(units(to.services, model=to.model(model), port=port))
