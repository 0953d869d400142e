"""`builder stack import`: a quilt series becomes local overlays of a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.errors import InputError


@click.command(name="import")
@click.argument("series", type=click.Path(path_type=Path))
@click.option("--recipe", required=True, metavar="NAME", help="The recipe that gets the overlays; made when it is new.")
@click.option("--base", metavar="BASE", help="The base of a new recipe.")
@common_options
def command(series: Path, recipe: str, base: str | None, console: Console) -> None:
    """Add the patches of a quilt SERIES (the file, or its folder) to a recipe, in order.

    The canonical diffs go to overlays/NAME/. Nothing that is there is overwritten, and no lock is made.
    """
    from builder.documents.recipe import Recipe
    from builder.documents.yamlfile import Document, parse_yaml, read_yaml, validate_document
    from builder.upkeep.rebase.edit import append_overlays, edited, quoted
    from builder.upkeep.series.series import read_series
    from builder.util.journal import write_files
    from builder.util.project import Project, find_project

    imported = read_series(series)
    path = Path.cwd() / "images" / f"{recipe}.yaml"
    if base is not None:
        if path.exists():
            raise InputError(f"there is a recipe {recipe} already", hint="without --base, the series is added to it")
        project = Project(Path.cwd(), path)
        text = f"name: {quoted(recipe)}\nbase: {quoted(base)}\n"
        before = parse_yaml(text, project.show(path))
    else:
        project = find_project(recipe)
        before = read_yaml(project.recipe_path, name=project.show(project.recipe_path))
        # As bytes: read as text, the recipe would lose its line ends.
        text = project.recipe_path.read_bytes().decode("utf-8")
    # Before anything else: a recipe that cannot be read is not added to.
    validate_document(Recipe, before)
    folder = f"overlays/{project.recipe_path.stem}"
    files: dict[str, bytes] = {}
    items: list[dict[str, str]] = []
    for each in imported:
        stem = each.name.removesuffix(".patch").removesuffix(".diff").replace("/", "-")
        name = f"{folder}/{stem}.diff"
        if name in files:
            raise InputError(f"two patches of the series would both be {name}", hint="rename one of them")
        if (project.root / name).exists():
            raise InputError(
                f"{name} is there already", hint="it is not overwritten: move it away, or rename the patch"
            )
        files[name] = each.diff.canonical
        items.append({"file": name, **each.meta})
    overlays = [*before.value.get("overlays", ()), *items]
    wanted = validate_document(Recipe, Document(before.name, {**before.value, "overlays": overlays}))
    text = edited(text, lambda text: append_overlays(text, items), wanted, before.name)
    write_files(
        {**{project.root / name: data for name, data in files.items()}, project.recipe_path: text.encode()},
        root=project.root,
    )
    written = [*files, project.show(project.recipe_path)]
    for name in written:
        console.out(f"wrote {name}")
    console.out(f"next: builder check {recipe}")
    console.document({"recipe": project.show(project.recipe_path), "files": written, "overlays": items})
