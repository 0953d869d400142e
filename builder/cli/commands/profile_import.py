"""`builder profile import`: somebody else's recipe or command line as a profile."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.errors import InputError
from builder.util.files import read_regular, unreadable, write_file

if TYPE_CHECKING:
    from builder.vllm.imports.imported import Imported

_LIMIT = 4 << 20


@click.command(name="import")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--from-command", "line", metavar="COMMAND", help="A `vllm serve` or `docker run` line instead of FILE; - reads it."
)
@click.option("--name", help="The profile's name. Default: after the model.")
@click.option("--variant", help="A variant of the recipe, such as nvfp4.")
@click.option("--hardware", help="A GPU such as h200, or a family: hopper, blackwell, amd.")
@click.option(
    "--feature", "features", multiple=True, help="Take only these features of the recipe. Default: all but opt-in ones."
)
@click.option("--gpus", type=click.IntRange(1, 64), help="GPUs that share the model.")
@click.option("--output", metavar="FILE|-", help="Where to write. Default: profiles/NAME.yaml.")
@click.option("--force", is_flag=True, help="Replace the file.")
@common_options
def command(
    file: Path | None,
    line: str | None,
    name: str | None,
    variant: str | None,
    hardware: str | None,
    features: tuple[str, ...],
    gpus: int | None,
    output: str | None,
    force: bool,
    console: Console,
) -> None:
    """Make a profile of FILE: a recipe of vllm-project/recipes, or one with a command template, as for DGX Spark.

    What a profile cannot hold is told, with what to do instead. Nothing is overwritten without --force.
    """
    from pydantic import ValidationError

    from builder.util.project import from_here, project_folder

    if (file is None) == (line is None):
        raise InputError("name one source", hint="a recipe's FILE, or --from-command 'vllm serve MODEL --flags'")
    if line is not None:
        if variant or hardware or features or gpus:
            raise InputError("--variant, --hardware, --feature and --gpus belong to a recipe's FILE")
        from builder.vllm.imports.shell import from_command

        found = from_command(_standard_input() if line == "-" else line, name=name)
    else:
        assert file is not None  # noqa: S101  one of the two is given
        found = _read(file, name=name, variant=variant, hardware=hardware, features=features, gpus=gpus)
    try:
        profile = found.profile()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"no profile can be made of it: {where}: {first['msg']}") from error
    text = _text(found)
    target = Path(output) if output is not None else project_folder() / "profiles" / f"{profile.name}.yaml"
    if output == "-":
        console.data(text.rstrip("\n"))
    else:
        if target.exists() and not force:
            raise InputError(f"{target} exists", hint="choose another name with --name, or replace it with --force")
        if target.stem != profile.name:
            raise InputError(
                f"the profile is called {profile.name!r}, and its file {target.name}", hint=f"--name {target.stem}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, text.encode())
        console.out(f"wrote {from_here(target)}: {len(profile.flags)} flags, {len(profile.env)} variables")
    if found.model:
        console.say(f"the model is not part of a profile: {found.model}")
    for what, why in found.lost:
        console.warn(f"not carried: {what}: {why}")
    if output != "-":
        console.say(f"next: builder profile lint {profile.name} --base wheel:vllm==VERSION")
    console.document(
        {
            "profile": profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "file": None if output == "-" else str(target),
            "model": found.model,
            "not_carried": [{"what": what, "why": why} for what, why in found.lost],
        }
    )


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError("standard input is not UTF-8 text", hint="send the command line as UTF-8") from error


def _read(
    file: Path,
    *,
    name: str | None,
    variant: str | None,
    hardware: str | None,
    features: tuple[str, ...],
    gpus: int | None,
) -> Imported:
    import yaml

    from builder.vllm.imports.spark import from_spark, is_spark
    from builder.vllm.imports.upstream import from_upstream, is_upstream

    try:
        # Somebody else's YAML: with dates and anchors, which our own reader refuses.
        document = yaml.safe_load(read_regular(file, limit=_LIMIT).decode())
    except OSError as error:
        found = unreadable(file, error)
        if " " in str(file):
            found.hint = f"{found.hint}; a command line is given with --from-command"
        raise found from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{file} is not YAML: {str(error).splitlines()[0]}",
            hint="name a recipe's YAML file, or give a command line with --from-command",
        ) from error
    if isinstance(document, Mapping) and is_upstream(document):
        return from_upstream(
            document, name=name, variant=variant, hardware=hardware, features=features or None, gpus=gpus
        )
    if isinstance(document, Mapping) and is_spark(document):
        if variant or hardware or features or gpus:
            raise InputError("this recipe has no variants, features and hardware", hint="leave these options out")
        return from_spark(document, name=name)
    raise InputError(
        f"{file} is not a recipe that is known here",
        hint="a file of vllm-project/recipes (with `model.model_id`), or one with a `command:` template",
    )


def _text(found: Imported) -> str:
    """The profile's file. Decimal fractions are written bare, since they keep their digits."""
    import yaml

    document: dict[str, Any] = {"name": found.name}
    if found.description:
        document["description"] = found.description
    document["flags"] = dict(found.flags)
    if found.env:
        document["env"] = dict(found.env)
    if found.hardware is not None:
        document["hardware"] = found.hardware.model_dump(mode="json", exclude_defaults=True)
    if found.notes:
        document["notes"] = found.notes
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096))
