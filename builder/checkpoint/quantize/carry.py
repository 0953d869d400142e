"""Files that a derived checkpoint has in common with its source: shared when the file system can, else copied."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from io import FileIO
from pathlib import Path
from typing import Literal

from builder.util.files import naming

Transfer = Literal["reflink", "hardlink", "copy"]
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CHUNK = 1 << 20
# What a file system returns when it cannot do it, or not between these two places.
_CANNOT = {
    errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.EACCES,
}  # fmt: skip


def best_transfer(sample: Path, folder: Path) -> Transfer:
    """How files beside `sample` get into `folder`: found out by trying it with `sample`, which leaves no trace."""
    probe = folder / ".probe"
    ways: tuple[Transfer, ...] = ("reflink", "hardlink")
    for way in ways:
        try:
            carry(sample, probe, way)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            return way
        finally:
            probe.unlink(missing_ok=True)
    return "copy"


def carry(source: Path, target: Path, way: Transfer) -> None:
    """Give `target`, which is not there yet, the content of `source` (links resolved). Raises `OSError`."""
    source = source.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    if way == "hardlink":
        os.link(source, target)
        return
    if way == "copy":
        copy_hashed(source, target)
        return
    with source.open("rb") as reader, target.open("xb") as writer, naming(target):
        fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        os.fsync(writer.fileno())


def carry_or_copy(source: Path, target: Path, way: Transfer) -> None:
    """As `carry`; where one file cannot go that way (its link leads to another disk, it has too many links), a copy."""
    try:
        carry(source, target, way)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        target.unlink(missing_ok=True)
        copy_hashed(source, target)


def copy_hashed(source: Path, target: Path) -> str:
    """Copy, and return the SHA-256 of what was read, so that a copy needs no second reading. Raises `OSError`."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        chunk = memoryview(bytearray(_CHUNK))
        while count := _read(reader, chunk, source):
            digest.update(chunk[:count])
            done = 0
            with naming(target):
                while done < count:
                    done += writer.write(chunk[done:count])
        with naming(target):
            os.fsync(writer.fileno())
    return digest.hexdigest()


def _read(reader: FileIO, chunk: memoryview, source: Path) -> int:
    with naming(source):
        return reader.readinto(chunk)
