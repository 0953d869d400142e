"""Reading a diff from a file that somebody else made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from builder.util.errors import InputError
from builder.util.limits import SIZE_LIMIT


def read_regular(path: Path, name: str) -> bytes:
    """The content of a regular file of at most `SIZE_LIMIT` bytes; `name` stands for it in messages.

    Raises `InputError` for anything else, such as a FIFO, which would be waited for, and `OSError` as `open` does.
    """
    # O_NONBLOCK means nothing on a regular file, and lets a FIFO be opened that nobody writes to.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name} is not a regular file", hint="put the diff itself there")
        if status.st_size > SIZE_LIMIT:
            raise InputError(
                f"{name} has {status.st_size:,} bytes; the limit is {SIZE_LIMIT:,}",
                hint="an overlay is a change of some files: split it",
            )
        return stream.read(SIZE_LIMIT)
