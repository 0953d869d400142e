"""`builder run`: start the image with a profile."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from builder.cli import common_options
from builder.console import Console
from builder.errors import InputError


@click.command(name="run")
@click.argument("recipe")
@click.argument("profile")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", type=click.Path(path_type=Path), help="The checkpoint's folder. Default: the recipe's.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port on this machine.")
@click.option("--print", "printing", is_flag=True, help="Show the command, do not run it.")
@common_options
def command(
    recipe: str,
    profile: str,
    arguments: tuple[str, ...],
    model: Path | None,
    port: int,
    printing: bool,
    console: Console,
) -> None:
    """Run RECIPE's image with PROFILE under Docker. Flags behind `--` win over the profile's."""
    from builder.build import image_tags
    from builder.image.docker_build import choose
    from builder.opened import open_recipe

    opened = open_recipe(recipe, console=console)
    lock = opened.lock
    names = [each.name for each in lock.profiles]
    if profile not in names:
        raise InputError(f"{lock.name} has no profile {profile!r}", hint=f"it has: {', '.join(names) or 'none'}")
    folder = model or (opened.project.root / lock.checkpoint.path if lock.checkpoint and lock.checkpoint.path else None)
    if folder is None:
        raise InputError("which checkpoint is to be served?", hint="name its folder: --model DIR")
    docker = "docker" if printing else choose().path
    words = [
        docker, "run", "--rm", "--gpus", "all", "--ipc", "host", "--publish", f"127.0.0.1:{port}:8000",
        "--volume", f"{folder.resolve()}:/model:ro",
        # Keyed by the stack: a changed overlay never meets another's compiled kernels.
        "--volume", f"{lock.name}-{lock.inputs[:12]}:/root/.cache",
        f"{lock.name}:{image_tags(lock).immutable}", profile, *arguments,
    ]  # fmt: skip
    console.document({"argv": words})
    if printing:
        console.out(shlex.join(words))
        return
    os.execvp(words[0], words)  # noqa: S606  docker itself handles the terminal and signals
