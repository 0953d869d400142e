"""An image of ours unpacked over the engine's packages, to be run without Docker and without root."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

from tests.support.engine.base import ROOT
from tests.support.engine.server import interpreter


def unpacked(site: Path, layer: Path, folder: Path) -> Path:
    """A root folder with hard links to the packages in `site`, and an image's own `layer` (a tar) over them.

    Its entrypoint is `opt/builder/serve`. A file that the layer changes is replaced, never written through its link.
    """
    packages = folder / ROOT
    shutil.copytree(site, packages, copy_function=os.link)
    with tarfile.open(layer) as archive:
        for member in archive:
            target = folder / member.name
            if target.name.startswith(".wh."):
                gone = target.parent / target.name.removeprefix(".wh.")
                if gone.is_dir():
                    shutil.rmtree(gone)
                else:
                    gone.unlink(missing_ok=True)
            elif member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                # Bytecode of the base that our own start has left in `site`: the layer's times are all the same.
                for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
                    stale.unlink()
                source = archive.extractfile(member)
                assert source is not None
                target.write_bytes(source.read())
                target.chmod(member.mode)
    # The image's own `python3` is Debian's; here it is this machine's.
    entrypoint = folder / "opt/builder/serve"
    return entrypoint if entrypoint.is_file() else folder


def command(entrypoint: Path, *arguments: str) -> list[str]:
    """How the entrypoint of an unpacked image is run: with the record's digest, as the image's ENTRYPOINT has it."""
    record = hashlib.sha256((entrypoint.parent / "record.json").read_bytes()).hexdigest()
    return [interpreter(), "-I", "-S", str(entrypoint), f"--record=sha256:{record}", *arguments]
