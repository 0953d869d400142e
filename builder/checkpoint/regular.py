"""Opening what must be a file: a pipe of that name would be waited for without end."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path


def open_regular(path: Path) -> FileIO:
    """The file at `path` (links followed), unbuffered, for reading. Raises `OSError`, for pipes and devices too."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        return FileIO(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
