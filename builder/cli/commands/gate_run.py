"""`builder gate [run]`: suites against an image or a server, and a verdict for each."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options, signing_options
from builder.cli.console import Console
from builder.cli.numbers import FiniteRange
from builder.cli.start_options import StartOptions, start_options
from builder.util.context import Context
from builder.util.errors import GateError, InputError, UnreachableError

if TYPE_CHECKING:
    from builder.documents.verdict import ImageIdentity
    from builder.gate.assemble import Written
    from builder.gate.run import About
    from builder.gate.suite import LoadedSuite
    from builder.release.attest.signing import Signing
    from builder.serve.smoke.run import Wanted
    from builder.serve.smoke.subject import Subject


@click.command(name="run")
@click.argument("target", metavar="RECIPE|URL")
@click.argument("profile", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--suite", "suites", multiple=True, required=True, metavar="NAME", help="A suite under gates/, or a path."
)
@click.option("--reference", metavar="URL", help="A server to compare with, row by row.")
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True, help="Ask each row N times.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run (the default).")
@click.option("--restart", is_flag=True, help="Throw an unfinished run away, and begin anew.")
@click.option(
    "--redact",
    is_flag=True,
    help="Leave private rows out of the results: ids and hashes only. Logs go to OUTPUT.private.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results. Default: dist/gate.")
@click.option(
    "--container", metavar="NAME", help="The container that serves URL: its image, so that the verdict is bound."
)
@click.option("--gpu", metavar="NAME", help="The GPU, such as rtx-5090. Default: what nvidia-smi reports.")
@start_options
@click.option("--limit", type=FiniteRange(min=0.1), help="Seconds until it must be healthy.")
@click.option("--attest", metavar="REGISTRY/REPOSITORY[:TAG|@DIGEST]", help="Attach each verdict to this image.")
@signing_options
@common_options
def command(
    target: str,
    profile: str | None,
    arguments: tuple[str, ...],
    suites: tuple[str, ...],
    reference: str | None,
    repeat: int,
    resume: bool,
    restart: bool,
    redact: bool,
    output: Path | None,
    container: str | None,
    gpu: str | None,
    start: StartOptions,
    limit: float | None,
    attest: str | None,
    key: Path | None,
    keyless: bool,
    trust_config: Path | None,
    console: Console,
) -> None:
    """Run suites against RECIPE's image with PROFILE, or against the server at URL, and write a verdict for each.

    A verdict is PASSED, WARNED or FAILED (exit code 6). Without --container a server's image is not known: the verdict is unbound, and
    is never attached or promoted. An interrupted run goes on where it ended.

    BUILDER_API_KEY is sent to the server, BUILDER_REFERENCE_API_KEY to the reference.
    """
    from builder.cli.serving import is_server, open_recipe, open_server
    from builder.gate.suite import load_suite
    from builder.release.attest.signing import signing_of
    from builder.util.project import find_project, project_folder

    if (key is not None or keyless) and attest is None:
        raise InputError(
            "--key and --keyless sign what --attest attaches",
            hint="name the image: --attest REGISTRY/REPOSITORY@DIGEST",
        )
    if resume and restart:
        raise InputError("--resume and --restart exclude each other")
    if repeated := [name for number, name in enumerate(suites) if name in suites[:number]]:
        raise InputError(f"--suite {repeated[0]} is repeated", hint="to ask each row several times: --repeat N")
    if is_server(target):
        if arguments or start.image or start.model:
            raise InputError("a server that runs already takes no arguments, --image or --model")
        if attest is not None and container is None:
            raise InputError(
                "the verdict of a server whose image is not known can never be attached",
                hint="name the container that serves it with --container",
            )
        root = project_folder()
        loaded = [load_suite(name, root) for name in suites]
        opening, wanted, _ = open_server(target, profile, None, container)
    else:
        if container:
            raise InputError("--container belongs to a URL")
        if profile is None:
            raise InputError("which profile?", hint="name it: builder gate RECIPE PROFILE --suite NAME")
        root = find_project(target).root
        loaded = [load_suite(name, root) for name in suites]
        opening, wanted, _ = open_recipe(target, profile, arguments, start, keep=False, console=console)
    wanted = replace(wanted, gpu=gpu, limit=limit or wanted.limit)
    folder = output or root / "dist" / "gate"
    # A key that cannot be read is known before a long run.
    signing = signing_of(key, keyless=keyless, config=trust_config, context=Context(console))
    done = _run(opening, wanted, loaded, reference, repeat, restart, redact, folder, attest, console)
    if attest is not None:
        _attach(done, attest, signing, console)
    report(done, console)


def _attach(done: list[Written], image: str, signing: Signing | None, console: Console) -> None:
    """Attach every verdict, whatever its result: one that failed is evidence too."""
    from builder.release.attest.store import attest

    for each in done:
        data = each.json.read_bytes()
        attested = attest(data, each.json.name, image, signing=signing, context=Context(console))
        console.say(f"{each.verdict.suite}: attached to {attested.image}, {attested.signed_by}")


def _image_now(subject: Subject, image: str | None, console: Console) -> Callable[[], ImageIdentity | None]:
    """What tells the image that runs: with `image`, as its registry knows it, and known to be it before the run begins."""
    if image is None:
        return subject.image_now
    from builder.gate.published import published
    from builder.release.verify.reader import open_reader

    reader = open_reader(image, context=Context(console))
    published(subject.image, reader)
    return lambda: published(subject.image_now(), reader)


def _run(
    opening: AbstractContextManager[Subject],
    wanted: Wanted,
    suites: list[LoadedSuite],
    reference: str | None,
    repeat: int,
    restart: bool,
    redact: bool,
    folder: Path,
    attest: str | None,
    console: Console,
) -> list[Written]:
    from builder.gate.assemble import write_run
    from builder.gate.rows import read_rows
    from builder.gate.run import Wanted as RunWanted
    from builder.gate.run import run_suite
    from builder.gate.target import Target
    from builder.util.holding import holding

    # Before a container is started for nothing.
    for each in suites:
        read_rows(each)
    context = Context(console)
    how = RunWanted(folder, restart, repeat, redact)
    folder.mkdir(parents=True, exist_ok=True)
    other = None
    if reference is not None:
        other = Target("reference", reference, key=os.environ.get("BUILDER_REFERENCE_API_KEY"), context=context)
    done = []
    with opening as subject, holding(folder, waiting=lambda who: console.say(f"waiting for {who} in {folder}")):
        image = _image_now(subject, attest, console)
        about = _about(subject, wanted, console)
        target = Target("target", subject.url, key=os.environ.get("BUILDER_API_KEY"), context=context, image=image)
        for each in suites:
            run = run_suite(each, target, other, about, how, context=context)
            written = write_run(run, folder, redact=redact)
            console.say(f"{each.name}: {written.verdict.result}")
            done.append(written)
    return done


def _about(subject: Subject, wanted: Wanted, console: Console) -> About:
    """Wait until the server is healthy, and note what is known of it from outside."""
    from builder.cli.show.startup import startup_view
    from builder.gate.run import About
    from builder.serve.smoke.client import Server
    from builder.serve.smoke.gpu import Gpu
    from builder.serve.smoke.run import wait_for_start

    server = Server(subject.url, key=os.environ.get("BUILDER_API_KEY"))
    view = startup_view(console, wanted.limit)
    start = wait_for_start(subject, server, wanted, view if subject.image is not None else nullcontext(_Unseen()))
    if not start.healthy:
        raise UnreachableError(
            f"the server is not healthy: {start.check.summary}", details=start.check.details,
            hint="`builder smoke RECIPE PROFILE` says more",
        )  # fmt: skip
    gpu = subject.gpu()
    if wanted.gpu is not None:
        gpu = replace(gpu, short=wanted.gpu) if gpu else Gpu(wanted.gpu, wanted.gpu, -1.0)
    profile = wanted.profile
    return About(
        wanted.recipe, profile, tuple(profile.argv()) if profile else (), subject.command, gpu, wanted.configuration
    )


class _Unseen:
    """A server that runs already has no start to look at."""

    def show(self, *_: object) -> None: ...


def report(done: list[Written], console: Console) -> None:
    """What was found; raises `GateError` when a verdict is FAILED."""
    from builder.cli.show.verdict import show_tests, summary
    from builder.gate.state import keeps

    document = {"verdicts": [{**summary(each.verdict), "files": each.paths()} for each in done]}
    failed = [each for each in done if each.verdict.result == "FAILED"]
    if failed:
        details = [
            (f"{each.verdict.suite}/{test.name}", f"{test.found}; wanted {test.wanted}")
            for each in failed
            for test in each.verdict.details.tests
            if test.outcome == "failed"
        ]
        raise GateError(
            f"{', '.join(each.verdict.suite for each in failed)}: FAILED",
            details=[
                *details, *(("page", str(each.html)) for each in failed),
                *(("private", keeps(each.private)) for each in done if each.private is not None),
            ],
            hint="look at the page: it has the rows that did not pass", data=document,
        )  # fmt: skip
    for each in done:
        show_tests(each.verdict, console)
        console.out(
            f"{each.verdict.suite}: {each.verdict.result}{'' if each.verdict.bound else ' (unbound)'}, unsigned"
        )
        console.out(f"  verdict  {each.json}")
        console.out(f"  page     {each.html}")
        if each.private is not None:
            console.out(f"  private  {keeps(each.private)}")
    console.document(document)
