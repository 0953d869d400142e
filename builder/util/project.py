"""Where the project's own files are."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from builder.util.errors import InputError
from builder.util.journal import finish


def from_here(path: Path) -> Path:
    """A path as a command in the working folder takes it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@dataclass(frozen=True)
class Project:
    """A recipe's surroundings: the root that paths in the recipe are relative to, and the recipe's own path."""

    root: Path
    recipe_path: Path

    @property
    def recipe(self) -> str:
        """The recipe as a command in the working folder takes it, quoted for a shell: `NAME` when it is `images/NAME.yaml`,
        else its file."""
        here = Path.cwd().resolve()
        inside = self.recipe_path.parent == self.root / "images" and self.recipe_path.suffix == ".yaml"
        if inside and here.is_relative_to(self.root):
            return shlex.quote(self.recipe_path.stem)
        return shlex.quote(os.path.relpath(self.recipe_path, here))

    @property
    def lock_path(self) -> Path:
        """The lock is beside its recipe: `images/NAME.lock.yaml`."""
        return self.recipe_path.with_name(f"{self.recipe_path.stem}.lock.yaml")

    @property
    def profiles(self) -> Path:
        return self.root / "profiles"

    @property
    def overlays(self) -> Path:
        return self.root / "overlays"

    @property
    def dist(self) -> Path:
        return self.root / "dist"

    @property
    def elsewhere(self) -> list[tuple[str, str]]:
        """The detail of an error that names a file relative to the root, for who works in another folder."""
        return [] if Path.cwd().resolve() == self.root else [("project", str(self.root))]

    def show(self, path: Path) -> str:
        """`path` as messages print it: relative to the root when it is inside, else as it is."""
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)


def project_folder(cwd: Path | None = None) -> Path:
    """The working folder, or the nearest one above it that has recipes in `images/`; the working folder when none has.

    A repository's top ends the search: what is above it, such as a folder of pictures, is another matter.
    """
    here = (cwd or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        top = (folder / ".git").exists()
        try:
            found = bool(recipe_files(folder))
        except OSError:
            # What cannot be read in the repository may have the recipes: whoever lists them says so.
            found = top or folder == here
        if found:
            return folder
        if top:
            break
    return here


def recipe_files(folder: Path) -> list[Path]:
    """The files of the recipes in `folder/images`, by name: no locks, no folders, no links that lead nowhere.

    Raises `OSError` when there is such a folder and it cannot be read.
    """
    images = folder / "images"
    try:
        # `Path.glob` finds nothing in a folder that cannot be read.
        with os.scandir(images) as entries:
            paths = [images / entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = (path for path in paths if path.suffix in (".yaml", ".yml") and not path.name.startswith("."))
    return sorted(path for path in found if not path.stem.endswith(".lock") and path.is_file())


def recipe_names(folder: Path) -> list[str]:
    """The names of the recipes in `folder/images`."""
    return [path.stem for path in recipe_files(folder)]


def find_project(recipe: str, *, cwd: Path | None = None) -> Project:
    """Find the recipe that a user named: a path to a YAML file, or a NAME for `images/NAME.yaml`.

    A name is looked for in the working folder and in those above it. What a killed run had decided to write there is
    finished first.

    The root is the parent of the `images/` folder that contains the recipe, else the recipe's own folder.
    """
    here = cwd or Path.cwd()
    folder = project_folder(here)
    if recipe.endswith((".lock.yaml", ".lock.yml")) and (here / recipe).is_file():
        raise InputError(
            f"{recipe} is a lock, not a recipe",
            hint=f"name the recipe that it belongs to: {recipe.replace('.lock.', '.')}",
        )
    named = recipe.endswith((".yaml", ".yml"))
    candidates = [here / recipe] if named else [folder / "images" / f"{recipe}.yaml", here / recipe]
    other_suffix = [] if named else [folder / "images" / f"{recipe}.yml"]
    for candidate in candidates + other_suffix:
        if candidate.is_file():
            path = candidate.resolve()
            root = path.parent.parent if path.parent.name == "images" else path.parent
            finish(root)
            return Project(root, path)
    raise InputError(
        f"there is no recipe {recipe!r}",
        details=[("looked", ", ".join(str(candidate) for candidate in candidates))],
        hint=_which(recipe, here, recipe_names(folder)),
    )


def _which(recipe: str, here: Path, known: list[str]) -> str:
    """What could have been meant: a known name, a recipe file beside it, or a new one."""
    beside = sorted(
        path.name for path in here.glob("*.yaml") if path.stem == recipe and not path.stem.endswith(".lock")
    )
    if beside:
        return f"did you mean the file {beside[0]}?"
    if not known:
        return "name a recipe file, work in a folder that has images/, or begin one: builder init NAME --pull NUMBER"
    near = difflib.get_close_matches(recipe, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}recipes here: {', '.join(known)}"
