"""`builder stack`: hand the stack over to other tools, or take theirs in."""

from __future__ import annotations

import click

from builder.cli.app import LazyGroup


@click.group(
    name="stack",
    cls=LazyGroup,
    table={
        "export": ("builder.cli.commands.stack_export", "Write a quilt series and mails for `git am`."),
        "import": ("builder.cli.commands.stack_import", "Take a quilt series in as local overlays."),
    },
)
def command() -> None:
    """Hand the stack over as quilt series or mails, or take a series in."""
