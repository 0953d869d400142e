"""`builder profile show`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from builder.cli import common_options
from builder.console import Console


@click.command(name="show")
@click.argument("profile")
@common_options
def command(profile: str, console: Console) -> None:
    """Show PROFILE: a name under profiles/, or a path."""
    from builder.serving.profile import load_profile

    path = Path(profile) if profile.endswith((".yaml", ".yml")) else Path.cwd() / "profiles" / f"{profile}.yaml"
    loaded = load_profile(path)
    console.out(f"{loaded.name}: {loaded.description}")
    arguments = loaded.argv()
    console.out("vllm serve MODEL \\")
    lines: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not lines:
            lines.append([argument])
        else:
            lines[-1].append(argument)
    console.out(" \\\n".join(f"    {shlex.join(line)}" for line in lines))
    if loaded.envelope is not None:
        console.out(
            f"envelope: prompts of {loaded.envelope.prompt:,} and completions of {loaded.envelope.completion:,} tokens"
        )
    console.document({**loaded.model_dump(mode="json", exclude_none=True), "argv": arguments})
