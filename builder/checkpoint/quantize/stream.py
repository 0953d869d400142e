"""One shard rewritten in a stream: its tables become FP8, everything else is copied, both files are hashed on the way.

Reading, arithmetic, writing and the two hashes are lanes of one thread each (the arithmetic has several) that work on
different chunks at a time. A chunk is a few megabytes, so memory does not grow with the table.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.checkpoint.blocks import Kernel, NotFiniteError, Quantized
from builder.checkpoint.digest import ChangedError
from builder.checkpoint.header import Header, Tensor, element_bytes, make_header, read_header, tensor_bytes
from builder.checkpoint.quantize.direct import Buffers, DirectReader, DirectWriter
from builder.checkpoint.tables import Table
from builder.util.context import Progress
from builder.util.errors import InputError
from builder.util.files import naming

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_CHUNK = 8 << 20
_IN_FLIGHT = 64 << 20
# One block row must fit: 128 rows of 262,144 BF16 values.
_WIDEST = 64 << 20


@dataclass(frozen=True)
class TableResult:
    """How well a table took to FP8: relative RMS error (0 to 1), and block counts."""

    table: Table
    relative_rms_error: float
    blocks: int


@dataclass(frozen=True)
class ShardResult:
    """SHA-256 of source and target, the target's size in bytes, and its tensors."""

    source_sha256: str
    sha256: str
    size: int
    tables: tuple[TableResult, ...]


@dataclass(frozen=True)
class ShardLayout:
    """The target's tensors in the order of their bytes, and the header that lists them."""

    tensors: dict[str, Tensor]
    header: bytes

    @property
    def size(self) -> int:
        return len(self.header) + max((each.end for each in self.tensors.values()), default=0)


@dataclass(frozen=True)
class _Chunk:
    """`length` bytes at `source` of one file become bytes at `target` of the other. `rows` from `row` of a table."""

    source: int
    length: int
    target: int
    table: Table | None = None
    row: int = 0
    rows: int = 0


@dataclass
class _Parts:
    """The scales and error sums of a table's chunks, by their first row."""

    found: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, row: int, part: Quantized) -> None:
        self.found[row] = {"scales": part.scales, "noise": part.noise, "signal": part.signal}

    def joined(self, name: str) -> Any:
        import numpy as np

        return np.concatenate([self.found[row][name] for row in sorted(self.found)])


def lay_out(header: Header, tables: list[Table]) -> ShardLayout:
    """The source's order with each scale behind its table; by falling element size where that would misalign a tensor."""
    by_name = {table.name: table for table in tables}
    entries: list[tuple[str, str, tuple[int, ...]]] = []
    for name, tensor in header.tensors.items():
        table = by_name.get(name)
        if table is None:
            entries.append((name, tensor.dtype, tensor.shape))
        else:
            entries += [(name, "F8_E4M3", table.shape), (table.scale_name, "BF16", table.scale_shape)]
    tensors = _place(entries)
    if any(each.begin % element_bytes(each.dtype) for each in tensors):
        tensors = _place(sorted(entries, key=lambda entry: -element_bytes(entry[1])))
    return ShardLayout({each.name: each for each in tensors}, make_header(tensors, header.metadata))


def _place(entries: list[tuple[str, str, tuple[int, ...]]]) -> list[Tensor]:
    position, tensors = 0, []
    for name, dtype, shape in entries:
        end = position + tensor_bytes(dtype, shape)
        tensors.append(Tensor(name, dtype, shape, position, end))
        position = end
    return tensors


def rewrite_shard(
    source: Path, target: Path, header: Header, layout: ShardLayout, tables: list[Table], *,
    kernel: Kernel, search: bool, threads: int, bar: Progress, known: str | None = None,
) -> ShardResult:  # fmt: skip
    """Write `target` (which must not be there) from `source`, whose `header` was read before.

    `known` is the source's SHA-256 when it need not be read again.

    Raises `InputError` for NaN or infinity in a table, `ChangedError` when the source is not what it was.
    """
    with source.open("rb", buffering=0) as reader, target.open("x+b", buffering=0) as writer:
        before = os.fstat(reader.fileno())
        if read_header(source) != header:
            raise ChangedError(source.name)
        with naming(target):
            os.posix_fallocate(writer.fileno(), 0, layout.size)
        direct = DirectReader(source, reader.fileno()), DirectWriter(target, writer.fileno())
        with closing(direct[0]), closing(direct[1]), ExitStack() as stack:
            hashes = None if known else _InOrder(source, reader.fileno()), _InOrder(target, writer.fileno())
            rewriting = _Rewriting(*direct, *hashes, source.name, layout, kernel, search, threads, stack)
            for chunk in _chunks(header, layout, tables):
                rewriting.put(chunk)
                bar.advance(chunk.length)
            rewriting.drain()
        with naming(target):
            os.fsync(writer.fileno())
        after, there = os.fstat(reader.fileno()), source.stat()
        if not _same(before, after) or not _same(before, there):
            raise ChangedError(source.name)
        return ShardResult(
            known or (hashes[0].digest() if hashes[0] else ""), hashes[1].digest(), layout.size,
            tuple(rewriting.result(table) for table in tables),
        )  # fmt: skip


def _same(first: os.stat_result, second: os.stat_result) -> bool:
    return (first.st_ino, first.st_size, first.st_mtime_ns) == (second.st_ino, second.st_size, second.st_mtime_ns)


def _chunks(header: Header, layout: ShardLayout, tables: list[Table]) -> Iterator[_Chunk]:
    """The source from its first byte to its last; its header becomes nothing, a table's last chunk brings its scales."""
    by_name = {table.name: table for table in tables}
    target_start = len(layout.header)
    yield _Chunk(0, header.data_start, -1)
    for name, tensor in header.tensors.items():
        target = target_start + layout.tensors[name].begin
        source, table = header.data_start + tensor.begin, by_name.get(name)
        if table is None:
            for offset in range(0, tensor.nbytes, _CHUNK):
                yield _Chunk(source + offset, min(_CHUNK, tensor.nbytes - offset), target + offset)
            continue
        width = table.shape[1] * 2
        if table.block[0] * width > _WIDEST:
            raise InputError(f"{name} is too wide: {table.shape[1]:,} columns", hint="262,144 columns are the most")
        step = max(1, _CHUNK // (table.block[0] * width)) * table.block[0]
        for row in range(0, table.shape[0], step):
            rows = min(step, table.shape[0] - row)
            yield _Chunk(source + row * width, rows * width, target + row * table.shape[1], table, row, rows)


class _Rewriting:
    """The lanes, and what they have found."""

    def __init__(
        self, reader: DirectReader, writer: DirectWriter, source_hash: _InOrder | None, target_hash: _InOrder, name: str,
        layout: ShardLayout, kernel: Kernel, search: bool, threads: int, stack: ExitStack,
    ) -> None:  # fmt: skip
        self.reader, self.writer, self.name, self.layout = reader, writer, name, layout
        self.kernel, self.search = kernel, search
        self.parts: defaultdict[str, _Parts] = defaultdict(_Parts)
        self.source_hash, self.target_hash = source_hash, target_hash
        self.buffers = Buffers()
        self.lanes = {
            lane: ThreadPoolExecutor(threads if lane == "compute" else 1)
            for lane in ("read", "source hash", "compute", "write", "target hash")
        }
        for pool in self.lanes.values():
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        self.flying: deque[tuple[int, list[Future[Any]]]] = deque()
        self.writer.write(0, memoryview(layout.header))
        self.target_hash.feed(0, memoryview(layout.header))

    def put(self, chunk: _Chunk) -> None:
        """Send a chunk through the lanes; waits while too many bytes are under way."""
        while len(self.flying) > 1 and sum(size for size, _ in self.flying) + chunk.length > _IN_FLIGHT:
            self._land()
        read = self.lanes["read"].submit(self._read, chunk)
        futures: list[Future[Any]] = [read]
        source_hash = self.source_hash
        if source_hash is not None:
            futures.append(self.lanes["source hash"].submit(lambda: source_hash.feed(chunk.source, read.result()[0])))
        if chunk.target >= 0:
            # A lane's task waits only for tasks that were given to other lanes before it: there is no deadlock.
            made = self.lanes["compute"].submit(lambda: self._compute(chunk, read.result()[0]))
            futures += [made, self.lanes["write"].submit(lambda: self.writer.write(chunk.target, made.result()))]
            futures.append(self.lanes["target hash"].submit(lambda: self.target_hash.feed(chunk.target, made.result())))
        self.flying.append((chunk.length, futures))
        if chunk.table is not None and chunk.row + chunk.rows == chunk.table.shape[0]:
            self._put_scales(chunk.table)

    def drain(self) -> None:
        """Wait until everything is written."""
        while self.flying:
            self._land()
        self.writer.finish()

    def result(self, table: Table) -> TableResult:
        """The error of a table whose chunks have all landed. `fsum` rounds once, so chunks do not show in it."""
        parts = self.parts[table.name]
        noise, signal = (math.fsum(parts.joined(name).flat) for name in ("noise", "signal"))
        return TableResult(table, math.sqrt(noise / signal) if signal else 0.0, math.prod(table.scale_shape))

    def _put_scales(self, table: Table) -> None:
        place = len(self.layout.header) + self.layout.tensors[table.scale_name].begin
        while self.flying:
            self._land()
        scales = memoryview(self.parts[table.name].joined("scales").astype("<u2").view("u1").reshape(-1))
        self.writer.write(place, scales)
        self.target_hash.feed(place, scales)

    def _land(self) -> None:
        _, futures = self.flying.popleft()
        for future in futures:
            future.result()
        self.buffers.give_back(futures[0].result()[1])

    def _read(self, chunk: _Chunk) -> tuple[Bytes, mmap]:
        data, buffer = self.reader.read(chunk.source, chunk.length, self.buffers)
        if len(data) != chunk.length:
            raise ChangedError(self.name)
        return data, buffer

    def _compute(self, chunk: _Chunk, data: Bytes) -> memoryview:
        table = chunk.table
        if table is None:
            return data.data
        import numpy as np

        # A shard of another program may begin its data at an odd place.
        x = np.require(data.view("<u2").reshape(chunk.rows, table.shape[1]), requirements="A")
        try:
            found = self.kernel(x, table.block, search=self.search)
        except NotFiniteError as error:
            row, column = chunk.row + error.row * table.block[0], error.column * table.block[1]
            raise InputError(
                f"{table.name} has NaN or infinity in it",
                details=[("where", f"the block that begins at row {row}, column {column}")],
                hint="the table is damaged: compare the shard's SHA-256 with the publisher's",
            ) from error
        self.parts[table.name].add(chunk.row, found)
        return found.values.reshape(-1).data


class _InOrder:
    """SHA-256 of a file from its chunks; when they did not come in the file's order, it is read again at the end."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self._hash, self._position, self._sorted = hashlib.sha256(), 0, True

    def feed(self, place: int, data: Any) -> None:
        if place != self._position:
            self._sorted = False
        if self._sorted:
            self._hash.update(data)
            self._position += len(data)

    def digest(self) -> str:
        if self._sorted:
            return self._hash.hexdigest()
        again, place = hashlib.sha256(), 0
        with naming(self._path):
            while data := os.pread(self._handle, _CHUNK, place):
                again.update(data)
                place += len(data)
        return again.hexdigest()
