"""One writer at a time: a folder is held while something in it is read, decided and written."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.util.errors import InputError
from builder.util.files import literal

_UNSUPPORTED = {errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}

_held: dict[tuple[int, int, int], int] = {}
"""Thread, device and inode of the folders that this process holds, and how often."""


@contextmanager
def holding(folder: Path, *, waiting: Callable[[str], object] = lambda _who: None) -> Iterator[None]:
    """Hold `folder` against other processes and threads; a holder may hold it again. Waits for as long as it takes.

    `waiting` is called once with who holds it, when somebody does. The lock is on the folder itself, so that nothing is
    left behind, and it ends with the process, however that ends. A file system without locks is written to without one.
    """
    handle, key = _open(folder)
    try:
        if _held.get(key):
            _held[key] += 1
        else:
            handle, key = _lock(folder, handle, key, waiting)
            _held[key] = 1
        try:
            yield
        finally:
            _held[key] -= 1
            if not _held[key]:
                del _held[key]
    finally:
        os.close(handle)


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder in `parent`, held and removed at the end; those that killed runs have left are removed first."""
    for leftover in parent.glob(f"{literal(prefix)}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            _remove_dead(leftover)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        handle, _ = _open(folder)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():
            break
        # Between its making and its lock, another run took it for a leftover.
        os.close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_dead(folder: Path) -> None:
    with suppress(OSError, InputError):
        handle, _ = _open(folder)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _open(folder: Path) -> tuple[int, tuple[int, int, int]]:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot use the folder {folder}: {error.strerror}", hint="see its permissions") from error
    found = os.fstat(handle)
    return handle, (threading.get_ident(), found.st_dev, found.st_ino)


def _lock(
    folder: Path, handle: int, key: tuple[int, int, int], waiting: Callable[[str], object]
) -> tuple[int, tuple[int, int, int]]:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return handle, key
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if not told:
                waiting(_holder(key))
                told = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Somebody may have put another folder in its place meanwhile.
        with suppress(FileNotFoundError):
            found = folder.stat()
            if (found.st_dev, found.st_ino) == key[1:]:
                return handle, key
        folder.mkdir(parents=True, exist_ok=True)
        other = _open(folder)
        os.close(handle)
        handle, key = other


def _holder(key: tuple[int, int, int]) -> str:
    """`process 1234`, as Linux lists it; `another process` when it does not."""
    wanted = f"{os.major(key[1]):02x}:{os.minor(key[1]):02x}:{key[2]}"
    with suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "->" not in fields and fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
                return f"process {fields[4]}"
    return "another process"
