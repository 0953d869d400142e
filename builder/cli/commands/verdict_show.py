"""`builder verdict show`: a verdict in a file, or the verdicts of a published image."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from builder.cli.app import common_options, signer_options
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="show")
@click.argument("verdict", metavar="REF|FILE")
@click.option("--html", type=click.Path(path_type=Path), help="Write the page of a FILE here, with the rows beside it.")
@click.option("--redact", is_flag=True, help="Leave private rows out of the page: ids and hashes only.")
@signer_options
@common_options
def command(
    verdict: str, html: Path | None, redact: bool, signers: tuple[str, ...], trust_config: Path | None, console: Console
) -> None:
    """Show a verdict: each requirement, what it is about, who signed it, its age and when it expires.

    REF is a published image, or an OCI layout (oci:DIR): every verdict that is attached to it is shown, the newest first.
    A signature is checked when its signer is named with --signer.
    """
    from builder.cli.show.verdict import show_verdict, summary
    from builder.gate.open import attached, in_file, rows_beside
    from builder.gate.page import page
    from builder.release.attest.trust import trust
    from builder.util.files import write_file

    path = Path(verdict)
    if not path.is_file() and (verdict.endswith(".json") or path.is_dir()):
        raise InputError(
            f"there is no file {verdict}", hint="name the file of a verdict, a published image, or a layout: oci:DIR"
        )
    if html is not None and not path.is_file():
        raise InputError("--html belongs to a FILE", hint="the rows that the page shows are beside the file")
    whose = trust(signers, config=trust_config)
    found = [in_file(path, whose)] if path.is_file() else attached(verdict, whose, context=Context(console))
    if not found:
        raise InputError(
            f"no verdict is attached to {verdict}", hint="a gate makes one: builder gate RECIPE PROFILE --suite NAME"
        )
    if html is not None:
        write_file(
            html,
            page(
                found[0].verdict, rows_beside(path, found[0].verdict), redact=redact, signed=str(found[0].signed)
            ).encode(),
        )
        console.say(f"written: {html}")
    now = datetime.now(UTC)
    for each in found:
        console.out(each.where)
        show_verdict(each.verdict, str(each.signed), now, console)
    console.document(
        {
            "verdicts": [
                {
                    **summary(each.verdict), "where": each.where, "signed": each.signed.document(), "expired": each.verdict.expired(now),
                    "age_days": (now - each.verdict.ended).days,
                }
                for each in found
            ]
        }
    )  # fmt: skip
