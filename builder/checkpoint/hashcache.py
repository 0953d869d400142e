"""Hashes of files that were read before, so that an unchanged checkpoint of 30 GB is digested in milliseconds.

A file counts as unchanged when path, size, mtime and inode are. `--no-cache` is for whoever does not trust that.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from builder.util.files import cache_dir, write_file

# A file written a moment ago can change again within the clock's grain: it is not remembered yet.
_SETTLED_NS = 2_000_000_000


class HashCache:
    """SHA-256 by path, size, mtime and inode. With `enabled=False` it remembers nothing and knows nothing."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._folder = cache_dir("hashes") if enabled else None

    def get(self, path: Path, stat: os.stat_result) -> str | None:
        """The hash of the file at `path` (links resolved), or None."""
        if self._folder is None:
            return None
        try:
            found = json.loads(self._entry(path).read_text())
            return str(found["sha256"]) if found["key"] == self._key(path, stat) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, path: Path, stat: os.stat_result, digest: str) -> None:
        """Remember a hash that was just read."""
        if self._folder is None or time.time_ns() - stat.st_mtime_ns < _SETTLED_NS:
            return
        document = {"key": self._key(path, stat), "sha256": digest}
        write_file(self._entry(path), json.dumps(document).encode())

    def _entry(self, path: Path) -> Path:
        assert self._folder is not None  # noqa: S101  asked only when enabled
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        return self._folder / name[:2] / name

    @staticmethod
    def _key(path: Path, stat: os.stat_result) -> list[object]:
        return [os.fsencode(path.resolve()).hex(), stat.st_size, stat.st_mtime_ns, stat.st_ino]
