"""`builder profile`: work with serving profiles."""

from __future__ import annotations

import click

from builder.cli.app import LazyGroup


@click.group(
    name="profile",
    cls=LazyGroup,
    table={
        "list": ("builder.cli.commands.profile_list", "List the profiles of this folder or of a recipe."),
        "show": ("builder.cli.commands.profile_show", "Show one profile and its arguments."),
        "import": ("builder.cli.commands.profile_import", "Make a profile of a recipe or of a command line."),
        "lint": ("builder.cli.commands.profile_lint", "Check a profile against the vLLM that will run it."),
        "fit": ("builder.cli.commands.profile_fit", "Estimate memory, KV cache and concurrency on a GPU."),
    },
)
def command() -> None:
    """List, show, import, check and size serving profiles."""
