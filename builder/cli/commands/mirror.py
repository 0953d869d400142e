"""`builder mirror`: keep a copy of the locked base."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="mirror")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--to", required=True, metavar="REGISTRY/REPOSITORY", help="The repository that will have the copy.")
@common_options
def command(recipe: str, to: str, console: Console) -> None:
    """Copy the base that RECIPE's lock pins to another repository, by digest, and name it in the lock.

    `build`, `publish` and `verify` read from it when the base's own registry does not have the image any more. Interrupted,
    it goes on where it was; run again, it sends only what is missing.
    """
    from builder.pipeline.workspace import open_workspace
    from builder.release.mirror import mirror, write_mirror
    from builder.release.publish import target_of

    target = target_of(to)
    workspace = open_workspace(recipe, context=Context(console))
    done = mirror(workspace, target)
    changed = write_mirror(workspace, done.repository)
    console.out(f"{done.repository}:{done.tag}")
    for digest in done.digests:
        console.out(f"  has    {digest}")
    console.out(f"  sent   {done.blobs} blobs, {done.sent:,} bytes; {done.present} were there already")
    if not done.whole:
        console.say(
            "note: the index was not copied, as the registry lacks its other platforms; the locked ones are enough"
        )
    lock = workspace.project.show(workspace.project.lock_path)
    console.out(f"{lock} names the mirror: commit it" if changed else f"{lock} names the mirror already")
    console.document(
        {
            "name": workspace.lock.name,
            "repository": done.repository,
            "tag": done.tag,
            "digests": list(done.digests),
            "index": done.whole,
            "blobs": done.blobs,
            "bytes": done.sent,
            "present": done.present,
            "lock_changed": changed,
        }
    )
