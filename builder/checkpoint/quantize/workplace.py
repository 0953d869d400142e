"""A folder that appears complete or not at all: made under a hidden name beside it, and renamed when it is done.

`.NAME.partial` has two entries: a marker, written before anything else, and the folder that is being made. A folder without
the marker is a user's, whatever its name, and nothing in it is touched; in one with it, only the folder being made is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.util.errors import InputError
from builder.util.files import naming

MARKER = ".made-by-builder"
CONTENT = "new"


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A new folder in `partial_of(target)`, which becomes `target` when the block ends well.

    What a killed run left there is removed. Raises `InputError` when `target` exists, when another run makes it, and when
    something else has the name of the hidden folder.
    """
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target)
    with suppress(FileExistsError):
        partial.mkdir()
    handle = _open(partial, target)
    try:
        _lock(handle, partial, target)
        _mark(partial)
        place = partial / CONTENT
        try:
            _remove(place)
            place.mkdir()
            yield place
            _sync_folders(place)
            _refuse_existing(target)
            place.rename(target)
            _sync(target.parent)
        finally:
            _clear(partial)
    finally:
        os.close(handle)


def partial_of(target: Path) -> Path:
    """The hidden folder beside `target` in which it is made."""
    return target.parent / f".{target.name}.partial"


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{target} exists", hint="name a new folder, or remove it first")


def _open(partial: Path, target: Path) -> int:
    try:
        return os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        # The run that had it has ended in this moment.
        raise _busy(target) from None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise _not_ours(partial, "a link, or no folder") from error


def _lock(handle: int, partial: Path, target: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The run that held the lock may have removed the folder in the meantime.
        ours = os.path.samestat(os.fstat(handle), partial.lstat())
    except OSError:
        ours = False
    if not ours:
        raise _busy(target)


def _busy(target: Path) -> InputError:
    return InputError(f"another run is making {target}", hint="wait until it is done")


def _mark(partial: Path) -> None:
    """Raises `InputError` for a folder that has something in it and no marker."""
    names = _names(partial)
    if MARKER in names:
        return
    if names:
        raise _not_ours(partial, f"a folder with {min(names)!r} and without {MARKER}")
    (partial / MARKER).touch(exist_ok=False)
    _sync(partial)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _not_ours(partial: Path, found: str) -> InputError:
    return InputError(
        f"{partial} is in the way, and this tool did not make it",
        details=[("found", found)],
        hint="move it away, or name another DEST: nothing was changed",
    )


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _clear(partial: Path) -> None:
    """Remove what is ours, the marker last: a run that is killed meanwhile leaves what the next one knows."""
    with suppress(OSError):
        _remove(partial / CONTENT)
        if _names(partial) <= {MARKER}:
            (partial / MARKER).unlink(missing_ok=True)
            partial.rmdir()


def _sync_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder):
        _sync(Path(parent))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(folder):
            os.fsync(handle)
    finally:
        os.close(handle)
