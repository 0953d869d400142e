"""What the commands below `builder deploy` share: options, services, and how their files are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.console import Console
from builder.util.errors import InputError
from builder.util.files import write_file

if TYPE_CHECKING:
    from builder.documents.lock import Lock
    from builder.serve.deploy.service import Service

IMAGE = click.option(
    "--image", required=True, metavar="REF@DIGEST", help="The published image, as `builder publish` prints it."
)
OUTPUT = click.option(
    "--output", required=True, metavar="DIR|-", help="A folder for the files, or - for standard output."
)
FORCE = click.option("--force", is_flag=True, help="Replace files of the same names.")
SECONDS = click.option(
    "--startup-seconds", type=click.IntRange(30, 86400), help="How long a start may take. Default: by the checkpoint's size."
)  # fmt: skip


def services_of(lock: Lock, profiles: Sequence[str], image: str, seconds: int | None) -> list[Service]:
    from builder.serve.deploy.service import make_service

    chosen = list(dict.fromkeys(profiles)) or ([lock.default_profile] if lock.default_profile else [])
    if not chosen:
        raise InputError("which profile?", hint=f"{lock.name} has no default: name one")
    return [make_service(lock, name, image, seconds=seconds) for name in chosen]


def write(documents: Mapping[str, dict[str, Any] | str], output: str, force: bool, console: Console) -> None:
    """Write one file per document, or all of them as one stream. Nothing is written when a file is in the way.

    A document that is a text is written as it is.
    """
    import yaml

    texts = {
        name: document
        if isinstance(document, str)
        else str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
        for name, document in documents.items()
    }
    if output == "-":
        console.data("---\n".join(texts.values()).rstrip("\n"))
        console.document({"documents": documents})
        return
    folder = Path(output)
    taken = [str(folder / name) for name in texts if (folder / name).exists()]
    if taken and not force:
        raise InputError(
            "files are in the way", details=[("file", path) for path in taken], hint="--force replaces them"
        )
    for name, text in texts.items():
        write_file(folder / name, text.encode())
        console.out(f"wrote {folder / name}")
    console.document({"files": [str(folder / name) for name in texts], "documents": documents})
