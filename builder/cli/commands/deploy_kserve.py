"""`builder deploy kserve`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import CACHE_GIB, MODEL_CLAIM, Published, published, published_options


@click.command(name="kserve")
@published_options
@MODEL_CLAIM
@CACHE_GIB
@click.option(
    "--model-oci",
    metavar="REF@DIGEST",
    help="An OCI image that holds the checkpoint, instead of the claim. Default: the recipe's.",
)
@common_options
@published
def command(to: Published, model_claim: str, cache_gib: int, model_oci: str | None) -> None:
    """Render KServe LLMInferenceServices that serve PROFILES of RECIPE."""
    from builder.serve.deploy.kserve import services

    held = to.volume(model_oci)
    oci = held.reference if held else None
    to.write(services(to.services, model_claim=model_claim, cache_gib=cache_gib, oci=oci))
