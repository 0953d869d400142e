"""`builder attest`: a statement about an image, attached to it, signed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from builder.cli.app import common_options, signing_options
from builder.cli.console import Console
from builder.util.context import Context

_LIMIT = 64 << 20


@click.command(name="attest")
@click.argument("document", type=click.Path(path_type=Path), metavar="DOC")
@click.option(
    "--image", required=True, metavar="REGISTRY/REPOSITORY[:TAG|@DIGEST]", help="The image that DOC is about."
)
@signing_options
@common_options
def command(
    document: Path, image: str, key: Path | None, keyless: bool, trust_config: Path | None, console: Console
) -> None:
    """Attach DOC to an image: a verdict, a provenance or another in-toto statement, or a CycloneDX SBOM.

    DOC must name the digest that --image resolves to. With --key or --keyless it is stored in a signed envelope (DSSE in a
    Sigstore bundle), as cosign stores one; without, it is stored as it is, and is called "unsigned" everywhere.
    """
    from builder.documents.reference import Reference
    from builder.release.attest.signing import signing_of
    from builder.release.attest.store import attest, check_document
    from builder.util.files import read_regular, unreadable

    try:
        data = read_regular(document, limit=_LIMIT)
    except OSError as error:
        raise unreadable(document, error) from error
    # What this machine can judge is judged before an identity or a registry is asked.
    Reference.parse(image)
    check_document(data, document.name)
    context = Context(console)
    signing = signing_of(key, keyless=keyless, config=trust_config, context=context)
    done = attest(data, document.name, image, signing=signing, context=context)
    console.out(done.image)
    console.out(f"  {'has' if done.present else 'new'}     {done.referrer}")
    console.out(f"  what    {done.predicate_type}")
    console.out(f"  signed  {done.signed_by}")
    console.document(_document(done))


def _document(done: Any) -> dict[str, Any]:
    return {
        "image": done.image,
        "referrer": done.referrer,
        "predicate_type": done.predicate_type,
        "signed_by": done.signed_by,
        "present": done.present,
    }
