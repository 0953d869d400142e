"""`builder doctor`: what this machine has of what the recipes need."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import __version__
from builder.cli.app import common_options, offline_option, shown
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import EXIT_INPUT, EXIT_UNREACHABLE, BuilderError

if TYPE_CHECKING:
    from builder.documents.recipe import Recipe
    from builder.pipeline.doctor.model import Finding

_SECRET = ("TOKEN", "KEY", "PASSWORD", "SECRET")


@click.command(name="doctor")
@click.argument("recipe", required=False, shell_complete=recipe_names)
@click.option("--report", is_flag=True, help="Print Markdown to paste into an issue, without names and secrets.")
@offline_option
@common_options
@click.pass_context
def command(ctx: click.Context, recipe: str | None, report: bool, context: Context, console: Console) -> None:
    """Look for what builds, runs and publication need, here and on the network, for RECIPE or for every recipe here.

    Exit codes: 0 nothing stops a build (notes are for some commands only), 2 something is missing or wrong on this
    machine, 5 a server that a recipe needs does not respond. With --offline no server is asked.
    """
    from builder.pipeline.doctor.machine import machine
    from builder.pipeline.doctor.model import Finding
    from builder.pipeline.doctor.network import credentials, network
    from builder.util.project import project_folder

    folder = project_folder()
    recipes, findings = _recipes(folder, recipe)
    with console.progress("looking at this machine and the network"):
        findings += machine(
            folder, wants_git=any(each.pull is not None for found in recipes for each in found.overlays)
        )
        findings += credentials(recipes)
        if context.offline:
            findings.append(Finding("network", "note", "not asked: --offline"))
        else:
            findings += network(recipes, context=context)
    code = _code(findings)
    if report:
        console.data(_report(findings, folder))
    else:
        console.table(("state", "what", "found"), [(each.state, each.name, each.text) for each in findings])
        for each in findings:
            if each.next and each.state != "ok":
                line = f"{each.state}: {each.name}: {each.next}"
                console.out(line) if each.state == "note" else console.fail(line.removeprefix("problem: "))
        console.out("Nothing here stops a build." if not code else "A build would stop at each problem.")
    console.document({"ok": not code, "exit_code": code, "findings": [each.as_json() for each in findings]})
    ctx.exit(code)


def _recipes(folder: Path, named: str | None) -> tuple[list[Recipe], list[Finding]]:
    """The recipes to look at, and a finding for each that cannot be read."""
    from builder.documents.recipe import load_recipe
    from builder.pipeline.doctor.model import Finding
    from builder.util.project import find_project, recipe_files

    names = [named] if named is not None else [str(path) for path in recipe_files(folder)]
    recipes, findings = [], []
    for name in names:
        try:
            recipes.append(load_recipe(find_project(name).recipe_path))
        except BuilderError as error:
            findings.append(
                Finding(f"recipe {Path(name).stem}", "problem", error.message, error.hint or "", error.exit_code)
            )
    if not names:
        findings.append(Finding("recipes", "note", "there are none here", "begin one: builder init NAME --pull NUMBER"))
    return recipes, findings


def _code(findings: Iterable[Finding]) -> int:
    """What is wrong here comes before what does not respond: it can be mended at once."""
    codes = {each.code for each in findings if each.state == "problem"}
    return next((code for code in (EXIT_INPUT, EXIT_UNREACHABLE) if code in codes), next(iter(sorted(codes)), 0))


def _report(findings: Sequence[Finding], folder: Path) -> str:
    lines = [f"builder {__version__}, Python {platform.python_version()}, {platform.platform()}", ""]
    width = max(len(each.name) for each in findings)
    lines += [f"{each.state:<8} {each.name:<{width}}  {each.text}" for each in findings]
    settings = sorted(name for name in os.environ if name.startswith(("BUILDER_", "DOCKER_", "HF_", "PIP_INDEX")))
    if settings:
        lines += ["", "set in the environment:"]
        lines += [
            f"  {name}={'***' if any(part in name for part in _SECRET) else os.environ[name]}" for name in settings
        ]
    text = shown("\n".join(lines))
    for path, word in ((str(folder), "."), (str(Path.home()), "~"), (platform.node(), "HOST")):
        if len(path) > 1:
            text = text.replace(path, word)
    return f"```text\n{text}\n```"
