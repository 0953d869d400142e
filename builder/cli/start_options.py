"""The options about the container that `smoke` and `gate` start."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class StartOptions:
    """How a recipe's image is started. None is the recipe's own choice, or Docker's."""

    model: Path | None
    image: str | None
    gpus: str
    network: str | None
    user: str | None
    read_only: bool


def start_options(function: F) -> F:
    """Give the command one `start` in the place of the options that are added."""

    @functools.wraps(function)
    def called(
        *,
        model: Path | None,
        image: str | None,
        gpus: str,
        network: str | None,
        user: str | None,
        read_only: bool,
        **options: Any,
    ) -> Any:
        return function(start=StartOptions(model, image, gpus, network, user, read_only), **options)

    found: Any = called
    for each in reversed((
        click.option("--model", type=click.Path(path_type=Path), help="The checkpoint's folder. Default: the recipe's."),
        click.option("--image", metavar="REF", help="The image. Default: the one that `builder build` put into Docker."),
        click.option("--gpus", default="all", show_default=True, help="As for `docker run`: all, device=0; or none."),
        click.option("--network", help="As for `docker run`. Default: Docker's, with any free port."),
        click.option("--user", metavar="UID[:GID]", help="Run as another user than root."),
        click.option("--read-only", is_flag=True, help="With a read-only root file system."),
    )):  # fmt: skip
        found = each(found)
    return cast("F", found)
