"""`builder profile lint`: would vLLM take these flags, and would they do what the profile promises?"""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import profile_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import EXIT_INPUT, InputError


@click.command(name="lint")
@click.argument("profile", metavar="PROFILE_OR_FILE", shell_complete=profile_names)
@click.option("--recipe", shell_complete=recipe_names, help="Judge against this recipe's base with its stack applied.")
@click.option("--base", metavar="REF", help="Judge against a base as it is, such as wheel:vllm==0.20.0.")
@click.option("--strict", is_flag=True, help="Warnings fail too.")
@offline_option
@common_options
def command(
    profile: str, recipe: str | None, base: str | None, strict: bool, context: Context, console: Console
) -> None:
    """Check a profile against the source of the vLLM that will run it. Nothing is imported; no GPU is needed.

    Errors exit with 2, warnings alone with 0 (--strict: 2). What cannot be told is "not checked", never fine.
    """
    from builder.cli.show.lint import show
    from builder.documents.profile import profile_path
    from builder.documents.recipe import load_recipe
    from builder.pipeline.judge import judge_of_base, judge_of_recipe, recipe_of
    from builder.util.project import find_project, project_folder

    if recipe is not None and base is not None:
        raise InputError("--recipe and --base exclude each other", hint="a recipe names its base")
    others: list[Path] = []
    if base is not None:
        path = profile_path(profile, project_folder() / "profiles")
        judge = judge_of_base(base, context=context)
    else:
        project = find_project(recipe or recipe_of(profile))
        loaded = load_recipe(project.recipe_path)
        path = profile_path(profile, project.profiles)
        judge = judge_of_recipe(project, loaded, context=context)
        others = [project.profiles / f"{name}.yaml" for name in loaded.profiles if name != path.stem]
    report = judge.lint(path)
    show(report, console)
    document = {**report.as_json(), "strict": strict}
    # Where the recipe promises more than this profile serves, say which of its profiles serve it.
    unserved = [each for each in report.serves if (each.prompt, each.completion) in judge.budgets and not each.serves]
    for missed in unserved:
        able = []
        for other in (judge.lint(each) for each in others):
            for each in other.serves:
                if each.serves and (each.prompt, each.completion) == (missed.prompt, missed.completion):
                    able.append({"profile": other.profile, "at_once": each.at_once})
                    console.out(each.sentence(other.profile))
        document["served_by"] = able
        if not able:
            console.out(f"no profile of the recipe serves {missed.tokens:,} tokens")
    console.document(document)
    if report.failed or (strict and report.warned):
        raise click.exceptions.Exit(EXIT_INPUT)
