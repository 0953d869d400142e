"""`builder rebase`: what the stack needs on another base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder.cli import common_options
from builder.console import Console
from builder.errors import EXIT_APPLY, InputError

if TYPE_CHECKING:
    from builder.rebase.judge import Judged
    from builder.rebase.plan import Rebase


@click.command(name="rebase")
@click.argument("recipe")
@click.option("--base", "bases", multiple=True, required=True, metavar="BASE", help="The new base; again for a matrix.")
@click.option("--write", "writing", is_flag=True, help="Update recipe and lock; store the rebased diffs.")
@click.option("--offline", is_flag=True, help="Use the vendored diffs and the cache only.")
@common_options
@click.pass_context
def command(
    ctx: click.Context, recipe: str, bases: tuple[str, ...], writing: bool, offline: bool, console: Console
) -> None:
    """Judge each overlay of RECIPE on another base: does it apply, is it in already, does it merge, or conflict?

    Writes nothing without --write, and never a conflict. Exit code 3 when an overlay is in conflict on one of the bases.
    """
    from builder.oci import Platform
    from builder.opened import open_recipe
    from builder.rebase.plan import old_steps, prepare, rebase, write

    if writing and len(bases) > 1:
        raise InputError("--write takes one base", hint="choose one --base")
    opened = open_recipe(recipe, console=console, offline=offline)
    steps = old_steps(opened, Platform.parse(opened.recipe.platforms[0]), console=console, offline=offline)
    answers = []
    with console.progress("reading bases", total=len(bases), unit="bases") as bar:
        for base in bases:
            bar.note(base)
            answers.append(rebase(opened, base, steps, console=console, offline=offline))
            bar.advance(1)
    about = {each.id: each.about() for each in opened.lock.overlays}
    documents = [answer.as_json() for answer in answers]
    for document in documents:
        document["overlays"] = [{**each, "about": about[each["id"]]} for each in document["overlays"]]
    if len(answers) > 1:
        _matrix(answers, console)
    else:
        _one(answers[0], console)
    clean = not any(answer.conflicts for answer in answers)
    if len(answers) == 1 and (clean or writing):
        written = prepare(opened, answers[0], console=console, offline=offline)
        lock = written.made.lock
        changes = written.changes(opened.project)
        documents[0] |= {
            "lock": {"inputs": lock.inputs, "base": lock.base.digest, "overlays": [each.id for each in lock.overlays]},
            "changes": changes,
            "written": writing,
        }
        if writing:
            write(opened.project, written)
        for name in changes:
            console.out(f"{'wrote' if writing else 'would write'} {name}")
    console.document({"name": opened.lock.name, "from": opened.lock.base.reference, "bases": documents})
    if not clean:
        ctx.exit(EXIT_APPLY)


def _cell(judged: Judged) -> str:
    if judged.verdict == "applies":
        return f"applies ({judged.moved} of {judged.hunks} hunks moved)" if judged.moved else "applies"
    if judged.verdict == "already in":
        return "already in: drop it"
    if judged.verdict == "merges":
        part = f", {judged.present} of {judged.hunks} hunks are in already" if judged.present else ""
        return f"merges three-way{part}"
    files = len({each.path for each in judged.conflicts})
    return f"conflict ({len(judged.conflicts)} in {files} {'file' if files == 1 else 'files'})"


def _flags(answer: Rebase) -> str:
    if answer.flags is None:
        return "not judged"
    return ", ".join(f"--{each['flag']} ({each['profile']})" for each in answer.flags) or "all known"


def _matrix(answers: list[Rebase], console: Console) -> None:
    names = [each.id for each in answers[0].overlays]
    rows = [[name, *(_cell(answer.overlays[index]) for answer in answers)] for index, name in enumerate(names)]
    rows.append(["profile flags", *(_flags(answer) for answer in answers)])
    console.table(["overlay", *(answer.base for answer in answers)], rows)


def _one(answer: Rebase, console: Console) -> None:
    console.table(
        ["overlay", "on this base", "note"],
        [[each.id, _cell(each), each.note or "-"] for each in answer.overlays],
        title=f"{answer.base} ({answer.version})",
    )
    for judged in answer.overlays:
        for conflict in judged.conflicts:
            place = f"{conflict.path}, line {conflict.line}" if conflict.line else conflict.path
            console.out(f"conflict of {judged.id}: {place}: {conflict.why}")
            if conflict.shown:
                console.out("\n".join(f"    {line}" for line in conflict.shown.splitlines()))
    if answer.flags is None:
        console.out("The base's flags cannot be read: the profiles were not judged.")
    for flag in answer.flags or ():
        near = f"; the nearest is --{flag['near']}" if flag["near"] else ""
        console.out(f"profile {flag['profile']}: this version does not know --{flag['flag']}{near}")
