"""`builder completion`: what a shell evaluates to complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from builder.cli.app import cli, common_options
from builder.cli.console import Console


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def command(shell: str, console: Console) -> None:
    """Print a script that completes commands, options and the names of recipes, profiles, GPUs and overlays in SHELL."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  click has these three
    script = found(cli, {}, "builder", "_BUILDER_COMPLETE").source()
    console.data(script.rstrip("\n"))
    console.document({"shell": shell, "script": script})
