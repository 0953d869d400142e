"""`builder verify`: is an image what its lock says, to the byte?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, offline_option, signer_options
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError

if TYPE_CHECKING:
    from builder.pipeline.workspace import Workspace
    from builder.release.attest.trust import Trust
    from builder.release.verify.image import Request, Verified
    from builder.release.verify.problem import Problem
    from builder.release.verify.reader import Reader


_KINDS = ("oci:", "oci-archive:", "docker:", "wheel:")


class NotVerifiedError(UnreachableError):
    """What is needed to derive the image again could not be reached. Nothing that differs was found, and nothing is proven."""


@click.command(name="verify")
@click.argument("reference", metavar="DIR|oci:DIR[:NAME]|REGISTRY/REPOSITORY[:TAG|@DIGEST]")
@click.option(
    "--recipe", shell_complete=recipe_names, help="Derive the image from this recipe's lock and diffs: pins the author."
)
@click.option(
    "--lock", "pin", metavar="DIGEST", help="The lock that travels along must have this digest: pins the author."
)
@click.option("--quick", is_flag=True, help="Compare without the base: our own part of the image only.")
@click.option("--rebuild", is_flag=True, help="The same as without it: every verification derives the image again.")
@click.option("--against", metavar="OTHER", help="Show in what another image differs from this one.")
@click.option("--no-evidence", is_flag=True, help="Do not compare what is attached to the image, but for its lock.")
@signer_options
@offline_option
@common_options
def command(
    reference: str,
    recipe: str | None,
    pin: str | None,
    quick: bool,
    rebuild: bool,
    against: str | None,
    no_evidence: bool,
    signers: tuple[str, ...],
    trust_config: Path | None,
    context: Context,
    console: Console,
) -> None:
    """Derive an image again from its lock, and compare every byte.

    The lock is that of --recipe, else the one that travels with the image: that proves that the image is what this lock
    says, not who made it; with --signer, provenance and SBOM must be signed by that signer. Exit code 4: something differs. Exit code 5: not verified, since the base cannot be reached.
    """
    from builder.release.attest.trust import trust
    from builder.release.verify.image import choose_lock, verify

    if quick and rebuild:
        raise InputError("--quick and --rebuild exclude each other")
    if pin is not None:
        pin = _digest(pin)
    if signers and no_evidence:
        raise InputError("--signer and --no-evidence exclude each other")
    workspace, request = _request(recipe, pin, quick=quick, evidence=not no_evidence, context=context)
    request = replace(request, pinned=bool(signers))
    known = trust(signers, config=trust_config, offline=context.offline)
    reader = _open(reference, known, context=context)
    if signers and not reader.complete:
        raise InputError(
            "--signer is for images in a registry", hint="a layout holds lock and sources: take --lock DIGEST"
        )
    other = _open(against, known, context=context) if against is not None else None
    named = choose_lock(reader, request)
    about = _about(named.digest, workspace, pin, signers, quick=quick)
    console.out(about)
    done = verify(reader, named, request, context=context)
    problems = list(done.problems)
    if against is not None and other is not None:
        problems += _compared(reader, other, against)
    document = _document(reference, reader, done, problems, about, quick=quick)
    if problems:
        raise _differs(reference, problems, document, workspace, done)
    if done.not_verified is not None:
        error = done.not_verified
        raise NotVerifiedError(
            f"{reference} is not verified: its base cannot be reached",
            details=[
                ("why", error.message),
                *error.details,
                ("compared", "our own part of the image, without the base"),
            ],
            hint=error.hint or "run it where the base can be reached, or take --quick for what was compared",
            data={**document, "ok": False, "verified": False},
        )
    _say(reference, done, console, quick=quick)
    if against is not None:
        console.out(f"{against} is the same image")
    console.out(f"  digest  {reader.top.digest}")
    console.document(document)


def _digest(text: str) -> str:
    from builder.documents.reference import is_digest

    found = text if text.startswith("sha256:") else f"sha256:{text}"
    if not is_digest(found):
        raise InputError(f"--lock {text!r} is not a digest", hint="it is what sha256sum prints for the lock's file")
    return found


def _request(
    recipe: str | None, pin: str | None, *, quick: bool, evidence: bool, context: Context
) -> tuple[Workspace | None, Request]:
    from builder.pipeline.locking.overlays import read_overlay
    from builder.pipeline.workspace import open_workspace
    from builder.release.verify.image import Request

    if recipe is None:
        return None, Request(pin=pin, quick=quick, evidence=evidence)
    workspace = open_workspace(recipe, context=context, make=False)
    overlays = [read_overlay(workspace.project, overlay) for overlay in workspace.lock.overlays]
    request = Request(
        workspace.lock, overlays, pin, root=workspace.project.root, quick=quick, evidence=evidence,
    )  # fmt: skip
    return workspace, request


def _about(digest: str, workspace: Workspace | None, pin: str | None, signers: tuple[str, ...], *, quick: bool) -> str:
    """The first line: what was compared with what, and what that does not prove."""
    if workspace is not None:
        lock = f"{workspace.project.show(workspace.project.lock_path)} ({digest})"
    else:
        lock = f"the lock {digest}"
    if quick:
        return f"quick: compared with {lock}, without the base: its layers, files and settings are taken as they are"
    if workspace is None and pin is None and not signers:
        return f"compared with {lock}, which travels with the image: it tells what the image is, not who made it"
    return f"derived again from {lock}"


def _document(
    reference: str, reader: Reader, done: Verified, problems: list[Problem], about: str, *, quick: bool
) -> dict[str, Any]:
    return {
        "reference": reference,
        "digest": reader.top.digest,
        "ok": not problems,
        "verified": not problems and not quick,
        "about": about,
        "lock": done.lock.digest,
        "trust_ranges": done.lock.lock.base.trust_ranges,
        "platforms": list(done.platforms),
        "evidence": done.evidence,
        "verdicts": dict(done.verdicts),
        "signed": [{"kind": kind, "signed": str(signed), **signed.document()} for kind, signed in done.signed],
        "overlays": list(done.overlays),
        "problems": [{"where": each.where, "wanted": each.wanted, "found": each.found} for each in problems],
    }


def _differs(
    reference: str, problems: list[Problem], document: dict[str, Any], workspace: Workspace | None, done: Verified
) -> MismatchError:
    from builder.pipeline.locking.make import ENTRYPOINT_SOURCE
    from builder.util.files import file_sha256

    hint = "build it again, and find out who changed it"
    if file_sha256(ENTRYPOINT_SOURCE) != done.lock.lock.entrypoint:
        hint = "the lock was made with another version of builder: verify with that version, or find out who changed it"
    return MismatchError(
        f"{reference} is not what it should be: {len(problems)} difference{'s' if len(problems) > 1 else ''}",
        details=[
            *([("lock", workspace.project.show(workspace.project.lock_path))] if workspace is not None else []),
            *(("differs", f"{each.where}\nwanted {each.wanted}\nfound  {each.found}") for each in problems),
        ],
        hint=hint,
        data=document,
    )


def _say(reference: str, done: Verified, console: Console, *, quick: bool) -> None:
    from builder.documents.lock import overlay_lines

    what = "our own part is" if quick else "every byte is"
    for each in done.platforms:
        console.out(f"{reference} ({each['platform']}): {what} as derived, {each['files']} patched files among it")
    for line in overlay_lines(done.overlays):
        console.out(f"  overlay {line}")
    if done.lock.lock.base.trust_ranges:
        console.out("the lock trusts ranges: its wheel was not checked as a whole against the index's digest")
    if done.evidence:
        console.out(f"{done.evidence} documents are about this image and say what the lock says")
    for (kind, signed), number in Counter((kind, str(signed)) for kind, signed in done.signed).items():
        console.out(f"  {kind}{f' ({number})' if number > 1 else ''}: {signed}")
    if any(done.verdicts.values()):
        counted = ", ".join(f"{number} {outcome}" for outcome, number in done.verdicts.items())
        console.out(f"verdicts: {counted}")


def _open(text: str, known: Trust, *, context: Context) -> Reader:
    from builder.release.verify.reader import no_layout, open_reader

    if not text.startswith(_KINDS) and (Path(text) / "index.json").is_file():
        text = f"oci:{text}"
    if Path(text).is_file() or (text.startswith(("/", "./", "../", "~")) and not Path(text).is_dir()):
        raise no_layout(text)
    # Of the others, `open_reader` says that they cannot be verified.
    if context.offline and not text.startswith(_KINDS):
        raise InputError(f"--offline: {text} is in a registry", hint="name an OCI layout: oci:DIR or oci:DIR:TAG")
    return open_reader(text, context=context, trust=known)


def _compared(reader: Reader, other: Reader, name: str) -> list[Problem]:
    from builder.release.verify.compare import differences, read_parts
    from builder.release.verify.problem import Problem

    if other.top.digest == reader.top.digest:
        return []
    return [
        Problem(f"digest of {name}", reader.top.digest, other.top.digest),
        *differences(read_parts(reader), read_parts(other)),
    ]
