"""`builder stack import`: a quilt series becomes local overlays of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.base.model import PackageTree
    from builder.documents.recipe import Recipe
    from builder.upkeep.rebase.edit import Written
    from builder.upkeep.series.series import Imported
    from builder.util.project import Project


@click.command(name="import")
@click.argument("series", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    shell_complete=recipe_names,
    required=True,
    metavar="NAME",
    help="The recipe that gets the overlays; made when it is new.",
)
@click.option("--base", metavar="BASE", help="The base of a new recipe.")
@click.option(
    "--strip",
    type=click.IntRange(0, 50),
    metavar="N",
    help="Folders that come off the patches' names, as `patch --strip`. Found out when nothing else fits.",
)
@click.option("--under", metavar="FOLDER", help="The folder of the package in which the patches were made.")
@click.option(
    "--package",
    "packages",
    multiple=True,
    metavar="NAME",
    help="The package that the patches change, when it is not the recipe's; repeat it for several. Found out when left out.",
)
@offline_option
@common_options
def command(
    series: Path,
    recipe: str,
    base: str | None,
    strip: int | None,
    under: str | None,
    packages: tuple[str, ...],
    context: Context,
    console: Console,
) -> None:
    """Add the patches of a quilt SERIES (the file, or its folder) to a recipe, in order.

    The canonical diffs go to overlays/NAME/. An existing file is never overwritten, and no lock is made. For patches that
    were not made from the repository's root, the base is asked which files they mean.
    """
    from builder.documents.recipe import Recipe
    from builder.documents.yamlfile import Document, parse_yaml, read_yaml, validate_document
    from builder.upkeep.rebase.edit import append_overlays, edited, quoted
    from builder.upkeep.series.series import read_series
    from builder.util.journal import write_files
    from builder.util.project import Project, find_project, project_folder

    imported = read_series(series, strip=strip)
    root = project_folder()
    path = root / "images" / f"{recipe}.yaml"
    if base is not None:
        if path.exists():
            raise InputError(f"there is a recipe {recipe} already", hint="without --base, the series is added to it")
        project = Project(root, path)
        text = f"name: {quoted(recipe)}\nbase: {quoted(base)}\n"
        before = parse_yaml(text, project.show(path))
    else:
        project = find_project(recipe)
        before = read_yaml(project.recipe_path, name=project.show(project.recipe_path))
        # As bytes: read as text, the recipe would lose its line endings.
        text = project.recipe_path.read_bytes().decode("utf-8")
    # Before anything else: a recipe that cannot be read is not added to.
    existing = validate_document(Recipe, before)
    keys: list[dict[str, Written]]
    if strip is None and under is None and not packages:
        keys = _found_out(project, existing, imported, context=context)
    else:
        keys = [_keys(each.strip, under, packages or each.packages) for each in imported]
    folder = f"overlays/{project.recipe_path.stem}"
    files: dict[str, bytes] = {}
    items: list[dict[str, Written]] = []
    for each, own in zip(imported, keys, strict=True):
        stem = each.name.removesuffix(".patch").removesuffix(".diff").replace("/", "-")
        name = f"{folder}/{stem}.diff"
        if name in files:
            raise InputError(f"two patches of the series would both be {name}", hint="rename one of them")
        if (project.root / name).exists():
            raise InputError(f"{name} exists already", hint="it is not overwritten: move it away, or rename the patch")
        files[name] = each.diff.canonical
        items.append({"file": name, **own, **each.meta})
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


def _keys(strip: int, under: str | None, packages: Sequence[str]) -> dict[str, Written]:
    return {
        **({"strip": strip} if strip != 1 else {}),
        **({"under": under} if under else {}),
        **({"package": packages[0] if len(packages) == 1 else list(packages)} if packages else {}),
    }


def _found_out(
    project: Project, recipe: Recipe, imported: Sequence[Imported], *, context: Context
) -> list[dict[str, Written]]:
    """For each patch the keys with which it enters a package: none for one whose names lead into the recipe's already."""
    from builder.base.open import open_base
    from builder.documents.lock import read_lock
    from builder.documents.reference import Platform
    from builder.patch.diagnose.names import ways_of_series
    from builder.patch.select import package_line

    given = [_keys(each.strip, None, each.packages) for each in imported]
    settled = [each.strip != 1 or bool(each.packages) or each.enters(recipe.package) for each in imported]
    if all(settled):
        return given
    reference = read_lock(project.lock_path).base.pinned if project.lock_path.is_file() else recipe.base_reference
    try:
        base = open_base(reference, root=project.root, context=context)
        tree = base.tree(Platform.parse(recipe.platforms[0]), recipe.package)
        beside = [_beside(each, tree) if not known else [] for each, known in zip(imported, settled, strict=True)]
        ways = ways_of_series([each.diff.changes for each in imported], recipe.package, tree)
    except BuilderError as error:
        context.console.warn(f"cannot look into the base for the files that are meant: {error.message}")
        return given
    for number, (each, way) in enumerate(zip(imported, ways, strict=True)):
        if settled[number]:
            continue
        if found := beside[number]:
            given[number] = _keys(each.strip, None, found)
            context.console.say(f"{each.name}: it is for another package of the base: {package_line(found)}")
            continue
        if way is None:
            context.console.warn(f"{each.name}: nothing tells which files it means; give --strip and --under")
            continue
        given[number] = {**way.keys}
        said = f"{way.found} of {way.total} files exist" if way.total else "it only makes new files"
        context.console.say(f"{each.name}: {said} below {way.under or recipe.package}/: {', '.join(way.lines)}")
    return given


def _beside(imported: Imported, tree: PackageTree) -> list[str]:
    """The packages of the base beside the recipe's that a patch changes by its names."""
    from builder.base.together import packages_beside
    from builder.patch.select import TEST_FOLDERS

    return packages_beside(tree, (each for each in imported.tops if each not in TEST_FOLDERS))
