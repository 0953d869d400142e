"""A private folder for files that live for moments: in memory where they fit, since a disk takes longer to forget a file than to write it."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Linux mounts a tmpfs here; shm_overview(7).
_MEMORY = "/dev/shm"  # noqa: S108
# Left to others: a container has 64 MiB of it by default.
_SPARED_BYTES = 16 << 20
_SPARED_FILES = 1000


@contextmanager
def scratch(prefix: str, *, size: int, files: int) -> Iterator[str]:
    """A private folder for about `size` bytes in `files` files, removed at the end.

    It is in memory when twice as much fits there and nobody asks for another place with `TMPDIR`, else where temporary
    files are. What killed runs have left in memory is removed first.
    """
    if os.environ.get("TMPDIR") or not _fits(size, files):
        with tempfile.TemporaryDirectory(prefix=prefix) as name:
            yield name
        return
    _clear(prefix)
    handle, name = _locked(prefix)
    try:
        yield name
    finally:
        shutil.rmtree(name, ignore_errors=True)
        os.close(handle)


def _fits(size: int, files: int) -> bool:
    try:
        room = os.statvfs(_MEMORY)
    except OSError:
        return False
    # A file system without a limit of files says 0.
    enough = not room.f_files or room.f_favail > 2 * files + _SPARED_FILES
    return enough and room.f_bavail * room.f_frsize > 2 * size + _SPARED_BYTES and os.access(_MEMORY, os.W_OK | os.X_OK)


def _locked(prefix: str) -> tuple[int, str]:
    """A new folder, and the lock that says that somebody uses it."""
    while True:
        name = tempfile.mkdtemp(prefix=prefix, dir=_MEMORY)
        with suppress(FileNotFoundError):
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return handle, name
            # Between its making and its lock, another run took it for one that was left.
            os.close(handle)


def _clear(prefix: str) -> None:
    """Remove the folders that nobody uses any more."""
    for place in Path(_MEMORY).glob(f"{prefix}*"):
        with suppress(OSError):
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(handle)
                if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place)
            finally:
                os.close(handle)
