"""Errors of the operating system as errors that a user can mend: a full disk, missing rights, a file in a folder's place."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

from builder.util.errors import InputError
from builder.util.files import cache_dir

# What the file system refuses and the user can mend; other errors of the system are ours.
_MENDABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EIO, errno.EFBIG, errno.EEXIST, errno.ELOOP,
}  # fmt: skip
_FILE_FOR_FOLDER = "a file is in the place of a folder: move it away, or name another place"
_HINTS = {
    errno.EROFS: "its file system is read-only: name another place",
    errno.EISDIR: "a folder is in the place of a file: move it away, or name another place",
    errno.ENOTDIR: _FILE_FOR_FOLDER,
    errno.EEXIST: _FILE_FOR_FOLDER,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a symbolic link leads to itself: remove it",
    errno.EIO: "the disk or the network file system failed: see the system's log, and try another place",
    errno.EFBIG: "the file system, or the limit of `ulimit -f`, takes no file of that size: raise it, or try another place",
}

_ROOM = 64 << 20
"""Bytes: a place with less may be the one where a write failed."""


def mended_error(error: OSError) -> InputError | None:
    """What the user can mend of an error of the system, or None: it is ours."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _working_folder():
        return InputError("the working folder does not exist any more", hint="change to one that exists: cd ~")
    if error.errno not in _MENDABLE:
        return None
    where = [("where", str(error.filename))] if error.filename else _full(error.errno)
    hint = _HINTS.get(error.errno, "make room or give rights there, then run it again")
    return InputError(error.strerror or str(error), details=where, hint=hint)


def _working_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _full(code: int | None) -> list[tuple[str, str]]:
    """Where there is no room, when the system does not say: of the places that are written to, those with the least."""
    if code not in (errno.ENOSPC, errno.EDQUOT):
        return []
    places = {str(Path.cwd()), tempfile.gettempdir(), str(cache_dir())}
    free = {place: shutil.disk_usage(place).free for place in places}
    least = sorted(free, key=lambda place: free[place])
    full = [place for place in least if free[place] < _ROOM] or least[:1]
    return [("where", f"{place} ({free[place] / (1 << 20):,.0f} MiB free)") for place in full]
