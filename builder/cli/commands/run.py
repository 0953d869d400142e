"""`builder run`: start the image with a profile."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import click

from builder.cli.app import common_options
from builder.cli.commands.names import profile_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="run")
@click.argument("recipe", shell_complete=recipe_names)
@click.argument("profile", required=False, shell_complete=profile_names)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", type=click.Path(path_type=Path), help="The checkpoint's folder. Default: the recipe's.")
@click.option("--image", metavar="REF", help="The image. Default: the one that `builder build` put into Docker.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port on this machine.")
@click.option("--gpus", default="all", show_default=True, help="As for `docker run`: all, device=0; or none.")
@click.option("--network", help="As for `docker run`. On `host` the server itself takes the port.")
@click.option("--user", metavar="UID[:GID]", help="Run as another user than root.")
@click.option("--read-only", is_flag=True, help="With a read-only root file system.")
@click.option(
    "--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of the server; wins over the profile's."
)
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    default="docker",
    show_default=True,
    help="What runs the container. Podman takes GPUs by CDI, and its own images.",
)
@click.option("--print", "printing", is_flag=True, help="Show the command, do not run it.")
@common_options
def command(
    recipe: str,
    profile: str | None,
    arguments: tuple[str, ...],
    model: Path | None,
    image: str | None,
    port: int,
    gpus: str,
    network: str | None,
    user: str | None,
    read_only: bool,
    variables: tuple[str, ...],
    engine: str,
    printing: bool,
    console: Console,
) -> None:
    """Run RECIPE's image with PROFILE (default: the recipe's default profile) under Docker or podman. Flags behind `--` win over the profile's.

    Compiled kernels are kept in a volume that belongs to this stack of overlays: a changed overlay begins with an empty one.
    """
    from builder.pipeline.workspace import open_workspace
    from builder.serve.container import (
        Container,
        cache_for,
        default_profile,
        image_to_run,
        locked_profile,
        model_source,
        startup_seconds,
    )
    from builder.serve.model import make_ready

    workspace = open_workspace(recipe, context=Context(console), make=False)
    lock = workspace.lock
    container = Container(
        image=image_to_run(lock, image, starting=not printing),
        profile=locked_profile(lock, profile or default_profile(lock)),
        arguments=arguments,
        model=model_source(workspace.project, lock, model, context=workspace.context, reading=not printing),
        cache=cache_for(lock, user),
        port=port,
        gpus=gpus,
        network=network,
        user=user,
        read_only=read_only,
        startup_seconds=startup_seconds(lock),
        environment=tuple(_variable(each) for each in variables),
        podman=engine == "podman",
    )
    words = container.argv(engine if printing else _program(engine))
    console.document({"argv": words})
    if not printing:
        make_ready(container.model, words[0], podman=container.podman, context=workspace.context)
    if printing:
        console.data(shlex.join(words))
        return
    os.execvp(words[0], words)  # noqa: S606  docker itself handles the terminal and signals


def _program(engine: str) -> str:
    """The program that runs the container. Raises `InputError` when podman is not installed."""
    from builder.oci.docker_cli import choose

    if engine == "docker":
        return choose().path
    found = shutil.which("podman")
    if found is None:
        raise InputError("podman is not installed", hint="install it, or use --engine docker")
    return found


def _variable(text: str) -> tuple[str, str]:
    """NAME and VALUE; as with `docker run`, a NAME alone takes its value from this command's own environment."""
    name, equals, value = text.partition("=")
    if not name or any(character.isspace() for character in name):
        raise InputError(f"--env {text!r} is not NAME=VALUE", hint="such as --env VLLM_LOGGING_LEVEL=DEBUG")
    if not equals and name not in os.environ:
        raise InputError(
            f"--env {name} has no value, and this environment does not have it", hint=f"--env {name}=VALUE"
        )
    return name, value if equals else os.environ[name]
