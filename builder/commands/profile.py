"""`builder profile`: work with serving profiles."""

from __future__ import annotations

import click

from builder.cli import LazyGroup


@click.group(
    name="profile",
    cls=LazyGroup,
    table={
        "list": ("builder.commands.profile_list", "List the profiles of this folder or of a recipe."),
        "show": ("builder.commands.profile_show", "Show one profile and its arguments."),
    },
)
def command() -> None:
    """List and show serving profiles."""
