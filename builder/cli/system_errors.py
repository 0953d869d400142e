"""Errors of the operating system as errors that a user can mend: a full disk, missing rights, a file in a folder's place."""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from builder.util.errors import InputError
from builder.util.files import CacheError, cache_dir, what_to_do

# What the file system refuses and the user can mend; other errors of the system are ours.
_MENDABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EIO, errno.EFBIG, errno.EEXIST, errno.ELOOP,
}  # fmt: skip

_ROOM = 64 << 20
"""Bytes: a place with less may be the one where a write failed."""


def mended_error(error: OSError) -> InputError | None:
    """What the user can mend of an error of the system, or None: it is ours."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _working_folder():
        return InputError("the working folder does not exist any more", hint="change to one that exists: cd ~")
    if error.errno not in _MENDABLE:
        return None
    where = [("where", str(error.filename))] if error.filename else _full(error.errno)
    return InputError(error.strerror or str(error), details=where, hint=what_to_do(error))


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
    places = {str(Path.cwd()), tempfile.gettempdir()}
    with suppress(CacheError):
        places.add(str(cache_dir()))
    free = {place: shutil.disk_usage(place).free for place in places}
    least = sorted(free, key=lambda place: free[place])
    full = [place for place in least if free[place] < _ROOM] or least[:1]
    return [("where", f"{place} ({free[place] / (1 << 20):,.0f} MiB free)") for place in full]
