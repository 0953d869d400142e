"""`builder list`: the recipes here, and how far each has come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.errors import BuilderError

if TYPE_CHECKING:
    from builder.documents.lock import Lock
    from builder.documents.recipe import Recipe
    from builder.util.project import Project

_SHORT = 19


@click.command(name="list")
@common_options
def command(console: Console) -> None:
    """List the recipes of this folder: base, overlays, whether the lock is up to date, and the last image in dist/."""
    from builder.util.project import find_project, project_folder, recipe_files

    found = [_row(find_project(str(path))) for path in recipe_files(project_folder())]
    if found:
        columns = ("recipe", "base", "overlays", "lock", "image")
        console.table(columns, [[str(row[column]) for column in columns] for row in found])
    for row in found:
        for key in ("error", "changed"):
            if row.get(key):
                console.out(f"{row['recipe']}: {row[key]}")
    if not found:
        console.out("There is no recipe here. Begin one: builder init NAME --pull NUMBER")
    console.document({"recipes": found})


def _row(project: Project) -> dict[str, Any]:
    from builder.documents.recipe import load_recipe

    name = project.recipe_path.stem
    try:
        recipe = load_recipe(project.recipe_path)
    except (BuilderError, OSError) as error:
        return {"recipe": name, "base": "-", "overlays": "-", "lock": "-", "image": "-", "error": _why(error)}
    lock, state, changed = _lock(project, recipe)
    return {
        "recipe": name,
        "base": recipe.base,
        "overlays": len(recipe.overlays),
        "lock": state,
        "image": _image(project.dist / recipe.name, lock),
        **({"changed": changed} if changed else {}),
    }


def _why(error: BuilderError | OSError) -> str:
    return error.message if isinstance(error, BuilderError) else f"{error.filename}: {error.strerror}"


def _lock(project: Project, recipe: Recipe) -> tuple[Lock | None, str, str]:
    from builder.documents.lock import read_lock
    from builder.pipeline.plan import check_fresh

    if not project.lock_path.is_file():
        return None, "missing", ""
    try:
        lock = read_lock(project.lock_path)
    except (BuilderError, OSError) as error:
        return None, "unreadable", _why(error)
    try:
        check_fresh(project, recipe, lock)
    except OSError as error:
        return lock, "unknown", _why(error)
    except BuilderError as error:
        texts = [text for label, text in error.details if label == "changed"] or [error.message]
        return lock, "stale", f"the lock is older than {', '.join(texts)}: builder lock {project.recipe}"
    return lock, "up to date", ""


def _image(folder: Path, lock: Lock | None) -> str:
    """The image in `dist/NAME`, and whether it is the lock's."""
    from builder.image.tags import image_tags
    from builder.oci.layout import REF_NAME, Layout

    try:
        if not (folder / "index.json").is_file():
            return "not built"
        named = {each.annotations.get(REF_NAME): each.digest for each in Layout(folder).entries()}
    except (BuilderError, OSError):
        return "unreadable"
    digest = named.get(image_tags(lock).immutable) if lock is not None else None
    if digest is not None:
        return digest[:_SHORT]
    others = [each for name, each in named.items() if name]
    return f"{others[-1][:_SHORT]}, of another lock" if others else "not built"
