"""`builder deploy kubernetes`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import (
    CACHE_GIB,
    MODEL_CLAIM,
    MODEL_IMAGE,
    MODEL_IMAGE_FOLDER,
    Published,
    published,
    published_options,
)


@click.command(name="kubernetes")
@published_options
@MODEL_IMAGE
@MODEL_IMAGE_FOLDER
@MODEL_CLAIM
@CACHE_GIB
@common_options
@published
def command(
    to: Published, model_image: str | None, model_image_folder: str | None, model_claim: str, cache_gib: int
) -> None:
    """Render manifests that serve PROFILES of RECIPE (default: the recipe's default profile), for `kubectl apply -f`."""
    from builder.serve.deploy.kubernetes import manifests

    volume = to.volume(model_image, model_image_folder)
    to.write(manifests(to.services, model_claim=model_claim, cache_gib=cache_gib, model_image=volume))
