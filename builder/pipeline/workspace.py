"""A recipe that was opened: what every command begins with. Its lock, and its plans."""

from __future__ import annotations

from dataclasses import dataclass

from builder.cli.console import Console
from builder.documents.lock import Lock
from builder.documents.recipe import Recipe, load_recipe
from builder.oci.types import Platform
from builder.pipeline.locking.make import lock_or_make
from builder.pipeline.plan import Plan, check_fresh, make_plan
from builder.util.project import Project, find_project


@dataclass(frozen=True)
class Opened:
    """A recipe with its lock, which is known to belong together."""

    project: Project
    recipe: Recipe
    lock: Lock

    def plans(self, *, console: Console, offline: bool) -> list[Plan]:
        """One plan per platform, in the recipe's order."""
        return [
            make_plan(self.project, self.lock, Platform.parse(name), console=console, offline=offline)
            for name in self.recipe.platforms
        ]


def open_recipe(name: str, *, console: Console, offline: bool = False) -> Opened:
    """Find a recipe and read its lock, making the lock when there is none. A lock that is out of date is an error."""
    project = find_project(name)
    recipe = load_recipe(project.recipe_path)
    lock = lock_or_make(project, recipe, console=console, offline=offline)
    check_fresh(project, recipe, lock)
    return Opened(project, recipe, lock)
