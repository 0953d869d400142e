"""`builder deploy kubernetes`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import (
    MODEL_IMAGE,
    MODEL_IMAGE_FOLDER,
    accepted,
    image_volume,
    published_options,
    services_of,
    write,
)
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="kubernetes")
@published_options
@MODEL_IMAGE
@MODEL_IMAGE_FOLDER
@click.option("--model-claim", default="model", show_default=True, help="The claim that holds the checkpoint.")
@click.option(
    "--cache-gib", type=click.IntRange(min=1), default=20, show_default=True, help="Size of the cache's claim."
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
    model_image: str | None,
    model_image_folder: str | None,
    model_claim: str,
    cache_gib: int,
    console: Console,
) -> None:
    """Render manifests that serve PROFILES of RECIPE (default: the recipe's default profile), for `kubectl apply -f`."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.kubernetes import manifests

    workspace = open_workspace(recipe, context=Context(console), make=False)
    services = services_of(workspace.lock, profiles, image, startup_seconds)
    note = accepted(workspace, [image], allow=allow_unaccepted)
    write(
        manifests(
            services,
            model_claim=model_claim,
            cache_gib=cache_gib,
            model_image=image_volume(workspace, model_image, model_image_folder),
        ),
        output,
        force,
        console,
        note,
    )
