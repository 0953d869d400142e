"""`builder stack export`: the stack as a quilt series and as mails."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli import common_options
from builder.console import Console
from builder.errors import InputError


@click.command(name="export")
@click.argument("recipe")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="A folder that is not there yet, or empty."
)
@click.option("--whole", is_flag=True, help="Keep the diffs' files outside the package, for vLLM's source tree.")
@click.option("--offline", is_flag=True, help="Use the vendored diffs and the cache only.")
@common_options
def command(recipe: str, output: Path, whole: bool, offline: bool, console: Console) -> None:
    """Write RECIPE's overlays to DIR/patches (quilt: `quilt push -a`) and DIR/mail (`git am DIR/mail/*.patch`)."""
    from builder.files import write_file
    from builder.handover.export import flat, mails, quilt_series
    from builder.opened import open_recipe

    opened = open_recipe(recipe, console=console, offline=offline)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is there already", hint="name a new folder, or empty it")
    files = flat(
        [
            ("patches", quilt_series(opened.project, opened.lock, whole=whole)),
            ("mail", mails(opened.project, opened.lock, whole=whole)),
        ]
    )
    for name, data in files.items():
        write_file(output / name, data)
        console.out(f"wrote {output / name}")
    console.document({"name": opened.lock.name, "output": str(output), "files": sorted(files)})
