"""A folder that appears complete or not at all: made under a hidden name beside it, and renamed when it is done."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import InputError


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A new folder `.NAME.partial` beside `target`, which takes its name when the block ends well.

    What a killed run left under that name is removed. Raises `InputError` when `target` exists, or another run makes it.
    """
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    partial.mkdir(exist_ok=True)
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(handle, partial, target)
        try:
            _empty(partial)
            yield partial
            _sync_folders(partial)
            _refuse_existing(target)
            partial.rename(target)
            _sync(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{target} exists", hint="name a new folder, or remove it first")


def _lock(handle: int, partial: Path, target: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The run that held the lock may have renamed the folder in the meantime.
        ours = os.path.samestat(os.fstat(handle), partial.stat())
    except OSError:
        ours = False
    if not ours:
        raise InputError(f"another run is making {target}", hint="wait until it is done")


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder):
        _sync(Path(parent))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
