"""The checkpoint digest of a local folder.

Over the files that a server loads, the lines `SHA256  RELATIVE/PATH`, sorted by path as bytes, are hashed with SHA-256.
Left out: `*.md`, `LICENSE*`, `.git*`, and everything hidden, caches included. docs/checkpoint.md has the shell equivalent.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from builder.console import Console, Progress
from builder.errors import InputError

_LEFT_OUT = ("*.md", "LICENSE*")
_PIECE = 4 << 20
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class CheckpointDigest:
    """A digest, and the files behind it as (path, SHA-256, size in bytes), sorted by path as bytes."""

    digest: str
    files: tuple[tuple[str, str, int], ...]


def is_served(path: str) -> bool:
    """Whether a file (path relative to the checkpoint, `/` between parts) counts."""
    parts = path.split("/")
    if any(part.startswith(".") or part == "__pycache__" for part in parts):
        return False
    return not any(fnmatch.fnmatchcase(parts[-1], pattern) for pattern in _LEFT_OUT)


def combine(files: Iterable[tuple[str, str, int]]) -> CheckpointDigest:
    """The digest of files that are hashed already: (path, SHA-256, size)."""
    ordered = tuple(sorted(files, key=lambda file: file[0].encode()))
    lines = "".join(f"{digest}  {path}\n" for path, digest, _ in ordered)
    return CheckpointDigest(hashlib.sha256(lines.encode()).hexdigest(), ordered)


def digest_directory(folder: Path, *, console: Console) -> CheckpointDigest:
    """Hash the files of a checkpoint, several at once (hashlib lets go of the interpreter's lock).

    Raises `InputError` when there is none, for a git-LFS pointer, and when a file changes while it is read.
    """
    paths = sorted(_served_files(folder))
    if not paths:
        raise InputError(f"{folder} holds no checkpoint", hint="name the folder that has config.json and the shards")
    # A link that leads nowhere has its own error when it is opened.
    total = sum((folder / path).stat().st_size for path in paths if (folder / path).exists())
    with console.progress("hashing the checkpoint", total=total) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(lambda path: _hash(folder, path, bar), paths))
    return combine(files)


def _served_files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = (Path(parent) / name).relative_to(folder).as_posix()
            if "\n" in path:
                raise InputError(
                    f"a file's name has a line break: {path!r}", hint="no checkpoint needs that: rename it"
                )
            if is_served(path):
                yield path


def _hash(folder: Path, path: str, bar: Progress) -> tuple[str, str, int]:
    digest = hashlib.sha256()
    try:
        with (folder / path).open("rb") as stream:
            before = os.fstat(stream.fileno())
            while piece := stream.read(_PIECE):
                if before.st_size < 200 and piece.startswith(_LFS_POINTER):
                    raise InputError(f"{path} is a git-LFS pointer, not the file", hint="fetch the files: git lfs pull")
                digest.update(piece)
                bar.advance(len(piece))
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", hint="a checkpoint's files must all be readable"
        ) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(
            f"{path} changed while it was read", hint="wait until the checkpoint is written, then try again"
        )
    return path, digest.hexdigest(), after.st_size
