"""`builder deploy kserve`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import accepted, image_volume, published_options, services_of, write
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="kserve")
@published_options
@click.option("--model-claim", default="model", show_default=True, help="The claim that holds the checkpoint.")
@click.option(
    "--cache-gib", type=click.IntRange(min=1), default=20, show_default=True, help="Size of the cache's claim."
)
@click.option(
    "--model-oci",
    metavar="REF@DIGEST",
    help="An OCI image that holds the checkpoint, instead of the claim. Default: the recipe's.",
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
    model_claim: str,
    cache_gib: int,
    model_oci: str | None,
    console: Console,
) -> None:
    """Render KServe LLMInferenceServices that serve PROFILES of RECIPE."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.kserve import services

    workspace = open_workspace(recipe, context=Context(console), make=False)
    found = services_of(workspace.lock, profiles, image, startup_seconds)
    held = image_volume(workspace, model_oci)
    documents = services(found, model_claim=model_claim, cache_gib=cache_gib, oci=held.reference if held else None)
    note = accepted(workspace, [image], allow=allow_unaccepted)
    write(documents, output, force, console, note)
