"""`builder drift`: what moved upstream since the lock, and why."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import EXIT_MISMATCH


@click.command(name="drift")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--markdown", is_flag=True, help="Print Markdown, for an issue that a scheduled job opens.")
@common_options
@click.pass_context
def command(ctx: click.Context, recipe: str, markdown: bool, console: Console) -> None:
    """Compare RECIPE's lock with upstream, and name one cause for each thing that is pinned.

    Exit codes: 0 no drift, 4 drift, 5 when upstream cannot be asked. Nothing is written, and no build changes.
    """
    from builder.cli.show import drift as show
    from builder.documents.lock import read_lock
    from builder.documents.recipe import load_recipe
    from builder.pipeline.workspace import missing_lock
    from builder.upkeep.drift.overlays import overlay_drift
    from builder.upkeep.drift.surroundings import base_drift, checkpoint_drift
    from builder.util.project import find_project

    project = find_project(recipe)
    loaded = load_recipe(project.recipe_path)
    if not project.lock_path.exists():
        raise missing_lock(project)
    lock = read_lock(project.lock_path)
    findings = []
    with console.progress("asking upstream", total=len(lock.overlays) + 2, unit="pins") as bar:
        for overlay in lock.overlays:
            bar.note(overlay.id)
            findings.append(overlay_drift(project, overlay, context=Context(console)))
            bar.advance(1)
        bar.note(lock.base.reference)
        findings.append(base_drift(project, lock, context=Context(console)))
        checkpoint = (
            checkpoint_drift(project, lock.checkpoint, loaded.checkpoint, context=Context(console))
            if loaded.checkpoint is not None
            else None
        )
        findings += [checkpoint] if checkpoint is not None else []
    drifted = [each for each in findings if each.drifted]
    if markdown:
        console.data(show.markdown(lock.name, findings))
    else:
        console.table(show.COLUMNS, show.rows(findings), title=f"{lock.name} against upstream")
        for each in drifted:
            if each.next:
                console.out(f"{each.name}: {each.next}")
    document = {"name": lock.name, "drift": bool(drifted), "findings": [each.as_json() for each in findings]}
    console.document({**document, "markdown": show.markdown(lock.name, findings)} if markdown else document)
    if drifted:
        ctx.exit(EXIT_MISMATCH)
