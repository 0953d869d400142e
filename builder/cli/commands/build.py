"""`builder build`: make the image."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.documents.lock import overlay_lines
from builder.oci.layout import Layout
from builder.oci.types import Platform
from builder.pipeline.build import (
    ENTRYPOINT,
    Built,
    build_images,
    docker_base,
    image_labels,
    image_tags,
    write_oci,
)
from builder.pipeline.plan import Plan, pinned_reference
from builder.pipeline.workspace import Opened, open_recipe
from builder.util.errors import InputError


@click.command(name="build")
@click.argument("recipe")
@click.option(
    "--engine", type=click.Choice(["oci", "docker"]),
    help="Who puts the image together. Default: docker when a daemon answers and the base is an image, else oci.",
)  # fmt: skip
@click.option(
    "--output", metavar="oci:DIR|oci-archive:FILE", help="Where the oci engine writes. Default: oci:dist/NAME."
)
@click.option("--with-base", is_flag=True, help="Put the base's layers into the output too, however large they are.")
@click.option("--load", is_flag=True, help="Bring the oci engine's image into Docker, with its own digest.")
@click.option("--offline", is_flag=True, help="Use the vendored diffs and the cache only.")
@common_options
def command(
    recipe: str, engine: str | None, output: str | None, with_base: bool, load: bool, offline: bool, console: Console
) -> None:
    """Make RECIPE's image from its lock. The same lock gives the same digest on any machine."""
    kind, target = _target(output)
    if engine == "docker" and (output or with_base or load):
        raise InputError("--output, --with-base and --load belong to the oci engine", hint="leave out --engine docker")
    opened = open_recipe(recipe, console=console, offline=offline)
    if engine is None:
        engine = _choose(opened, explicit=bool(output or with_base or load), console=console)
    plans = opened.plans(console=console, offline=offline)
    if engine == "docker":
        document = _docker(opened, plans, console)
    else:
        folder = target or opened.project.dist / opened.lock.name
        document = _oci(opened, plans, kind, folder, with_base=with_base, load=load, console=console, offline=offline)
    for line in overlay_lines(overlay.summary() for overlay in opened.lock.overlays):
        console.out(f"  overlay {line}")
    console.document({**document, "overlays": [overlay.summary() for overlay in opened.lock.overlays]})


def _target(output: str | None) -> tuple[str, Path | None]:
    if output is None:
        return "oci", None
    kind, colon, rest = output.partition(":")
    if not colon or kind not in ("oci", "oci-archive") or not rest:
        raise InputError(f"cannot write to {output!r}", hint="name oci:DIR or oci-archive:FILE")
    return kind, Path(rest)


def _choose(opened: Opened, *, explicit: bool, console: Console) -> str:
    from builder.oci.daemon import answers

    if explicit or opened.lock.base.wheel or len(opened.recipe.platforms) > 1 or not answers():
        return "oci"
    console.detail("a Docker daemon answers: using the docker engine")
    return "docker"


def _files(plans: list[Plan]) -> list[dict[str, Any]]:
    return [
        {"path": file.path, "before": file.before, "after": file.after, "overlays": list(file.overlays)}
        for file in plans[0].locked.files
    ]


def _oci(
    opened: Opened,
    plans: list[Plan],
    kind: str,
    target: Path,
    *,
    with_base: bool,
    load: bool,
    console: Console,
    offline: bool,
) -> dict[str, Any]:
    built = build_images(opened.lock, plans)
    image = next(iter(built.images.values()))
    if kind == "oci-archive":
        complete = _archive(opened, built, target, with_base=with_base, console=console, offline=offline)
    else:
        complete = write_oci(opened, built, target, with_base=with_base, console=console, offline=offline)
    console.out(f"{kind}:{target}")
    console.out(f"  digest  {built.top.digest}")
    console.out(f"  layer   {image.layer.size:,} bytes, {sum(1 for each in plans[0].result.files)} files changed")
    console.out(f"  tags    {', '.join(built.tags.all)}")
    if opened.lock.base.wheel:
        console.say("note: a wheel base gives the package's files only; the image is this one layer and does not run")
    elif not complete:
        console.say(
            f"note: the base's layers stay at {pinned_reference(opened.lock)}; --with-base puts them into the output"
        )
    document = _document(opened, built, plans, f"{kind}:{target}", complete)
    if load:
        document["docker"] = _load(opened, built, kind, target, console)
    return document


def _document(opened: Opened, built: Built, plans: list[Plan], output: str, complete: bool) -> dict[str, Any]:
    platforms = {}
    for name, image in built.images.items():
        platforms[name] = {
            "digest": image.manifest.digest,
            "config_digest": image.config.digest,
            "layer": {"digest": image.layer.digest, "diff_id": image.layer.digest, "size": image.layer.size},
        }
    first = next(iter(platforms.values()))
    return {
        "name": opened.lock.name,
        "engine": "oci",
        "digest": built.top.digest,
        "config_digest": first["config_digest"],
        "layer": first["layer"],
        "tags": built.tags.all,
        "output": output,
        "complete": complete,
        "inputs": opened.lock.inputs,
        "files": _files(plans),
        "platforms": platforms,
    }


def _archive(opened: Opened, built: Built, target: Path, *, with_base: bool, console: Console, offline: bool) -> bool:
    from builder.oci.archive import write_archive

    if target.exists() and not target.is_file():
        raise InputError(f"{target} is not a file", hint="name a file for the archive")
    platform = Platform.parse(next(iter(built.images)))
    with tempfile.TemporaryDirectory(dir=_existing_parent(target), prefix=".builder-") as folder:
        layout = Layout(Path(folder) / "layout")
        complete = write_oci(opened, built, layout.folder, with_base=with_base, console=console, offline=offline)
        names = [f"{opened.lock.name}:{tag}" for tag in built.tags.all]
        write_archive(target, layout, built.top, names, platform, skip_missing=not complete)
    return complete


def _existing_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _load(opened: Opened, built: Built, kind: str, target: Path, console: Console) -> dict[str, Any]:
    from builder.oci.daemon import load

    if opened.lock.base.wheel:
        raise InputError("an image on a wheel base cannot be loaded into Docker", hint="use a base image")
    if kind != "oci":
        raise InputError("--load goes with --output oci:DIR", hint="or load the archive yourself: docker load -i FILE")
    names = [f"{opened.lock.name}:{tag}" for tag in built.tags.all]
    platform = Platform.parse(next(iter(built.images)))
    found = load(Layout(target), built.top, names, platform, console=console, base=pinned_reference(opened.lock))
    console.out(f"  docker  {names[0]} ({found})")
    return {"id": found, "names": names}


def _docker(opened: Opened, plans: list[Plan], console: Console) -> dict[str, Any]:
    from builder.image.context import render_context
    from builder.oci.daemon import daemon, ensure_base
    from builder.oci.docker_cli import build

    if len(plans) > 1:
        raise InputError("the docker engine builds one platform", hint="use --engine oci for several platforms")
    plan = plans[0]
    ensure_base(opened, plan, console=console)
    tags = image_tags(opened.lock)
    names = [f"{opened.lock.name}:{tag}" for tag in tags.all]
    with tempfile.TemporaryDirectory(prefix="builder-context-") as folder:
        context = Path(folder) / "context"
        render_context(
            context, docker_base(opened), plan.rootfs, labels=image_labels(opened.lock, plan.record), entrypoint=ENTRYPOINT,
            name=opened.lock.name,
        )  # fmt: skip
        found, cli = build(context, names, platform=str(plan.platform), console=console)
    with daemon() as client:
        layers = client.images.get(found).attrs["RootFS"]["Layers"]
    console.out(f"docker:{names[0]}")
    console.out(f"  image id  {found}")
    console.out(f"  tags      {', '.join(tags.all)}")
    return {
        "name": opened.lock.name,
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
        "inputs": opened.lock.inputs,
        "files": _files(plans),
    }
