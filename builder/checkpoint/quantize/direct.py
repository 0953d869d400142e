"""Reading and writing around the page cache, which would otherwise take as long as the arithmetic.

With O_DIRECT, place, length and memory must be multiples of the page. Where the file system cannot (tmpfs, some network
ones), or a place does not fit, the same bytes go the ordinary way.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from builder.util.files import naming

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_PAGE = 4096
_BATCH = 8 << 20


class Buffers:
    """Page-aligned memory that is used again, so that the kernel need not clear new pages for every chunk."""

    def __init__(self) -> None:
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()

    def take(self, size: int) -> mmap.mmap:
        """At least `size` bytes."""
        try:
            found = self._free.get_nowait()
        except Empty:
            return mmap.mmap(-1, size)
        return found if len(found) >= size else mmap.mmap(-1, size)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Nobody may look at the memory any more."""
        self._free.put(buffer)


class DirectReader:
    """Reads chunks of an open file: past the page cache when it can, else as usual."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self._direct = _open_direct(path, os.O_RDONLY)
        # Whoever put another file there in between: not ours.
        if self._direct is not None and not os.path.samestat(os.fstat(self._direct), os.fstat(handle)):
            self.close()

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def read(self, place: int, length: int, buffers: Buffers) -> tuple[Bytes, mmap.mmap]:
        """`length` bytes at `place`, fewer at the end of the file, and the buffer that they lie in."""
        import numpy as np

        begin = place - place % _PAGE
        wanted = place + length - begin
        buffer = buffers.take(-(-wanted // _PAGE) * _PAGE)
        view, done = memoryview(buffer), 0
        while done < wanted:
            count = self._read_some(view[done : -(-wanted // _PAGE) * _PAGE], begin + done)
            if count == 0:
                break
            done += count
        count = max(0, min(done, wanted) - (place - begin))
        return np.frombuffer(buffer, np.uint8, count, place - begin), buffer

    def _read_some(self, view: memoryview, place: int) -> int:
        if self._direct is not None and place % _PAGE == 0:
            try:
                return os.preadv(self._direct, [view], place)
            except OSError:
                self.close()
        with naming(self._path):
            return os.preadv(self._handle, [view], place)


class DirectWriter:
    """Writes a file from its first byte to its last, gathered in whole pages; what comes out of order goes as usual."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self._direct = _open_direct(path, os.O_WRONLY)
        self._memory = mmap.mmap(-1, _BATCH)
        self._begin = self._filled = 0

    def write(self, place: int, data: memoryview) -> None:
        """Write all of `data` at `place`, now or with a later call or `finish`."""
        if place != self._begin + self._filled:
            self.finish()
            self._begin = place
        while data:
            count = min(len(data), _BATCH - self._filled)
            self._memory[self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == _BATCH:
                self.finish()

    def finish(self) -> None:
        """Write what is gathered."""
        with naming(self._path):
            self._flush()

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def _flush(self) -> None:
        view, done = memoryview(self._memory), 0
        whole = self._filled - self._filled % _PAGE
        while done < self._filled:
            direct = (
                self._direct is not None and (self._begin + done) % _PAGE == 0 and done % _PAGE == 0 and done < whole
            )
            try:
                if direct and self._direct is not None:
                    done += os.pwrite(self._direct, view[done:whole], self._begin + done)
                    continue
            except OSError as error:
                import errno

                if error.errno != errno.EINVAL:
                    raise
                self.close()
            done += os.pwrite(self._handle, view[done : self._filled], self._begin + done)
        self._begin += self._filled
        self._filled = 0


def _open_direct(path: Path, flags: int) -> int | None:
    try:
        return os.open(path, flags | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
