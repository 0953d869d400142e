"""`builder profile list`."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console


@click.command(name="list")
@click.option("--recipe", shell_complete=recipe_names, help="Only the profiles of this recipe.")
@common_options
def command(recipe: str | None, console: Console) -> None:
    """List the profiles under profiles/, or those of a recipe."""
    from builder.documents.profile import load_profile
    from builder.documents.recipe import load_recipe
    from builder.util.project import find_project, project_folder

    if recipe is not None:
        project = find_project(recipe)
        paths = [project.profiles / f"{name}.yaml" for name in load_recipe(project.recipe_path).profiles]
    else:
        paths = sorted((project_folder() / "profiles").glob("*.yaml"))
    profiles = [load_profile(path) for path in paths]
    console.table(
        ["profile", "gpu", "prompt", "completion", "description"],
        [
            [
                profile.name,
                profile.hardware.gpu if profile.hardware else "-",
                str(profile.envelope.prompt) if profile.envelope else "-",
                str(profile.envelope.completion) if profile.envelope else "-",
                profile.description,
            ]
            for profile in profiles
        ],
    )
    console.document([profile.model_dump(mode="json", exclude_none=True) for profile in profiles])
