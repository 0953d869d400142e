"""The checkpoint digest of a local folder.

Over the files that a server loads, the lines `SHA256  RELATIVE/PATH`, sorted by path as bytes, are hashed with SHA-256.
Left out: `*.md`, `LICENSE*`, `.git*`, and everything hidden, caches included. Links are followed, to files and to folders:
a server opens by path and does not see them. docs/checkpoint.md has the shell equivalent.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Event

from builder.checkpoint.hashcache import HashCache
from builder.checkpoint.regular import open_regular
from builder.util.context import Context, Progress
from builder.util.errors import InputError

_LEFT_OUT = ("*.md", "LICENSE*")
_CHUNK = 1 << 20
_LFS_POINTER = b"version https://git-lfs"
_LFS_POINTER_SIZE = 200


@dataclass(frozen=True)
class CheckpointDigest:
    """A digest, and the files behind it as (path, SHA-256, size in bytes), sorted by path as bytes."""

    digest: str
    files: tuple[tuple[str, str, int], ...]


class ChangedError(InputError):
    """A file of the source changed while it was read."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} changed while it was read", hint="wait until the checkpoint is written, then try again"
        )


def is_served(path: str) -> bool:
    """Whether a file (path relative to the checkpoint, `/` between parts) counts."""
    parts = path.split("/")
    if any(part.startswith(".") or part == "__pycache__" for part in parts):
        return False
    return not any(fnmatch.fnmatchcase(parts[-1], pattern) for pattern in _LEFT_OUT)


def combine(files: Iterable[tuple[str, str, int]]) -> CheckpointDigest:
    """The digest of files that are hashed already: (path, SHA-256, size). Raises `InputError` for a name as `check_name`."""
    ordered = tuple(sorted(files, key=lambda file: check_name(file[0]).encode()))
    lines = "".join(_line(path, digest) for path, digest, _ in ordered)
    return CheckpointDigest(hashlib.sha256(lines.encode()).hexdigest(), ordered)


def _line(path: str, digest: str) -> str:
    """As sha256sum writes it: a name with a backslash or a line break is escaped, and its line begins with a backslash."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n")
    return f"{'' if escaped == path else chr(92)}{digest}  {escaped}\n"


def check_name(path: str) -> str:
    """The path itself. Raises `InputError` for one whose line would not be the same everywhere: names that are not UTF-8,
    carriage returns (sha256sum escapes them since coreutils 9), and `-` (it reads its standard input)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "\r" not in path and path != "-":
            return path
    raise InputError(f"a file's name is {path!r}", hint="no checkpoint needs that name: rename the file")


def digest_directory(folder: Path, *, context: Context, cache: bool = True) -> CheckpointDigest:
    """Hash the files of a checkpoint, several at once (hashlib lets go of the interpreter's lock).

    `cache` allows hashes that were read before (`builder.checkpoint.hashcache`).
    Raises `InputError` when there is none, for a git-LFS pointer, and when a file changes while it is read.
    """
    paths = served_files(folder)
    if not paths:
        raise InputError(f"{folder} holds no checkpoint", hint="name the folder that has config.json and the shards")
    return combine(hash_files(folder, paths, context=context, cache=HashCache(enabled=cache)))


def hash_files(folder: Path, paths: Iterable[str], *, context: Context, cache: HashCache) -> list[tuple[str, str, int]]:
    """(path, SHA-256, size) of files below `folder`, the largest first so that all threads end together."""
    sizes = {path: _size(folder / path) for path in paths}
    ordered = sorted(sizes, key=lambda path: (-sizes[path], path))
    stop = Event()
    with context.console.progress("hashing the checkpoint", total=sum(sizes.values())) as bar:
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            return list(pool.map(lambda path: hash_file(folder, path, bar=bar, cache=cache, stop=stop), ordered))
        finally:
            # After an error or Ctrl-C the other threads stop at their next chunk.
            stop.set()
            pool.shutdown(cancel_futures=True)


def served_files(folder: Path) -> list[str]:
    """The paths, relative to `folder`, of the files that count.

    A broken link is among them: opening it fails. A link to a folder that it lies in adds nothing.
    Raises `InputError` for a folder that cannot be listed, and for pipes, sockets and devices.
    """
    try:
        return sorted(_walk(folder))
    except OSError as error:
        raise InputError(
            f"cannot list {error.filename}: {error.strerror}", hint="a checkpoint's folders must all be readable"
        ) from error


def _size(path: Path) -> int:
    # A link that leads nowhere has its own error when it is opened.
    return path.stat().st_size if path.exists() else 0


def _walk(folder: Path) -> Iterator[str]:
    """Like `find -L`; depth is limited by the system's paths, not by Python's stack."""
    top = folder.stat()
    waiting = [("", frozenset({(top.st_dev, top.st_ino)}))]
    while waiting:
        prefix, above = waiting.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.name.startswith(".") or entry.name == "__pycache__":
                    continue
                if entry.is_dir():
                    stat = entry.stat()
                    place = (stat.st_dev, stat.st_ino)
                    if place not in above:
                        waiting.append((f"{path}/", above | {place}))
                elif is_served(path):
                    if Path(entry.path).exists() and not entry.is_file():
                        raise InputError(
                            f"{path} is not a regular file", hint="a checkpoint has no pipes, sockets and devices"
                        )
                    yield check_name(path)


def hash_file(folder: Path, path: str, *, bar: Progress, cache: HashCache, stop: Event) -> tuple[str, str, int]:
    """(path, SHA-256, size) of one file. Raises `InputError` as `digest_directory` does."""
    try:
        with open_regular(folder / path) as stream:
            before = os.fstat(stream.fileno())
            known = cache.get(folder / path, before)
            if known is not None:
                bar.advance(before.st_size)
                return path, known, before.st_size
            digest = _read_through(stream, path, before.st_size, bar, stop)
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", hint="a checkpoint's files must all be readable"
        ) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ChangedError(path)
    cache.put(folder / path, after, digest)
    return path, digest, after.st_size


def _read_through(stream: FileIO, path: str, size: int, bar: Progress, stop: Event) -> str:
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(min(_CHUNK, max(size, 1))))
    while count := stream.readinto(chunk):
        if stop.is_set():
            raise InputError(f"hashing {path} was stopped")
        if size < _LFS_POINTER_SIZE and bytes(chunk[:count]).startswith(_LFS_POINTER):
            raise InputError(f"{path} is a git-LFS pointer, not the file", hint="fetch the files: git lfs pull")
        digest.update(chunk[:count])
        bar.advance(count)
    return digest.hexdigest()
