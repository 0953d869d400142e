"""Where this tool keeps things, and how it reads and writes files: bounded, and whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from builder.util.errors import BuilderError, InputError, MismatchError

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_NOT_A_FILE = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG}
_NO_ROOM = "make room there, then run it again"
_NO_RIGHTS = "see the permissions there"
_FILE_FOR_FOLDER = "a file is in the place of a folder: move it away, or name another place"
_WHAT_TO_DO = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _NO_RIGHTS,
    errno.EPERM: _NO_RIGHTS,
    errno.EROFS: "its file system is read-only: name another place",
    errno.EISDIR: "a folder is in the place of a file: move it away, or name another place",
    errno.ENOTDIR: _FILE_FOR_FOLDER,
    errno.EEXIST: _FILE_FOR_FOLDER,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a symbolic link leads to itself: remove it",
    errno.EIO: "the disk or the network file system failed: see the system's log, and try another place",
    errno.EFBIG: "the file system, or the limit of `ulimit -f`, takes no file of that size: raise it, or try another place",
}


class CacheError(BuilderError):
    """The cache cannot be used. No `InputError`: it says nothing of what is being read or verified."""


def what_to_do(error: OSError) -> str:
    """The hint for a file or folder that cannot be read or written."""
    return _WHAT_TO_DO.get(error.errno or 0, "see the system's log")


def unreadable(name: object, error: OSError, *, details: Sequence[tuple[str, str]] = ()) -> InputError:
    """The error for a file that somebody has named, and that cannot be read."""
    return InputError(
        f"cannot read {name}: {error.strerror}", details=list(details), hint="check the name and its permissions"
    )


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of reading and writing by a handle name no file: they get `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def open_regular(path: Path, name: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file for reading. Raises `InputError` for a FIFO, a device, a socket or a folder: those may never end.

    Raises `OSError` when it cannot be opened.
    """
    # Opening a FIFO waits for a writer, unless it is opened without blocking.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NOT_A_FILE:
            raise
        raise InputError(f"cannot open {path}: {error.strerror}", hint="name a regular file") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{name or path} is not a regular file", hint="name a file, not a folder, a pipe or a device")
    with os.fdopen(handle, "rb") as stream:
        yield stream


def read_regular(path: Path, *, limit: int, name: str | None = None) -> bytes:
    """The content of a file of at most `limit` bytes; `name` is the file in messages.

    Raises `InputError` when it is larger or is not a regular file, `OSError` when it cannot be read.
    """
    with open_regular(path, name) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        raise InputError(f"{name or path} is larger than {size}", hint="this cannot be the file that was meant")
    return data


def cache_dir(*parts: str) -> Path:
    """A folder of the cache, made when missing: `BUILDER_CACHE_DIR`, else `XDG_CACHE_HOME` or `~/.cache`.

    Everything in it can be deleted at any time; nothing in it is trusted without its digest. Raises `CacheError`.
    """
    own = os.environ.get("BUILDER_CACHE_DIR")
    if own:
        root = Path(own)
    else:
        xdg = os.environ.get("XDG_CACHE_HOME")
        root = (Path(xdg) if xdg else Path.home() / ".cache") / "overlay-image-builder"
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot make the cache folder {folder}: {error.strerror}",
            hint="set BUILDER_CACHE_DIR to a writable folder",
        ) from error
    return folder


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open a temporary neighbour of `path` for writing; it takes the name `path` only when the block ends well.

    The temporary file is locked while it is written, so that one that a killed run has left is known and is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    handle, temporary = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK and error.filename is None:
            # Writing to a handle names no file.
            error.filename = str(path)
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _temporary(path: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
        with suppress(OSError):
            # A file system that knows no locks keeps its leftovers.
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        # Between its making and its lock, another run took it for a leftover.
        os.close(handle)


def clear_leftovers(path: Path) -> None:
    """Remove the temporary neighbours of `path` that nobody writes any more: those of runs that were killed."""
    for leftover in path.parent.glob(f".{literal(path.name[:100])}.*.tmp"):
        _remove_dead(leftover)


def literal(name: str) -> str:
    """A file name as a pattern that matches this name only."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _remove_dead(leftover: Path) -> None:
    with suppress(OSError):
        handle = os.open(leftover, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()
        finally:
            os.close(handle)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path, mode=mode) as stream:
        stream.write(data)


class ContentCache:
    """Bytes kept by their SHA-256. What is damaged on disk is dropped and counts as absent."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_dir("content")

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def get(self, digest: str) -> bytes | None:
        """The bytes whose SHA-256 is `digest` (64 hexadecimal digits), or None."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if sha256(data) != digest:
            with suppress(FileNotFoundError):
                path.unlink()
            return None
        return data

    def put(self, data: bytes, *, expected: str | None = None) -> str:
        """Keep `data` and return its SHA-256. Raises `MismatchError` when it is not the `expected` one."""
        digest = sha256(data)
        if expected is not None and digest != expected:
            raise MismatchError(
                "content does not have the digest it was asked for by",
                details=[("wanted", expected), ("found", digest)],
            )
        path = self._path(digest)
        if not path.exists():
            write_file(path, data)
        return digest


class CheckedFiles:
    """Remembers that a file on disk was read and found to be what a claim says, so that it is not read again.

    A file is known by device, inode, size, and its times of modification and change: whoever writes to it changes one of
    them. That a claim was checked is remembered in the cache.
    """

    def __init__(self) -> None:
        self._folder = cache_dir("checked")

    def knows(self, path: Path, claim: str) -> bool:
        """Whether the file that is at `path` now was found to be what `claim` says."""
        try:
            return self._fact(path, claim).read_text() == _identity(path)
        except (OSError, ValueError):
            return False

    def remember(self, path: Path, claim: str) -> None:
        """Remember that the file at `path` is what `claim` says: its digest, and whatever else was checked."""
        write_file(self._fact(path, claim), _identity(path).encode())

    def _fact(self, path: Path, claim: str) -> Path:
        found = path.stat()
        return self._folder / sha256(f"{claim} {found.st_dev} {found.st_ino}".encode())


def _identity(path: Path) -> str:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(path)
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
