"""`builder rebase`: what the stack needs on another base."""

from __future__ import annotations

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import EXIT_APPLY, InputError


@click.command(name="rebase")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--base", "bases", multiple=True, required=True, metavar="BASE", help="The new base; again for a matrix.")
@click.option("--write", "writing", is_flag=True, help="Update recipe and lock; store the rebased diffs.")
@offline_option
@common_options
@click.pass_context
def command(
    ctx: click.Context, recipe: str, bases: tuple[str, ...], writing: bool, context: Context, console: Console
) -> None:
    """Judge each overlay of RECIPE on another base: does it apply, is it in already, does it merge, or conflict?

    Writes nothing without --write, and never a conflict. Exit code 3 when an overlay is in conflict on one of the bases.
    """
    from builder.cli.show.rebase import show_becomes, show_matrix, show_one
    from builder.pipeline.locking.make import writing as holding_project
    from builder.pipeline.workspace import open_workspace
    from builder.upkeep.rebase.plan import old_stack, rebase
    from builder.upkeep.rebase.writing import prepare, write
    from builder.util.project import find_project

    if writing and len(bases) > 1:
        raise InputError("--write takes one base", hint="choose one --base")
    if writing:
        ctx.with_resource(holding_project(find_project(recipe), context=context))
    workspace = open_workspace(recipe, context=context, make=False)
    old = old_stack(workspace)
    results = []
    with console.progress("reading bases", total=len(bases), unit="bases") as bar:
        for base in bases:
            bar.note(base)
            results.append(rebase(workspace, base, old))
            bar.advance(1)
    about = {each.id: each.about() for each in workspace.lock.overlays}
    documents = [result.as_json() for result in results]
    for document in documents:
        document["overlays"] = [{**each, "about": about[each["id"]]} for each in document["overlays"]]
    clean = not any(result.conflicts for result in results)
    if len(results) > 1:
        show_matrix(workspace.lock.name, results, console)
    else:
        show_one(results[0], workspace.lock, console)
        written = prepare(workspace, results[0]) if clean or writing else None
        show_becomes(workspace, results[0], written, console)
        if written is not None:
            documents[0] |= {**written.as_json(workspace.project), "written": writing}
            changes = written.changes(workspace.project)
            if writing:
                write(workspace.project, written)
            for name in changes:
                console.out(f"{'wrote' if writing else 'would write'} {name}")
            if not changes:
                console.out("recipe and lock stay as they are")
            elif not writing:
                console.out("`--write` writes them.")
    console.document({"name": workspace.lock.name, "from": workspace.lock.base.reference, "bases": documents})
    if not clean:
        ctx.exit(EXIT_APPLY)
