"""`builder verify`: is an image what its record and its lock say?"""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli import common_options
from builder.console import Console
from builder.errors import InputError, MismatchError


@click.command(name="verify")
@click.argument("reference", metavar="oci:DIR[:NAME]")
@click.option("--recipe", help="Compare the record with this recipe's lock too.")
@click.option("--rebuild", is_flag=True, help="Build the recipe again, in memory, and compare digests.")
@click.option("--offline", is_flag=True, help="Use the vendored diffs and the cache only.")
@common_options
def command(reference: str, recipe: str | None, rebuild: bool, offline: bool, console: Console) -> None:
    """Compare an image with its own record, and the record with the lock of --recipe."""
    from builder.build import build_images
    from builder.opened import open_recipe
    from builder.store.layout import Layout
    from builder.verify import Problem, verify_layout

    if rebuild and recipe is None:
        raise InputError("--rebuild needs --recipe", hint="name the recipe that the image was built from")
    if not reference.startswith("oci:"):
        raise InputError(f"cannot verify {reference!r}", hint="name an OCI layout: oci:DIR or oci:DIR:TAG")
    folder, name = _split(reference.removeprefix("oci:"))
    layout = Layout(folder)
    top = layout.resolve(name)
    opened = open_recipe(recipe, console=console, offline=offline) if recipe else None
    problems, summary = verify_layout(layout, top, opened.lock if opened else None)
    if rebuild and opened is not None:
        built = build_images(opened.lock, opened.plans(console=console, offline=offline))
        if built.top.digest != top.digest:
            problems.append(Problem("digest of a rebuild", built.top.digest, top.digest))
    document = {
        "reference": reference,
        "digest": top.digest,
        "ok": not problems,
        "platforms": summary,
        "problems": [{"where": each.where, "wanted": each.wanted, "found": each.found} for each in problems],
    }
    if problems:
        raise MismatchError(
            f"{reference} is not what its record{' or its lock' if opened else ''} says",
            details=[(each.where, f"wanted {each.wanted}\nfound  {each.found}") for each in problems],
            hint="build it again, and find out who changed it",
            data=document,
        )
    for each in summary:
        console.out(f"{reference} ({each['platform']}): {each['files']} files are as recorded")
    if opened is not None:
        console.out("the record is the lock's")
    if rebuild:
        console.out("a rebuild has the same digest")
    console.out(f"  digest  {top.digest}")
    console.document(document)


def _split(rest: str) -> tuple[Path, str | None]:
    """`DIR` or `DIR:NAME`; a folder whose name has a colon is taken as it is when it is there."""
    if Path(rest).is_dir():
        return Path(rest), None
    folder, colon, name = rest.rpartition(":")
    if colon and Path(folder).is_dir():
        return Path(folder), name
    raise InputError(f"there is no folder {rest}", hint="name an OCI layout: oci:DIR or oci:DIR:TAG")
