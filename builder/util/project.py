"""Where the project's own files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.util.errors import InputError
from builder.util.journal import finish


@dataclass(frozen=True)
class Project:
    """A recipe's surroundings: the root that paths in the recipe are relative to, and the recipe's own path."""

    root: Path
    recipe_path: Path

    @property
    def recipe(self) -> str:
        """The recipe as a command in the root takes it: `NAME` when it is `images/NAME.yaml`, else its file."""
        inside = self.recipe_path.parent == self.root / "images" and self.recipe_path.suffix == ".yaml"
        return self.recipe_path.stem if inside else self.show(self.recipe_path)

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

    def show(self, path: Path) -> str:
        """`path` as messages print it: relative to the root when it is inside, else as it is."""
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)


def find_project(recipe: str, *, cwd: Path | None = None) -> Project:
    """Find the recipe that a user named: a path to a YAML file, or a NAME for `images/NAME.yaml` under the working folder.

    What a killed run had decided to write there is finished first.

    The root is the parent of the `images/` folder that contains the recipe, else the recipe's own folder.
    """
    here = cwd or Path.cwd()
    candidates = (
        [here / recipe] if recipe.endswith((".yaml", ".yml")) else [here / "images" / f"{recipe}.yaml", here / recipe]
    )
    for candidate in candidates:
        if candidate.is_file():
            path = candidate.resolve()
            root = path.parent.parent if path.parent.name == "images" else path.parent
            finish(root)
            return Project(root, path)
    folder = here / "images"
    known = sorted(path.stem for path in folder.glob("*.yaml") if not path.name.endswith(".lock.yaml"))
    hint = f"recipes here: {', '.join(known)}" if known else "name a recipe file, or work in a folder that has images/"
    import difflib

    near = difflib.get_close_matches(recipe, known, n=1)
    if near:
        hint = f"did you mean {near[0]}? {hint}"
    raise InputError(
        f"there is no recipe {recipe!r}",
        details=[("looked", ", ".join(str(candidate) for candidate in candidates))],
        hint=hint,
    )
