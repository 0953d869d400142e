"""`builder verdict`: read verdicts."""

from __future__ import annotations

import click

from builder.cli.app import LazyGroup


@click.group(
    name="verdict",
    cls=LazyGroup,
    table={
        "show": ("builder.cli.commands.verdict_show", "Show a verdict: a file, or those of a published image."),
        "adr": ("builder.cli.commands.verdict_adr", "Write a verdict as a decision record in Markdown."),
    },
)
def command() -> None:
    """Read verdicts of `builder gate` and `builder smoke`."""
