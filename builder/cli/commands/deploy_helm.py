"""`builder deploy helm`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import (
    MODEL_CLAIM,
    MODEL_IMAGE,
    MODEL_IMAGE_FOLDER,
    Published,
    published,
    published_options,
)


@click.command(name="helm")
@published_options
@MODEL_IMAGE
@MODEL_IMAGE_FOLDER
@MODEL_CLAIM
@click.option(
    "--cache-claim", default="cache", show_default=True, help="The claim for caches, one folder for each profile."
)
@common_options
@published
def command(
    to: Published, model_image: str | None, model_image_folder: str | None, model_claim: str, cache_claim: str
) -> None:
    """Render values for vLLM production-stack's Helm chart, which serve PROFILES of RECIPE."""
    from builder.serve.deploy.production_stack import values

    held = to.volume(model_image, model_image_folder)
    to.write({"values.yaml": values(to.services, model_claim=model_claim, cache_claim=cache_claim, model_image=held)})
