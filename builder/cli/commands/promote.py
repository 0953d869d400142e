"""`builder promote`: move a tag to an image that meets a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options, key_options, signer_options
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError

if TYPE_CHECKING:
    from builder.documents.policy import LoadedPolicy
    from builder.release.attest.trust import Trust


@click.command(name="promote")
@click.argument("reference", metavar="REGISTRY/REPOSITORY[:TAG|@DIGEST]")
@click.option("--to", "tag", required=True, metavar="TAG", help="The tag to move, in the same repository.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What must be shown, such as gates/production.yaml.",
)
@click.option("--require", "names", metavar="NAMES", help="Suites in gates/ instead of a policy, with commas.")
@click.option("--allow-unsigned", is_flag=True, help="With --require: verdicts without a signature count.")
@click.option("--dry-run", is_flag=True, help="Judge only: write nothing, move nothing.")
@click.option("--record", is_flag=True, help="Attach a FAILED summary when the image does not meet the policy.")
@signer_options
@key_options
@common_options
def command(
    reference: str,
    tag: str,
    policy: Path | None,
    names: str | None,
    allow_unsigned: bool,
    dry_run: bool,
    record: bool,
    signers: tuple[str, ...],
    trust_config: Path | None,
    key: Path | None,
    keyless: bool,
    console: Console,
) -> None:
    """Move a tag to an image, when each verdict that the policy asks for is attached to exactly this digest.

    Each must be signed as the policy wants, have passed, not be expired, and be of the suite as it is today. Then a SLSA
    verification summary is attached, signed with --key or --keyless, and the tag is set and read back. Exit code 6: not met,
    with the reason for each requirement. Exit code 4: somebody else moved the tag.
    """
    from builder.release.attest.signing import signing_of
    from builder.release.promote.run import Order, check_order, promote

    if dry_run and record:
        raise InputError("--dry-run and --record exclude each other")
    context = Context(console)
    loaded, known = _policy(policy, names, signers, trust_config, allow_unsigned=allow_unsigned)
    order = Order(reference, tag, loaded, known)
    check_order(order)
    signing = signing_of(key, keyless=keyless, config=trust_config, context=context) if not dry_run else None
    done = promote(order, signing=signing, dry_run=dry_run, record=record, context=context)
    console.out(done.image)
    for each in done.findings:
        for line in each.lines():
            console.out(f"  {each.suite}  {line}")
    if dry_run:
        console.out(f"  {tag} would name this image; it names {done.previous or 'nothing'}")
    else:
        console.out(f"  {tag} names this image{'' if done.moved else ' already'}; before: {done.previous or 'nothing'}")
        console.out(f"  summary {done.summary}, {'signed by ' if signing else ''}{done.signed_by}")
    console.document({**done.document(), "dry_run": dry_run})


def _policy(
    path: Path | None,
    names: str | None,
    signers: tuple[str, ...],
    config: Path | None,
    *,
    allow_unsigned: bool,
) -> tuple[LoadedPolicy, Trust]:
    """What must be shown, and whose signatures count."""
    from builder.documents.policy import load_policy
    from builder.release.attest.trust import trust
    from builder.release.promote.run import policy_of_names

    if (path is None) == (names is None):
        raise InputError("name either --policy FILE or --require NAMES", hint="--policy gates/production.yaml")
    if path is not None and (signers or allow_unsigned):
        raise InputError("--signer and --allow-unsigned go with --require", hint="the policy says who may sign")
    if path is not None:
        loaded = load_policy(path)
    else:
        loaded = policy_of_names(names or "", signers, Path(), allow_unsigned=allow_unsigned)
    return loaded, trust([each.option for each in loaded.policy.signers], config=config, root=loaded.root)
