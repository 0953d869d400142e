"""`builder build`: make the image."""

from __future__ import annotations

import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from builder.documents.recipe import Recipe
    from builder.image.built import Built
    from builder.oci.artifact import Referrer
    from builder.pipeline.plan import Plan
    from builder.pipeline.workspace import Workspace


@click.command(name="build")
@click.argument("recipe", shell_complete=recipe_names)
@click.option(
    "--engine", type=click.Choice(["oci", "docker"]),
    help="Who puts the image together. Default: docker when a daemon responds and the base is an image, else oci.",
)  # fmt: skip
@click.option(
    "--output", metavar="oci:DIR|oci-archive:FILE", help="Where the oci engine writes. Default: oci:dist/NAME."
)
@click.option("--with-base", is_flag=True, help="Put the base's layers into the output too, however large they are.")
@click.option("--load", is_flag=True, help="Bring the oci engine's image into Docker, with its own digest.")
@offline_option
@common_options
def command(
    recipe: str, engine: str | None, output: str | None, with_base: bool, load: bool, context: Context, console: Console
) -> None:
    """Make RECIPE's image from its lock. The same lock gives the same digest on any machine."""
    from builder.documents.lock import overlay_lines
    from builder.oci.layout import check_target
    from builder.pipeline.workspace import open_workspace

    kind, target = _target(output)
    if engine == "docker" and (output or with_base or load):
        raise InputError("--output, --with-base and --load belong to the oci engine", hint="leave out --engine docker")
    _check_target(kind, target, load=load)
    if output or with_base or load:
        engine = "oci"
    workspace = open_workspace(recipe, context=context, check=partial(_check, engine=engine, load=load))
    if engine is None:
        engine = _choose(workspace, console=console)
    folder = target or workspace.project.dist / workspace.lock.name
    if engine == "oci" and kind == "oci":
        check_target(folder)
    plans = workspace.plans()
    if engine == "docker":
        document = _docker(workspace, plans, console)
    else:
        document = _oci(workspace, plans, kind, folder, with_base=with_base, load=load, console=console)
    for line in overlay_lines(overlay.summary() for overlay in workspace.lock.overlays):
        console.out(f"  overlay {line}")
    following = next_commands(workspace, document, loaded=load)
    if following:
        console.out("next, with this very image:")
    width = max(map(len, following), default=0)
    for what, line in following.items():
        console.out(f"  {what:<{width}}  {line}")
    document["next"] = following
    console.document({**document, "overlays": [overlay.summary() for overlay in workspace.lock.overlays]})


def next_commands(workspace: Workspace, document: dict[str, Any], *, loaded: bool) -> dict[str, str]:
    """How to run, push and verify the image that was built: what -> a command line for the shell it was built from."""
    name, lock = workspace.project.recipe, workspace.lock
    in_docker = document["engine"] == "docker" or loaded
    image = f"{lock.name}:{document['tags'][0]}"
    commands: dict[str, str] = {}
    if not lock.base.wheel:
        model = "" if lock.checkpoint is not None and lock.checkpoint.path else " --model /PATH/TO/CHECKPOINT"
        profile = f" {lock.default_profile or lock.profiles[0].name}" if lock.profiles else ""
        run = f"builder run {name}{profile}{model}"
        if not in_docker:
            commands["load"] = f"builder build {name} --load"
        # Without a profile there are no flags to run with but the base's own.
        plain = f"docker run --gpus all -p 8000:8000 -v /PATH/TO/CHECKPOINT:/model:ro {image} /model"
        commands["run"] = run if profile else plain
    if lock.base.parsed.kind in ("registry", "oci"):
        where = "" if workspace.recipe.publish else " --to REGISTRY/REPOSITORY"
        commands["push"] = f"builder publish {name}{where}"
    if document["engine"] == "docker":
        commands["verify"] = f"docker run --rm {image} verify"
    elif document["output"].startswith("oci:"):
        commands["verify"] = f"builder verify {shlex.quote(document['output'].removeprefix('oci:'))} --recipe {name}"
    return commands


def _target(output: str | None) -> tuple[str, Path | None]:
    if output is None:
        return "oci", None
    kind, colon, rest = output.partition(":")
    if not colon or kind not in ("oci", "oci-archive") or not rest:
        raise InputError(f"cannot write to {output!r}", hint="name oci:DIR or oci-archive:FILE")
    return kind, Path(rest)


def _check_target(kind: str, target: Path | None, *, load: bool) -> None:
    """Raise `InputError` when the output cannot be what it is asked to be."""
    if kind != "oci-archive" or target is None:
        return
    if load:
        raise InputError("--load goes with --output oci:DIR", hint="or load the archive yourself: docker load -i FILE")
    if target.exists() and not target.is_file():
        raise InputError(f"{target} is not a file", hint="name a file for the archive")


def _check(recipe: Recipe, *, engine: str | None, load: bool) -> None:
    """Raise the error of what cannot work, before minutes of work."""
    from builder.oci.daemon import daemon
    from builder.pipeline.build import check_engine

    check_engine(recipe, engine, load=load)
    if load:
        with daemon():
            pass


def _choose(workspace: Workspace, *, console: Console) -> str:
    from builder.oci.daemon import responds

    if workspace.lock.base.wheel or len(workspace.recipe.platforms) > 1 or not responds():
        return "oci"
    console.detail("a Docker daemon responds: using the docker engine")
    return "docker"


def _files(plans: list[Plan]) -> list[dict[str, Any]]:
    return [
        {"path": file.path, "before": file.before, "after": file.after, "overlays": list(file.overlays)}
        for file in plans[0].locked.files
    ]


def _oci(
    workspace: Workspace,
    plans: list[Plan],
    kind: str,
    target: Path,
    *,
    with_base: bool,
    load: bool,
    console: Console,
) -> dict[str, Any]:
    from builder.pipeline.build import build_images, write_oci
    from builder.util.project import from_here

    built = build_images(workspace.lock, plans)
    image = next(iter(built.images.values()))
    if kind == "oci-archive":
        complete = _archive(workspace, built, target, with_base=with_base)
    else:
        complete = write_oci(workspace, built, target, with_base=with_base, referrers=_travelling(workspace, built))
    written = f"{kind}:{from_here(target)}"
    console.out(written)
    console.out(f"  digest  {built.top.digest}")
    console.out(f"  layer   {image.layer.size:,} bytes, {sum(1 for each in plans[0].result.files)} files changed")
    console.out(f"  tags    {', '.join(built.tags.all)}")
    if workspace.lock.base.wheel:
        console.say("note: a wheel base gives the package's files only; the image is this one layer and does not run")
    elif not complete:
        console.say(
            f"note: the base's layers stay at {workspace.lock.base.pinned!s}; --with-base puts them into the output"
        )
    document = _document(workspace, built, plans, written, complete)
    if load:
        document["docker"] = _load(workspace, built, target, console)
    return document


def _travelling(workspace: Workspace, built: Built) -> list[Referrer]:
    """Lock and sources as referrers: with them, `builder verify` needs nothing but the layout."""
    from builder.oci.artifact import referrer
    from builder.pipeline.locking.overlays import read_overlay
    from builder.release.evidence.collect import travelling

    overlays = [read_overlay(workspace.project, each) for each in workspace.lock.overlays]
    return [referrer(each) for each in travelling(workspace.lock, built, overlays)]


def _document(workspace: Workspace, built: Built, plans: list[Plan], output: str, complete: bool) -> dict[str, Any]:
    platforms = {}
    for name, image in built.images.items():
        platforms[name] = {
            "digest": image.manifest.digest,
            "config_digest": image.config.digest,
            "layer": {"digest": image.layer.digest, "diff_id": image.layer.diff_id, "size": image.layer.size},
        }
    first = next(iter(platforms.values()))
    return {
        "name": workspace.lock.name,
        "engine": "oci",
        "digest": built.top.digest,
        "config_digest": first["config_digest"],
        "layer": first["layer"],
        "tags": built.tags.all,
        "output": output,
        "complete": complete,
        "inputs": workspace.lock.inputs,
        "files": _files(plans),
        "platforms": platforms,
    }


def _archive(workspace: Workspace, built: Built, target: Path, *, with_base: bool) -> bool:
    from builder.documents.reference import Platform
    from builder.oci.archive import write_archive
    from builder.oci.layout import Layout
    from builder.pipeline.build import write_oci
    from builder.util.holding import scratch

    platform = Platform.parse(next(iter(built.images)))
    with scratch(_existing_parent(target), ".builder-") as folder:
        layout = Layout(folder / "layout")
        complete = write_oci(workspace, built, layout.folder, with_base=with_base)
        names = [f"{workspace.lock.name}:{tag}" for tag in built.tags.all]
        write_archive(target, layout, built.top, names, platform, skip_missing=not complete)
    return complete


def _existing_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _load(workspace: Workspace, built: Built, target: Path, console: Console) -> dict[str, Any]:
    from builder.documents.reference import Platform
    from builder.oci.daemon import load
    from builder.oci.layout import Layout

    names = [f"{workspace.lock.name}:{tag}" for tag in built.tags.all]
    platform = Platform.parse(next(iter(built.images)))
    found = load(
        Layout(target), built.top, names, platform, context=workspace.context, base=str(workspace.lock.base.pinned)
    )
    console.out(f"  docker  {names[0]} ({found})")
    return {"id": found, "names": names}


def _docker(workspace: Workspace, plans: list[Plan], console: Console) -> dict[str, Any]:
    from builder.image.context import render_context
    from builder.image.labels import entrypoint_of, image_labels
    from builder.image.tags import image_tags
    from builder.oci.daemon import daemon
    from builder.oci.docker_cli import build, choose
    from builder.pipeline.build import docker_base
    from builder.pipeline.docker_base import ensure_base

    plan = plans[0]
    try:
        ensure_base(workspace.project, workspace.lock, plan, context=workspace.context)
        cli = choose()
    except UnreachableError as error:
        if workspace.lock.base.parsed.kind != "docker":
            error.hint = f"{error.hint}; or build without Docker: --engine oci"
        raise
    tags = image_tags(workspace.lock)
    names = [f"{workspace.lock.name}:{tag}" for tag in tags.all]
    with tempfile.TemporaryDirectory(prefix="builder-context-") as folder:
        place = Path(folder) / "context"
        render_context(
            place, docker_base(workspace), plan.rootfs, labels=image_labels(workspace.lock, plan.record), entrypoint=entrypoint_of(plan.record),
            name=workspace.lock.name,
        )  # fmt: skip
        found, cli = build(place, names, platform=str(plan.platform), context=workspace.context, cli=cli)
    with daemon() as client:
        layers = client.images.get(found).attrs["RootFS"]["Layers"]
    console.out(names[0])
    console.out(f"  image id  {found}")
    console.out(f"  tags      {', '.join(tags.all)}")
    return {
        "name": workspace.lock.name,
        "engine": "docker",
        "builder": cli.builder,
        "digest": found,
        "config_digest": found,
        "layer": {
            "digest": layers[-1],
            "diff_id": layers[-1],
            "size": sum(len(entry.data) for entry in plan.rootfs.entries),
        },
        "tags": tags.all,
        "output": f"docker:{names[0]}",
        "inputs": workspace.lock.inputs,
        "files": _files(plans),
    }
