"""`builder init`: the files of a new recipe."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="init")
@click.argument("name")
@click.option(
    "--pull", "pulls", multiple=True, metavar="NUMBER|OWNER/REPOSITORY#NUMBER|URL",
    help="A pull request; again for each further one, in the order in which they are applied.",
)  # fmt: skip
@click.option("--file", "files", multiple=True, metavar="DIFF", help="A local diff, after the pull requests.")
@click.option("--base", metavar="BASE", help="The image to patch. Default: a release of vllm/vllm-openai.")
@click.option("--package", default="vllm", show_default=True, help="The package that serves.")
@click.option("--checkpoint", metavar="DIR|OWNER/NAME", help="The checkpoint that the image serves.")
@click.option(
    "--profile", metavar="NAME|FILE", help="A profile of this project, or a file to copy. Default: a new one, smoke."
)
@click.option(
    "--repository", default="vllm-project/vllm", show_default=True, metavar="OWNER/REPOSITORY",
    help="Whose pull request a bare number names.",
)  # fmt: skip
@common_options
def command(
    name: str,
    pulls: tuple[str, ...],
    files: tuple[str, ...],
    base: str | None,
    package: str,
    checkpoint: str | None,
    profile: str | None,
    repository: str,
    console: Console,
) -> None:
    """Write the recipe NAME with its pull requests, a profile, .gitignore and the schemas for editors.

    Works in an empty folder and in a project. Nothing is overwritten, and no server is asked.
    """
    from builder.cli.pulls import named_pull
    from builder.documents.pull import is_repository
    from builder.pipeline.begin import DEFAULT_BASE, Wanted, begin, check_name
    from builder.util.project import project_folder

    check_name(name)
    if not is_repository(repository):
        raise InputError(f"--repository {repository!r} is not OWNER/REPOSITORY", hint="such as vllm-project/vllm")
    if not pulls and not files:
        raise InputError("what is to be applied?", hint=f"name a pull request: builder init {name} --pull NUMBER")
    wanted = Wanted(
        name=name,
        pulls=[named_pull(pull, repository=repository) for pull in pulls],
        files=files,
        base=DEFAULT_BASE if base is None else base,
        package=package,
        checkpoint=checkpoint,
        profile=profile,
    )
    begun = begin(project_folder(), wanted, context=Context(console))
    for each in begun.written:
        console.out(f"wrote {each}")
    for each in begun.kept:
        console.out(f"kept {each}")
    for note in begun.notes:
        console.out(f"note: {note}")
    following = f"builder check {begun.project.recipe}"
    console.out(f"next: {following}")
    console.document(
        {
            "recipe": begun.project.show(begun.project.recipe_path),
            "written": list(begun.written),
            "kept": list(begun.kept),
            "notes": list(begun.notes),
            "next": following,
        }
    )
