"""`builder checkpoint`: work with the checkpoint that an image serves."""

from __future__ import annotations

import click

from builder.cli.app import LazyGroup


@click.group(
    name="checkpoint",
    cls=LazyGroup,
    table={
        "digest": ("builder.cli.commands.checkpoint_digest", "Print the digest that names a checkpoint."),
        "quantize": ("builder.cli.commands.checkpoint_quantize", "Turn the vocabulary tables into block FP8."),
        "check": ("builder.cli.commands.checkpoint_check", "Is a checkpoint whole, and can the stack load it?"),
    },
)
def command() -> None:
    """Digest, quantize and check checkpoints. No image is needed."""
