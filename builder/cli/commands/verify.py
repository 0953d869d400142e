"""`builder verify`: is an image what its record, its lock and its evidence say?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options, offline_option
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError

if TYPE_CHECKING:
    from builder.pipeline.workspace import Workspace
    from builder.release.verify.problem import Problem
    from builder.release.verify.reader import Reader


@click.command(name="verify")
@click.argument("reference", metavar="oci:DIR[:NAME]|REGISTRY/REPOSITORY[:TAG|@DIGEST]")
@click.option("--recipe", help="Compare the record with this recipe's lock too.")
@click.option("--rebuild", is_flag=True, help="Build the recipe again, in memory, and compare digests.")
@click.option("--against", metavar="OTHER", help="Show in what another image differs from this one.")
@click.option("--no-evidence", is_flag=True, help="Do not look for SBOM, provenance and lock beside the image.")
@offline_option
@common_options
def command(
    reference: str,
    recipe: str | None,
    rebuild: bool,
    against: str | None,
    no_evidence: bool,
    context: Context,
    console: Console,
) -> None:
    """Compare an image with its own record, the record with its lock, and its evidence with both.

    The lock is that of --recipe, else the one that travels with the image in a registry. With --offline, images are
    OCI layouts.
    """
    from builder.documents.lock import overlay_lines
    from builder.pipeline.locking.overlays import read_overlay
    from builder.pipeline.workspace import open_workspace
    from builder.release.verify.compare import base_differences
    from builder.release.verify.image import verify

    if rebuild and recipe is None:
        raise InputError("--rebuild needs --recipe", hint="name the recipe that the image was built from")
    reader, other = _open(reference, context=context), _open(against, context=context) if against is not None else None
    workspace = open_workspace(recipe, context=context) if recipe else None
    if workspace is not None:
        for overlay in workspace.lock.overlays:
            read_overlay(workspace.project, overlay)
    done = verify(reader, workspace.lock if workspace else None, evidence=not no_evidence)
    problems = list(done.problems)
    if workspace is not None:
        problems += base_differences(reader, workspace)
    if rebuild and workspace is not None:
        problems += _rebuilt(reader, workspace)
    if against is not None and other is not None:
        problems += _compared(reader, other, against)
    document = {
        "reference": reference,
        "digest": reader.top.digest,
        "ok": not problems,
        "platforms": list(done.platforms),
        "evidence": done.evidence,
        "overlays": list(done.overlays),
        "problems": [{"where": each.where, "wanted": each.wanted, "found": each.found} for each in problems],
    }
    if problems:
        raise MismatchError(
            f"{reference} is not what it should be: {len(problems)} difference{'s' if len(problems) > 1 else ''}",
            details=[
                *([("lock", workspace.project.show(workspace.project.lock_path))] if workspace is not None else []),
                *(("differs", f"{each.where}\nwanted {each.wanted}\nfound  {each.found}") for each in problems),
            ],
            hint="build it again, and find out who changed it",
            data=document,
        )
    for each in done.platforms:
        console.out(f"{reference} ({each['platform']}): {each['files']} files are as recorded")
    for line in overlay_lines(done.overlays):
        console.out(f"  overlay {line}")
    if workspace is not None:
        console.out("the record is the lock's")
    if done.evidence:
        console.out(f"{done.evidence} pieces of evidence are about this image and say what the lock says")
    if rebuild:
        console.out("a rebuild has the same digest")
    if against is not None:
        console.out(f"{against} is the same image")
    console.out(f"  digest  {reader.top.digest}")
    console.document(document)


def _open(text: str, *, context: Context) -> Reader:
    from builder.release.verify.reader import open_reader

    # Of the others, `open_reader` says that they cannot be verified.
    if context.offline and not text.startswith(("oci:", "oci-archive:", "docker:", "wheel:")):
        raise InputError(f"--offline: {text} is in a registry", hint="name an OCI layout: oci:DIR or oci:DIR:TAG")
    return open_reader(text)


def _rebuilt(reader: Reader, workspace: Workspace) -> list[Problem]:
    """Build again in memory: nothing when the digest is the same, else what differs."""
    import json

    from builder.pipeline.build import build_images
    from builder.release.verify.compare import Parts, differences, read_parts
    from builder.release.verify.problem import Problem

    built = build_images(workspace.lock, workspace.plans())
    if built.top.digest == reader.top.digest:
        return []
    again = {
        f"{image.platform.os}/{image.platform.architecture}": Parts(
            json.loads(image.manifest_bytes), json.loads(image.config_bytes), image.layer.data
        )
        for image in built.images.values()
    }
    return [
        Problem("digest of a rebuild", built.top.digest, reader.top.digest),
        *differences(again, read_parts(reader)),
    ]


def _compared(reader: Reader, other: Reader, name: str) -> list[Problem]:
    from builder.release.verify.compare import differences, read_parts
    from builder.release.verify.problem import Problem

    if other.top.digest == reader.top.digest:
        return []
    return [
        Problem(f"digest of {name}", reader.top.digest, other.top.digest),
        *differences(read_parts(reader), read_parts(other)),
    ]
