"""A process that applies a stack as the commands do: `python -m bench.applying FOLDER RESULT`.

FOLDER has the package's files in `base/` and the diffs, in order of their names, in `diffs/`. The changed files are written
to the one file RESULT, as a command writes them into one layer. It imports what the commands import for a stack, and nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from builder.base.model import BaseFile, Distribution, EntryKind
from builder.patch.diff import parse
from builder.patch.model import Overlay
from builder.patch.stack import apply_stack


class FolderTree:
    """A `PackageTree` of plain files in a folder."""

    root = "usr/local/lib/python3.12/dist-packages"
    python = "3.12"
    distribution = Distribution("vllm", "0.0.1", "vllm-0.0.1.dist-info")

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        found: dict[str, BaseFile] = {}
        for path in paths:
            try:
                with open(f"{self._folder}/{path}", "rb", buffering=0) as file:  # noqa: PTH123
                    data = file.readall()
            except IsADirectoryError:
                found[path] = BaseFile(path, "directory", 0o755)
            except (FileNotFoundError, NotADirectoryError):
                continue
            else:
                found[path] = BaseFile(path, "file", 0o644, data)
        return found

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        try:
            entries = list(os.scandir(self._folder / folder))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {each.name: "directory" if each.is_dir() else "file" for each in entries}

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:  # noqa: ARG002
        return {}


def main(folder: Path, result: Path) -> None:
    overlays = [
        Overlay(each.name, parse(each.read_bytes(), each.name), each.name)
        for each in sorted((folder / "diffs").iterdir())
    ]
    done = apply_stack(overlays, FolderTree(folder / "base"))
    files = [(file.path, file.after) for file in done.files]
    index = json.dumps([(path, None if data is None else len(data)) for path, data in files]).encode()
    result.write_bytes(b"".join([index, b"\n", *(data for _, data in files if data)]))


def contents(result: Path) -> dict[str, bytes | None]:
    """What `main` has written: path -> content, None for a file that is removed."""
    index, _, data = result.read_bytes().partition(b"\n")
    found: dict[str, bytes | None] = {}
    at = 0
    for path, size in json.loads(index):
        found[path] = None if size is None else data[at : at + size]
        at += size or 0
    return found


if __name__ == "__main__":
    # As the command line has it, from its begin to its end.
    gc.set_threshold(200_000, 10, 10)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    gc.freeze()
