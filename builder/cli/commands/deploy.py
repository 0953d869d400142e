"""`builder deploy`: files that run a published image somewhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options
from builder.cli.commands.names import profile_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import write_file

if TYPE_CHECKING:
    from builder.documents.lock import Lock
    from builder.serve.deploy.service import Service


@click.group(name="deploy")
def command() -> None:
    """Render what runs a published image under Compose or Kubernetes."""


_IMAGE = click.option(
    "--image", required=True, metavar="REF@DIGEST", help="The published image, as `builder publish` prints it."
)
_OUTPUT = click.option(
    "--output", required=True, metavar="DIR|-", help="A folder for the files, or - for standard output."
)
_FORCE = click.option("--force", is_flag=True, help="Replace files of the same names.")
_SECONDS = click.option(
    "--startup-seconds", type=click.IntRange(30, 86400), help="How long a start may take. Default: by the checkpoint's size."
)  # fmt: skip


@command.command(name="compose")
@click.argument("recipe", shell_complete=recipe_names)
@click.argument("profiles", nargs=-1, shell_complete=profile_names)
@_IMAGE
@_OUTPUT
@_FORCE
@_SECONDS
@click.option("--model", metavar="DIR", help="The checkpoint's folder on the machine. Default: the recipe's.")
@click.option(
    "--port", type=click.IntRange(1, 65000), default=8000, show_default=True, help="Port of the first profile."
)
@common_options
def compose_command(
    recipe: str,
    profiles: tuple[str, ...],
    image: str,
    output: str,
    force: bool,
    startup_seconds: int | None,
    model: str | None,
    port: int,
    console: Console,
) -> None:
    """Render a compose.yaml that serves PROFILES of RECIPE (default: the recipe's default profile)."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.container import model_folder
    from builder.serve.deploy.compose import compose

    workspace = open_workspace(recipe, context=Context(console), make=False)
    services = _services(workspace.lock, profiles, image, startup_seconds)
    folder = model or str(model_folder(workspace.project, workspace.lock, None))
    if not folder.startswith("/"):
        raise InputError(f"--model {folder!r} is relative", hint="name the folder's whole path on that machine")
    _write({"compose.yaml": compose(services, model=folder, port=port)}, output, force, console)


@command.command(name="kubernetes")
@click.argument("recipe", shell_complete=recipe_names)
@click.argument("profiles", nargs=-1, shell_complete=profile_names)
@_IMAGE
@_OUTPUT
@_FORCE
@_SECONDS
@click.option("--model-claim", default="model", show_default=True, help="The claim that holds the checkpoint.")
@click.option(
    "--cache-gib", type=click.IntRange(min=1), default=20, show_default=True, help="Size of the cache's claim."
)
@common_options
def kubernetes_command(
    recipe: str,
    profiles: tuple[str, ...],
    image: str,
    output: str,
    force: bool,
    startup_seconds: int | None,
    model_claim: str,
    cache_gib: int,
    console: Console,
) -> None:
    """Render manifests that serve PROFILES of RECIPE (default: the recipe's default profile), for `kubectl apply -f`."""
    from builder.pipeline.workspace import open_workspace
    from builder.serve.deploy.kubernetes import manifests

    lock = open_workspace(recipe, context=Context(console), make=False).lock
    services = _services(lock, profiles, image, startup_seconds)
    _write(manifests(services, model_claim=model_claim, cache_gib=cache_gib), output, force, console)


def _services(lock: Lock, profiles: Sequence[str], image: str, seconds: int | None) -> list[Service]:
    from builder.serve.deploy.service import make_service

    chosen = list(dict.fromkeys(profiles)) or ([lock.default_profile] if lock.default_profile else [])
    if not chosen:
        raise InputError("which profile?", hint=f"{lock.name} has no default: name one")
    return [make_service(lock, name, image, seconds=seconds) for name in chosen]


def _write(documents: Mapping[str, dict[str, Any]], output: str, force: bool, console: Console) -> None:
    """Write one file per document, or all of them as one stream. Nothing is written when a file is in the way."""
    import yaml

    texts = {
        name: str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
        for name, document in documents.items()
    }
    if output == "-":
        console.data("---\n".join(texts.values()).rstrip("\n"))
        console.document({"documents": documents})
        return
    folder = Path(output)
    taken = [str(folder / name) for name in texts if (folder / name).exists()]
    if taken and not force:
        raise InputError(
            "files are in the way", details=[("file", path) for path in taken], hint="--force replaces them"
        )
    for name, text in texts.items():
        write_file(folder / name, text.encode())
        console.out(f"wrote {folder / name}")
    console.document({"files": [str(folder / name) for name in texts], "documents": documents})
