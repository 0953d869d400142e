"""`builder smoke`: does an image, or any server, do what its profile promises?"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options
from builder.cli.commands.names import gpu_names, profile_names
from builder.cli.console import Console
from builder.cli.numbers import FiniteRange
from builder.cli.start_options import StartOptions, start_options
from builder.util.context import Context
from builder.util.errors import GateError, InputError
from builder.util.redact import without_secrets

if TYPE_CHECKING:
    from builder.serve.smoke.result import SmokeResult


@click.command(name="smoke")
@click.argument("target", metavar="RECIPE|URL")
@click.argument("profile", required=False, shell_complete=profile_names)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@start_options
@click.option("--keep", is_flag=True, help="Let the container run on.")
@click.option("--limit", type=FiniteRange(min=0.1), help="Seconds until it must be healthy.")
@click.option(
    "--gpu",
    shell_complete=gpu_names,
    metavar="NAME",
    help="The GPU, such as rtx-5090. Default: what nvidia-smi reports.",
)
@click.option("--log", "log_file", type=click.Path(path_type=Path), help="The log of the server at URL.")
@click.option("--container", metavar="NAME", help="The container that serves URL: its log, GPU and image.")
@click.option("--prompt", help="The short prompt that is sent twice.")
@click.option("--answer", help="What the response to it must contain.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results. Default: dist/smoke.")
@common_options
def command(
    target: str,
    profile: str | None,
    arguments: tuple[str, ...],
    start: StartOptions,
    keep: bool,
    limit: float | None,
    gpu: str | None,
    log_file: Path | None,
    container: str | None,
    prompt: str | None,
    answer: str | None,
    output: Path | None,
    console: Console,
) -> None:
    """Start RECIPE's image with PROFILE (default: the recipe's default profile) and check it, or check the server at URL against PROFILE.

    BUILDER_API_KEY is sent as a bearer token when it is set.
    """
    from builder.cli.serving import is_server, open_recipe, open_server
    from builder.cli.show.startup import startup_view
    from builder.serve.smoke.client import Server
    from builder.serve.smoke.result import write_result
    from builder.serve.smoke.run import smoke
    from builder.serve.smoke.subject import ContainerServer

    if (prompt is None) != (answer is None):
        raise InputError("--prompt and --answer belong together")
    if is_server(target):
        if arguments or start.image or start.model or keep:
            raise InputError("a server that runs already takes no arguments, --image, --model or --keep")
        opening, wanted, folder = open_server(target, profile, log_file, container)
    else:
        if log_file or container:
            raise InputError("--log and --container belong to a URL")
        opening, wanted, folder = open_recipe(target, profile, arguments, start, keep=keep, console=console)
    wanted = replace(
        wanted, gpu=gpu, limit=limit or wanted.limit, prompt=prompt or wanted.prompt, answer=answer or wanted.answer
    )
    with opening as subject:
        server = Server(subject.url, key=os.environ.get("BUILDER_API_KEY"))
        result = smoke(subject, server, wanted, view=startup_view(console, wanted.limit), context=Context(console))
        log = subject.log_text()
        if keep and isinstance(subject, ContainerServer):
            if ended := subject.ended():
                console.say(f"{ended}; its log: docker logs {subject.name}; remove it with: docker rm {subject.name}")
            else:
                console.say(f"it runs on at {without_secrets(subject.url)}; end it with: docker rm -f {subject.name}")
    paths = write_result(result, output or folder, log)
    _report(result, {kind: str(path) for kind, path in paths.items()}, console)


def _report(result: SmokeResult, paths: dict[str, str], console: Console) -> None:
    """The outcome; raises `GateError` when a check failed."""
    verdict = result.verdict()
    document = {"result": verdict.result, **verdict.details.model_dump(mode="json", by_alias=True), "files": paths}
    if not result.ok:
        raise GateError(
            f"smoke failed: {len(result.failures())} of {len(result.checks)} checks",
            details=[
                *(
                    (check.name, "\n".join([check.summary, *(f"{label}: {text}" for label, text in check.details)]))
                    for check in result.failures()
                ),
                ("page", paths["html"]),
            ],
            hint=f"the server's log is {paths['log']}" if "log" in paths else "look at the server's log",
            data=document,
        )
    console.table(["", "check", "outcome"], [(check.status, check.name, check.summary) for check in result.checks])
    skipped = sum(check.status == "not checked" for check in result.checks)
    console.out(f"smoke passed{f'; {skipped} not checked' if skipped else ''}")
    console.out(f"  image  {result.image.digest if result.image else 'not known'}")
    console.out(f"  page   {paths['html']}")
    console.document(document)
