"""`builder lock`: resolve a recipe and pin everything that a build needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import overlay_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, MismatchError

if TYPE_CHECKING:
    from builder.documents.lock import Lock, LockedOverlay
    from builder.util.project import Project

_ALL = "*"


@click.command(name="lock")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--check", is_flag=True, help="Write nothing; exit 4 if the lock or a vendored diff would change.")
@click.option(
    "--update", multiple=True, shell_complete=overlay_names, is_flag=False, flag_value=_ALL, metavar="[OVERLAY]",
    help="Take the newest state of an overlay, of 'base', 'checkpoint' or 'wheels'; of everything when none is named.",
)  # fmt: skip
@click.option(
    "--trust-ranges", is_flag=True,
    help="Read parts of a wheel base without checking the whole wheel against its digest; the lock says so.",
)  # fmt: skip
@offline_option
@common_options
@click.pass_context
def command(
    ctx: click.Context, recipe: str, check: bool, update: tuple[str, ...], trust_ranges: bool, context: Context,
    console: Console,
) -> None:  # fmt: skip
    """Resolve RECIPE: base digest, pull request heads, diffs, file digests, checkpoint hash.

    Writes images/NAME.lock.yaml and vendors the diffs under overlays/. What is pinned already stays pinned: a second
    run changes nothing.
    """
    from builder.cli.pulls import overlay_named
    from builder.documents.lock import overlay_lines, read_lock
    from builder.documents.recipe import load_recipe
    from builder.pipeline.locking.make import make_lock, writing
    from builder.util.project import find_project

    project = find_project(recipe)
    if not check:
        ctx.with_resource(writing(project, context=context))
    loaded = load_recipe(project.recipe_path)
    previous = read_lock(project.lock_path) if project.lock_path.is_file() else None
    known = [overlay.id for overlay in loaded.overlays] + ["base", "checkpoint"]
    known += ["wheels"] if loaded.wheels else []
    update = tuple(overlay_named(name, known) for name in update)
    for name in update:
        if name not in (*known, _ALL):
            raise InputError(f"{loaded.name} has no overlay {name!r}", hint=f"it has: {', '.join(known)}")
    made = make_lock(
        project,
        loaded,
        previous,
        context=context,
        update=known if _ALL in update else update,
        trust_ranges=trust_ranges,
    )
    changes = made.changes(project)
    interdiffs = _interdiffs(project, previous, made.lock, made.diffs) if update else {}
    document = {
        "name": made.lock.name,
        "lock": project.show(project.lock_path),
        "inputs": made.lock.inputs,
        "changed": changes,
        "base": {"reference": made.lock.base.reference, "digest": made.lock.base.digest},
        "overlays": [_overlay(overlay) for overlay in made.lock.overlays],
        "checkpoint": made.lock.checkpoint.digest if made.lock.checkpoint else None,
        **({"interdiffs": interdiffs} if update else {}),
    }
    for line in overlay_lines(overlay.summary() for overlay in made.lock.overlays):
        console.out(line)
    for name, text in interdiffs.items():
        console.out(f"what changed in {name}:\n{text.rstrip()}")
    if check:
        if changes:
            missing = previous is None
            raise MismatchError(
                f"{document['lock']} {'does not exist' if missing else 'is not up to date'}",
                details=[("differs", name) for name in changes],
                hint=f"run `builder lock {recipe}` and look at the difference before you commit it",
                data={"changed": changes},
            )
        console.out(f"{document['lock']} is up to date")
    else:
        made.write(project)
        for name in changes:
            console.out(f"wrote {name}")
        if not changes:
            console.out(f"{document['lock']} is up to date")
    console.document(document)


def _overlay(overlay: LockedOverlay) -> dict[str, object]:
    """An overlay with all its keys, but for those of other packages, which few have."""
    document = overlay.model_dump(mode="json")
    return {key: value for key, value in document.items() if value or key not in ("package", "unnamed")}


def _interdiffs(project: Project, previous: Lock | None, lock: Lock, diffs: Mapping[str, bytes]) -> dict[str, str]:
    """For each overlay whose change is another than in the previous lock: what changed in the change."""
    from builder.patch.diff import parse
    from builder.patch.interdiff import interdiff
    from builder.pipeline.locking.overlays import read_overlay

    found: dict[str, str] = {}
    for old in previous.overlays if previous else ():
        new = next((each for each in lock.overlays if each.id == old.id), None)
        if new is None or new.digest == old.digest or new.diff not in diffs:
            continue
        try:
            before = read_overlay(project, old).diff
        except BuilderError as error:
            # Without the vendored copy there is nothing to compare with, and still something to lock.
            found[old.id] = f"the earlier diff cannot be read: {error.message}\n"
            continue
        text = interdiff(before, parse(diffs[new.diff], new.diff))
        found[old.id] = text or "the same lines, at other places\n"
    return found
