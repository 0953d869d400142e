"""`builder deploy helm`."""

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


@click.command(name="helm")
@published_options
@MODEL_IMAGE
@MODEL_IMAGE_FOLDER
@click.option("--model-claim", default="model", show_default=True, help="The claim that holds the checkpoint.")
@click.option(
    "--cache-claim", default="cache", show_default=True, help="The claim for caches, one folder for each profile."
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
    cache_claim: str,
    console: Console,
) -> None:
    """Render values for vLLM production-stack's Helm chart, which serve PROFILES of RECIPE."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.production_stack import values

    workspace = open_workspace(recipe, context=Context(console), make=False)
    found = services_of(workspace.lock, profiles, image, startup_seconds)
    held = image_volume(workspace, model_image, model_image_folder)
    documents = {"values.yaml": values(found, model_claim=model_claim, cache_claim=cache_claim, model_image=held)}
    note = accepted(workspace, [image], allow=allow_unaccepted)
    write(documents, output, force, console, note)
