"""`builder help`: the same as `--help`, in the place where people look for it."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.errors import InputError


@click.command(name="help")
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@common_options
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], console: Console) -> None:
    """Show the help of builder, or of COMMAND, such as `builder help profile lint`."""
    current = ctx.find_root()
    for name in names:
        group = current.command
        found = group.get_command(current, name) if isinstance(group, click.Group) else None
        if found is None:
            known = group.list_commands(current) if isinstance(group, click.Group) else []
            raise InputError(
                f"{current.command_path} has no command {name!r}",
                hint=f"it has: {', '.join(known)}" if known else f"see: {current.command_path} --help",
            )
        current = click.Context(found, info_name=name, parent=current)
    text = current.get_help()
    console.data(text)
    console.document({"command": current.command_path, "help": text})
