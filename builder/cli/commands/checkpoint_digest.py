"""`builder checkpoint digest`."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError


@click.command(name="digest")
@click.argument("checkpoint", metavar="DIR|hf:OWNER/NAME[@REVISION]")
@click.option("--no-cache", is_flag=True, help="Read every byte again, whatever was hashed before.")
@common_options
def command(checkpoint: str, no_cache: bool, console: Console) -> None:
    """Print the digest of a local checkpoint, or of one on the Hub from its metadata."""
    from builder.checkpoint.digest import digest_directory

    revision = None
    if checkpoint.startswith("hf:"):
        from builder.checkpoint.hub import digest_hub

        repo, _, wanted = checkpoint.removeprefix("hf:").partition("@")
        found = digest_hub(repo, wanted or None, context=Context(console))
        digest, files, revision = found.digest, found.files, found.revision
        console.say(f"{repo} at {revision}")
    else:
        folder = Path(checkpoint)
        if not folder.is_dir():
            raise InputError(f"there is no folder {checkpoint}", hint="name a folder, or hf:OWNER/NAME@REVISION")
        local = digest_directory(folder, context=Context(console), cache=not no_cache)
        digest, files = local.digest, local.files
    for path, sha256, size in files:
        console.detail(f"{sha256}  {path} ({size:,} bytes)")
    console.out(digest)
    console.document(
        {
            "checkpoint": checkpoint,
            "digest": digest,
            **({"revision": revision} if revision else {}),
            "files": [{"path": path, "sha256": sha256, "size": size} for path, sha256, size in files],
        }
    )
