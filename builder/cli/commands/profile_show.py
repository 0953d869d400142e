"""`builder profile show`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import profile_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError

if TYPE_CHECKING:
    from builder.documents.profile import Profile
    from builder.vllm.lint.context import Package


@click.command(name="show")
@click.argument("profile", shell_complete=profile_names)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "vllm"]),
    default="text",
    show_default=True,
    help="vllm: a file for `vllm serve MODEL --config FILE`.",
)
@click.option("--resolved", is_flag=True, help="Beside each flag the default that vLLM has without it.")
@click.option(
    "--recipe",
    shell_complete=recipe_names,
    help="With --resolved: the recipe whose base and stack to read; the one that lists PROFILE.",
)
@click.option("--base", metavar="REF", help="With --resolved: a base to read instead, such as wheel:vllm==0.20.0.")
@offline_option
@common_options
def command(
    profile: str, form: str, resolved: bool, recipe: str | None, base: str | None, context: Context, console: Console
) -> None:
    """Show PROFILE: a name under profiles/, or a path. What it extends is part of what is shown."""
    from builder.documents.profile import profile_path, read_profile
    from builder.util.project import project_folder
    from builder.vllm.config_file import config_text

    if (recipe or base) and not resolved:
        raise InputError("--recipe and --base belong to --resolved", hint="add --resolved")
    if resolved and form != "text":
        raise InputError("--resolved is for people, and --format vllm for vLLM", hint="leave one of them out")
    read = read_profile(profile_path(profile, project_folder() / "profiles"))
    loaded = read.profile
    if form == "vllm":
        console.data(config_text(loaded).rstrip("\n"))
        console.document({"profile": loaded.name, "config": config_text(loaded)})
        return
    console.out(f"{loaded.name}: {loaded.description}")
    if len(read.chain) > 1:
        console.out(f"extends {', which extends '.join(read.chain[1:])}")
    for name, text in loaded.env.items():
        console.out(f"export {name}={shlex.quote(text)}")
    arguments = loaded.argv()
    console.data("vllm serve MODEL \\")
    lines: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not lines:
            lines.append([argument])
        else:
            lines[-1].append(argument)
    console.data(" \\\n".join(f"    {shlex.join(line)}" for line in lines))
    if loaded.envelope is not None:
        console.out(
            f"envelope: prompts of {loaded.envelope.prompt:,} and completions of {loaded.envelope.completion:,} tokens"
        )
    document = {
        **loaded.model_dump(mode="json", exclude_none=True, exclude={"extends", "without"}),
        "argv": arguments,
        "extends": list(read.chain[1:]),
    }
    if resolved:
        package = _package(profile, recipe, base, context=context)
        document["against"] = package.source.name
        document["resolved"] = differences(loaded, package)
        console.table(
            ["flag", "profile", "stock default"],
            [[row["flag"], _text(row["value"]), _text(row["default"])] for row in document["resolved"]],
            title=f"{loaded.name} against {package.source.name}",
        )
    console.document(document)


def _package(profile: str, recipe: str | None, base: str | None, *, context: Context) -> Package:
    from builder.documents.recipe import load_recipe
    from builder.pipeline.judge import judge_of_base, judge_of_recipe, recipe_of
    from builder.util.project import find_project

    if base is not None:
        return judge_of_base(base, context=context).package
    project = find_project(recipe or recipe_of(profile))
    return judge_of_recipe(project, load_recipe(project.recipe_path), context=context).package


def differences(profile: Profile, package: Package) -> list[dict[str, Any]]:
    """Each flag of a profile with what holds without it. `differs` is None when only running vLLM tells the default."""
    from builder.documents.yamlfile import Document
    from builder.vllm.lint.context import Context
    from builder.vllm.lint.rules import equals_default, stock_default
    from builder.vllm.reader.flags import NOT_KNOWN

    rows = []
    for entry in Context(profile, Document(profile.name, None), package).entries:
        default = stock_default(entry.flag) if entry.flag is not None and not entry.inner else NOT_KNOWN
        known = default is not NOT_KNOWN
        value = entry.switched_on if entry.switched_on is not None else entry.value
        rows.append(
            {
                "flag": entry.key,
                "value": list(value) if isinstance(value, tuple) else value,
                "default": default if known else "not known",
                "differs": not equals_default(entry, default) if known else None,
            }
        )
    return rows


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(str(each) for each in value) if isinstance(value, list) else str(value)
