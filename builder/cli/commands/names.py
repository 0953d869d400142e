"""Names on a command line, and what a shell completes them to.

A project that cannot be read completes to nothing: a shell has no place for errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import click

from builder.util.errors import BuilderError, InputError
from builder.util.project import find_project, project_folder
from builder.util.project import recipe_names as known_recipes

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def without_locks(recipes: Sequence[str], usage: str) -> list[str]:
    """The recipes among the files of `images/*.yaml`. Raises `InputError` with the command's `usage` when there is none."""
    names = [name for name in recipes if not name.endswith(".lock.yaml")]
    if not names:
        raise InputError("only locks are named", hint=f"name a recipe: {usage}")
    return names


def _completer(names: Callable[[click.Context], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        with suppress(BuilderError, OSError, ValueError):
            return [name for name in names(ctx) if name.startswith(incomplete)]
        return []

    return complete


def _recipes(_ctx: click.Context) -> Iterable[str]:
    return known_recipes(project_folder())


def _profiles(ctx: click.Context) -> Iterable[str]:
    """The recipe's profiles when the line names one, else those of the folder."""
    named = ctx.params.get("recipe")
    if isinstance(named, str):
        from builder.documents.recipe import load_recipe

        return load_recipe(find_project(named).recipe_path).profiles
    return sorted(path.stem for path in (project_folder() / "profiles").glob("*.yaml"))


def _gpus(_ctx: click.Context) -> Iterable[str]:
    from builder.vllm.fit.gpus import gpus

    return sorted(gpus())


def _overlays(ctx: click.Context) -> Iterable[str]:
    from builder.documents.recipe import load_recipe

    recipe = load_recipe(find_project(str(ctx.params["recipe"])).recipe_path)
    return [*(each.id for each in recipe.overlays), "base", "checkpoint"]


recipe_names = _completer(_recipes)
profile_names = _completer(_profiles)
gpu_names = _completer(_gpus)
overlay_names = _completer(_overlays)
