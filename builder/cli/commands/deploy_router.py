"""`builder deploy router`."""

from __future__ import annotations

from typing import Any

import click

from builder.cli.app import common_options
from builder.cli.commands.deploy_files import (
    FORCE,
    OUTPUT,
    SECONDS,
    TAG,
    UNACCEPTED,
    accepted,
    promotion_state,
    write,
)
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="router")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--short", "shorts", multiple=True, required=True, metavar="PROFILE[@URL]", help="The profile whose envelope decides, and where it is served. Repeat it for more servers.")  # fmt: skip
@click.option("--long", "longs", multiple=True, required=True, metavar="URL|PROFILE[@URL]", help="What serves longer requests. Repeat it for more servers.")  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["litellm", "llm-d"]), default="litellm", show_default=True, help="What routes."
)
@click.option("--model-name", metavar="NAME", help="The name that clients use. Default: the recipe's.")
@click.option(
    "--long-model",
    metavar="NAME",
    help="The name under which the long backend serves. Default: its profile's, else /model.",
)
@click.option(
    "--long-max-model-len",
    type=click.IntRange(min=1),
    help="Its limit in tokens. Default: its profile's, else what the server says.",
)
@click.option("--overflow-when-down", type=click.Choice(["error", "long"]), default="error", show_default=True, help="Where short requests go while no short backend is up.")  # fmt: skip
@click.option(
    "--image", metavar="REF@DIGEST", help="The published image of the profiles, as `builder publish` prints it."
)
@click.option("--long-image", metavar="REF@DIGEST", help="That of the long backend. Default: --image.")
@click.option("--router-image", metavar="REF@DIGEST", help="LiteLLM's image, 1.108.7: writes compose.yaml too.")
@click.option("--prometheus-image", metavar="REF@DIGEST", help="Prometheus' image, for compose.yaml.")
@click.option("--model", metavar="DIR", help="compose.yaml: the checkpoint's folder on the machine.")
@click.option(
    "--port",
    type=click.IntRange(1, 65000),
    default=8000,
    show_default=True,
    help="compose.yaml: port of the first backend.",
)
@TAG
@click.option("--model-claim", default="model", show_default=True, help="llm-d: the claim that holds the checkpoint.")
@click.option(
    "--cache-gib", type=click.IntRange(min=1), default=20, show_default=True, help="llm-d: size of the cache's claim."
)
@OUTPUT
@FORCE
@SECONDS
@UNACCEPTED
@common_options
def command(
    recipe: str,
    shorts: tuple[str, ...],
    longs: tuple[str, ...],
    engine: str,
    model_name: str | None,
    long_model: str | None,
    long_max_model_len: int | None,
    overflow_when_down: str,
    image: str | None,
    long_image: str | None,
    router_image: str | None,
    prometheus_image: str | None,
    model: str | None,
    port: int,
    tag: str | None,
    model_claim: str,
    cache_gib: int,
    output: str,
    force: bool,
    startup_seconds: int | None,
    allow_unaccepted: bool,
    console: Console,
) -> None:
    """Render what routes requests for RECIPE's model: within a profile's envelope to --short, above it to --long."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.model import recipe_image
    from builder.serve.router import llm_d, proxy, stack
    from builder.serve.router.backends import check_together, long_target, short_target

    workspace = open_workspace(recipe, context=Context(console), make=False)
    lock = workspace.lock
    targets = [
        short_target(lock, each, image, seconds=startup_seconds, number=number) for number, each in enumerate(shorts, 1)
    ]
    targets += [
        long_target(lock, each, long_image or image, seconds=startup_seconds, length=long_max_model_len, served=long_model, number=number)
        for number, each in enumerate(longs, 1)
    ]  # fmt: skip
    check_together(model_name if model_name is not None else lock.name, targets)
    if output == "-":
        raise InputError("the router has several files", hint="--output DIR")
    images = {each.name: each.image for each in targets if each.image is not None}
    note = accepted(workspace, list(images.values()), allow=allow_unaccepted) if images else None
    files: dict[str, Any]
    if engine == "llm-d":
        files = llm_d.files(targets, model_claim=model_claim, cache_gib=cache_gib)
    else:
        overlays = [each.id for each in lock.overlays]
        files = proxy.files(
            model_name if model_name is not None else lock.name,
            targets,
            overflow=overflow_when_down,
            overlays=overlays,
            state=promotion_state(workspace, images, tag, allow=allow_unaccepted) or proxy.promoted(targets),
            composed=router_image is not None,
        )
        files |= stack.monitoring(targets, composed=router_image is not None)
        if router_image is not None and prometheus_image is not None:
            files["compose.yaml"] = stack.stack(
                targets, router=router_image, watcher=prometheus_image, model=model or recipe_image(lock), port=port
            )
        elif router_image is not None or prometheus_image is not None:
            raise InputError(
                "compose.yaml needs both images", hint="--router-image REF@DIGEST --prometheus-image REF@DIGEST"
            )
        elif any(each.service for each in targets):
            raise InputError(
                "nothing here would run the backends",
                hint="--router-image REF@DIGEST --prometheus-image REF@DIGEST writes compose.yaml, or name their URLs: PROFILE@URL",
            )
    write(files, output, force, console, note)
