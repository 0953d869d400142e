"""A recipe, opened: its project, its lock, its plans, and the context of the command that opened it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from builder.documents.lock import Lock
from builder.documents.recipe import Recipe, load_recipe
from builder.documents.reference import Platform
from builder.pipeline.locking.make import lock_or_make
from builder.pipeline.plan import Plan, check_epoch, check_fresh, make_plan
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.project import Project, find_project


@dataclass(frozen=True)
class Workspace:
    """A recipe with its lock, which is known to belong to it."""

    project: Project
    recipe: Recipe
    lock: Lock
    context: Context

    def plans(self) -> list[Plan]:
        """One plan per platform, in the recipe's order."""
        plans = [
            make_plan(self.project, self.lock, Platform.parse(name), context=self.context)
            for name in self.recipe.platforms
        ]
        check_epoch(self.lock, [plan.base for plan in plans])
        return plans


def missing_lock(project: Project) -> InputError:
    """The error of a command that needs a lock and writes none."""
    return InputError(
        f"{project.show(project.lock_path)} does not exist",
        details=project.elsewhere,
        hint=f"make it and commit it: builder lock {project.recipe}",
    )


def open_workspace(
    name: str, *, context: Context, make: bool = True, check: Callable[[Recipe], object] = lambda _recipe: None
) -> Workspace:
    """Find a recipe and read its lock. A lock that is out of date is an error.

    When there is none, it is made and written; without `make`, that is an error too, with the command that makes it.
    `check` gets the recipe before anything is resolved, and raises an error for one that the command cannot work on.
    """
    project = find_project(name)
    recipe = load_recipe(project.recipe_path)
    check(recipe)
    if not make and not project.lock_path.is_file():
        raise missing_lock(project)
    lock = lock_or_make(project, recipe, context=context)
    check_fresh(project, recipe, lock)
    return Workspace(project, recipe, lock, context)
