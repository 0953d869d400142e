"""Blobs as streams that are checked while they are read: size, digest, and a layer's digest without its compression.

Everything here reads bytes from somebody else, so that it is bounded: a blob ends at its descriptor's size, and what a
compressed layer expands to has a limit.
"""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from builder.oci.types import Descriptor
from builder.util.errors import InputError, MismatchError

_CHUNK = 1 << 20
_EXPANDED_FLOOR = 2 << 30
_EXPANDED_FACTOR = 100
"""A layer may expand to 2 GiB plus a hundred times its own size: sparse logs compress well, a bomb a thousand times."""
_ZSTD_WINDOW = 128 << 20
_READS_PAST_END = 64
_OTHERS = {"xz": re.compile(rb"\xfd7zXZ\0.*", re.S), "bzip2": re.compile(rb"BZh[1-9]1AY&SY.*", re.S)}


class BlobStream(io.RawIOBase):
    """A blob's chunks as a readable stream that hashes and counts what goes through.

    Raises `MismatchError` as soon as there is more than the descriptor says; `finish` checks the rest.
    """

    def __init__(
        self, chunks: Iterable[bytes], descriptor: Descriptor, *, each: Callable[[bytes], object] = lambda _chunk: None
    ) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")
        self._descriptor = descriptor
        self._each = each
        self._size = 0
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._size += len(chunk)
            if self._size > self._descriptor.size:
                raise _mismatch(self._descriptor, "size", str(self._descriptor.size), f"more than {self._size - 1}")
            self._digest.update(chunk)
            self._each(chunk)
            self._left = memoryview(chunk)
        count = min(len(self._left), len(buffer))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def finish(self) -> None:
        """Read to the end and check. Raises `MismatchError` when size or digest differ from the descriptor's."""
        while self.read(_CHUNK):
            pass
        if self._size != self._descriptor.size:
            raise _mismatch(self._descriptor, "size", str(self._descriptor.size), str(self._size))
        found = f"sha256:{self._digest.hexdigest()}"
        if found != self._descriptor.digest:
            raise _mismatch(self._descriptor, "content", self._descriptor.digest, found)


def _mismatch(descriptor: Descriptor, what: str, wanted: str, found: str) -> MismatchError:
    return MismatchError(
        f"a blob did not arrive whole, or is not the one that is named: its {what} differs",
        details=[("blob", descriptor.digest), ("wanted", wanted), ("found", found)],
        hint="copy the image again; if it stays, the image is damaged or was changed: do not use it",
    )


def checked(chunks: Iterable[bytes], descriptor: Descriptor) -> Iterator[bytes]:
    """The chunks of a blob, checked against its descriptor while they pass. Raises as `BlobStream` does."""
    stream = BlobStream(chunks, descriptor)
    while chunk := stream.read(_CHUNK):
        yield chunk
    stream.finish()


def check_bytes(data: bytes, descriptor: Descriptor) -> bytes:
    """`data`, when it has the descriptor's size and digest. Raises `MismatchError` otherwise."""
    if len(data) != descriptor.size:
        raise _mismatch(descriptor, "size", str(descriptor.size), str(len(data)))
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != descriptor.digest:
        raise _mismatch(descriptor, "content", descriptor.digest, found)
    return data


class Gunzip(io.RawIOBase):
    """A gzip stream of one or many members, without gzip's header checks that other tools do not make."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(31)
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            data = self._pending or self._source.read(1 << 16)
            if not data:
                if not self._inflate.eof:
                    raise EOFError("the gzip stream is truncated")
                return 0
            if self._inflate.eof:
                if not data.strip(b"\0"):
                    self._pending = b""
                    continue
                self._inflate = zlib.decompressobj(31)
            out = self._inflate.decompress(data, len(buffer))
            self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
            if out:
                buffer[: len(out)] = out
                return len(out)


def decompressed(stream: io.RawIOBase | io.BufferedReader) -> IO[bytes]:
    """The tar inside a layer's stream: gzip, zstd or plain, told by its first bytes rather than by its media type.

    Raises `InputError` for other compressions, which Docker reads and containerd does not.
    """
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, 1 << 17)
    head = buffered.peek(10)[:10]
    magic = head[:4]
    other = next((name for name, begin in _OTHERS.items() if begin.fullmatch(head)), None)
    if other is not None:
        raise InputError(
            f"a layer of the base is compressed with {other}",
            hint="containerd unpacks gzip and zstd alone: copy the image with skopeo copy --dest-compress-format gzip",
        )
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(Gunzip(buffered), 1 << 18)
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
            buffered, read_across_frames=True
        )
        return cast("IO[bytes]", reader)
    return buffered


class LayerStream:
    """The tar of a layer, hashed and bounded while it is read.

    `size` is the layer's size as it is stored, in bytes. `read` raises `InputError` when the tar is larger than any
    honest layer of that size, and `EOFError` when a reader goes on asking behind the end.
    """

    def __init__(self, stream: io.RawIOBase | io.BufferedReader, size: int) -> None:
        self._stream = decompressed(stream)
        self._limit = _EXPANDED_FLOOR + _EXPANDED_FACTOR * size
        self._size = 0
        self._empty = 0
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data:
            self._empty += 1
            if self._empty > _READS_PAST_END:
                raise EOFError("the tar is truncated")
        self._size += len(data)
        if self._size > self._limit:
            raise InputError(
                f"a layer of the base expands to more than {self._limit >> 20:,} MiB",
                hint="this is not a layer that an image builder wrote: do not use this base",
            )
        self._digest.update(data)
        return data

    def finish(self) -> str:
        """Read to the end; the digest of the whole tar, the layer's diff id."""
        while self.read(_CHUNK):
            pass
        return f"sha256:{self._digest.hexdigest()}"


UNSOUND = (EOFError, zlib.error, OverflowError, ValueError, RecursionError)
"""What reading a damaged layer raises; a `ZstdError` comes besides, by its name."""


def is_unsound(error: BaseException) -> bool:
    """Whether an error says that a layer's bytes are damaged, rather than that something of ours failed."""
    return isinstance(error, UNSOUND) or type(error).__name__ == "ZstdError"


@contextmanager
def unpacking(raw: BlobStream, descriptor: Descriptor) -> Iterator[None]:
    """Around the reading of a layer's tar out of `raw`.

    Raises `InputError` when the bytes cannot be unpacked, and `MismatchError` when they are not those of `descriptor` either.
    """
    try:
        yield
    except Exception as error:
        if not is_unsound(error):
            raise
        # A damaged stream is first of all not the blob that is named.
        raw.finish()
        raise InputError(
            f"a layer of the base cannot be unpacked: {error}",
            details=[("layer", descriptor.digest)],
            hint="no client would run this image: do not use this base",
        ) from error


def check_diff_id(found: str, wanted: str | None, descriptor: Descriptor) -> None:
    """Raise `MismatchError` when a layer's tar is not the one that the config names. `wanted` None checks nothing."""
    if wanted is not None and found != wanted:
        raise MismatchError(
            "a layer of the base is not the one that its config names: the diff id differs",
            details=[("layer", descriptor.digest), ("wanted", wanted), ("found", found)],
            hint="no client would run this image: do not use this base",
        )


def check_layer(
    chunks: Iterable[bytes],
    descriptor: Descriptor,
    diff_id: str | None,
    *,
    each: Callable[[bytes], object] = lambda _chunk: None,
) -> None:
    """Read a whole layer and check size, digest and diff id; every chunk is handed to `each`."""
    raw = BlobStream(chunks, descriptor, each=each)
    if diff_id is not None:
        with unpacking(raw, descriptor):
            found = LayerStream(raw, descriptor.size).finish()
        raw.finish()
        check_diff_id(found, diff_id, descriptor)
    raw.finish()
