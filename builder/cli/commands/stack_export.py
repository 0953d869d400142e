"""`builder stack export`: the stack as a quilt series and as mails."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="export")
@click.argument("recipe", shell_complete=recipe_names)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="A folder that is not there yet, or empty."
)
@click.option("--whole", is_flag=True, help="Keep the diffs' files outside the package, for vLLM's source tree.")
@offline_option
@common_options
def command(recipe: str, output: Path, whole: bool, context: Context, console: Console) -> None:
    """Write RECIPE's overlays to DIR/patches (quilt: `quilt push -a`) and DIR/mail (`git am --keep-non-patch DIR/mail/*.patch`).

    Without --keep-non-patch git takes a title's own `[Bugfix]` off too.
    """
    from builder.pipeline.workspace import open_workspace
    from builder.upkeep.series.exact import exact_changes
    from builder.upkeep.series.export import flat, mails, quilt_series, without_content
    from builder.util.journal import write_files

    workspace = open_workspace(recipe, context=context, make=False)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder", hint="name a new folder, or empty it")
    left_out = without_content(workspace.project, workspace.lock) if whole else {}
    for overlay, paths in left_out.items():
        context.console.warn(f"{overlay}: its diff does not have the content of {', '.join(paths)}; left out")
    exact = exact_changes(workspace.project, workspace.lock, context=context)
    files = flat(
        [
            ("patches", quilt_series(workspace.project, workspace.lock, whole=whole, exact=exact)),
            ("mail", mails(workspace.project, workspace.lock, whole=whole, exact=exact)),
        ]
    )
    write_files({output / name: data for name, data in files.items()})
    for name in files:
        console.out(f"wrote {output / name}")
    console.document({"name": workspace.lock.name, "output": str(output), "files": sorted(files), "left_out": left_out})
