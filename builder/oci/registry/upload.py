"""Sending a blob to a registry: streamed in one request, and what does not get through that way in chunks.

Source: OCI distribution spec 1.1, "Pushing blobs". One request takes the least of both sides: what arrives is sent on at once,
and the registry stores it once. When that fails, or the response of a chunk is lost, the registry is asked how much it has
(`GET` on the upload), and the rest is sent in chunks; an upload that the registry has forgotten is begun again. A registry, or
a proxy before it, that takes no blob as a whole gets chunks. One that takes none of this size (GHCR at most 4 MiB) gets smaller
ones, and one that takes none at all (Google's Artifact Registry documents that) or wants more than that (ECR 5 MiB at the
least) gets the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from builder.net.client import Response, error_text, passes, retry_after
from builder.oci.registry.client import Registry
from builder.oci.types import BlobSource, Descriptor
from builder.util.errors import UnreachableError

CHUNK = 16 << 20
WHOLE = True
"""Whether blobs larger than a chunk go in one request, as long as that gets through."""
_MODEST = 4 << 20
"""What a registry gets after it has refused a chunk of that size."""
_NOT_WHOLE = (405, 411, 413, 415, 501)
_ROUNDS = 3
_OCTETS = "application/octet-stream"


class _ForgottenError(Exception):
    """The registry does not know the upload any more, or has another part of it than this end can continue."""


class _NoChunksError(Exception):
    """The registry refuses the first chunk: it may take the whole blob."""


class _NoWholeError(Exception):
    """The registry, or a proxy before it, refuses a blob of this size in one request: it may take chunks."""


def upload(
    registry: Registry,
    repository: str,
    blob: Descriptor,
    source: BlobSource,
    *,
    location: str | None = None,
    advance: Callable[[int], None] = lambda _amount: None,
) -> None:
    """Send a blob, holding at most one chunk in memory. `location` is an upload that was opened already.

    What a registry refuses is remembered for its next blobs. Raises `UnreachableError` when the blob cannot be
    sent; the opened upload is then given up.
    """
    limits = registry.context.limits
    attempt = 0
    while True:
        chunk = CHUNK if registry.chunk is None else registry.chunk
        location = location or _opened(registry, repository)
        sending = _Upload(registry, repository, blob, location)
        location = None
        whole = WHOLE and registry.chunk is None and blob.size > chunk and not attempt
        try:
            if blob.size <= chunk or not chunk:
                sending.send_whole(source, advance)
            elif whole:
                sending.send_whole(source, advance, rest=chunk)
            else:
                sending.send_chunks(source, chunk, advance)
        except _NoWholeError:
            sending.cancel()
            registry.chunk = CHUNK
        except _NoChunksError:
            sending.cancel()
            registry.chunk = _MODEST if chunk > _MODEST else 0
        except _ForgottenError as error:
            sending.cancel()
            if registry.has_blob(repository, blob.digest):
                return
            if whole:
                # The next blob is as likely to break off.
                registry.chunk = chunk
            attempt += 1
            if attempt == _ROUNDS:
                raise UnreachableError(
                    f"{registry.name} does not take blob {blob.digest}",
                    details=[("why", str(error))],
                    hint="try again later; what the registry has already is not sent again",
                ) from error
            limits.clock.sleep(limits.pause(attempt))
        except BaseException:
            sending.cancel()
            raise
        else:
            return


def at_hand(data: bytes) -> BlobSource:
    """A source for a blob whose bytes are here."""

    @contextmanager
    def source(_blob: Descriptor) -> Iterator[Iterator[bytes]]:
        yield iter([data])

    return source


def _opened(registry: Registry, repository: str) -> str:
    response = registry.request("POST", repository, "blobs/uploads/", action="pull,push", repeat=True)
    registry.expect(response, (202,), f"{registry.name}/{repository}")
    return registry.location(response)


class _Upload:
    """One opened upload."""

    def __init__(self, registry: Registry, repository: str, blob: Descriptor, location: str) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._location = location
        self._scopes = registry.push_scopes(repository)

    def send_whole(self, source: BlobSource, advance: Callable[[int], None], *, rest: int = 0) -> None:
        """The blob in one PUT: from memory when it is one piece, else streamed as it comes.

        With `rest`, what does not arrive that way is sent in chunks of so many bytes.
        """
        with source(self._blob) as pieces:
            first = next(pieces, b"")
            if len(first) == self._blob.size:
                self._finish(first)
                advance(len(first))
                return
            held = self._stream(_Body(first, pieces, self._blob.size, advance), bool(rest))
        if held is None:
            return
        if not 0 < held <= self._blob.size:
            raise _ForgottenError(f"the registry has {held} bytes of a request that was broken off")
        self.send_chunks(source, rest, lambda _amount: None, start=held)

    def _stream(self, body: _Body, in_parts: bool) -> int | None:
        """None when the whole body has arrived, else how many bytes of it the registry has, where the rest can follow."""
        try:
            self._finish(body, whole=in_parts)
        except _ForgottenError:
            if not in_parts:
                raise
            return self._ask()
        return None

    def send_chunks(self, source: BlobSource, size: int, advance: Callable[[int], None], *, start: int = 0) -> None:
        """The blob from byte `start` in PATCH requests of `size` bytes; the last chunk goes with the PUT that ends the upload."""
        sent = start
        with source(self._blob) as pieces:
            for chunk in _chunks(_from(pieces, start), size):
                if sent + len(chunk) == self._blob.size:
                    self._finish(_Chunk(chunk), start=sent)
                else:
                    self._patch(chunk, sent)
                sent += len(chunk)
                advance(len(chunk))
        if sent != self._blob.size:
            raise UnreachableError(f"blob {self._blob.digest} is truncated at its source", hint="try again")
        if start == self._blob.size:
            self._finish(b"")

    def cancel(self) -> None:
        self._registry.cancel_upload(self._repository, self._location)

    def _patch(self, chunk: memoryview, start: int) -> None:
        """Send a chunk that begins at byte `start` of the blob."""
        limits = self._registry.context.limits
        done = 0
        for attempt in range(1, limits.attempts + 1):
            first, last = start + done, start + len(chunk) - 1
            headers = {"Content-Type": _OCTETS, "Content-Range": f"{first}-{last}"}
            response = self._try("PATCH", self._location, _Chunk(chunk[done:]), headers)
            if response is not None and response.status in (201, 202, 204):
                self._location = self._registry.location(response)
                held = _held(response, start + len(chunk))
                if held == start + len(chunk):
                    return
            else:
                if start == 0 and response is not None and response.status in (400, 404, 405, 411, 413, 415, 416, 501):
                    raise _NoChunksError
                self._judge(response, (416,))
                asked = retry_after(response, limits.clock.wall()) if response is not None else 0.0
                limits.clock.sleep(max(limits.pause(attempt), min(asked, limits.longest_wait)))
                held = self._ask()
            done = held - start
            if not 0 <= done <= len(chunk):
                raise _ForgottenError(f"the registry has {held} bytes, not {start}")
            if done == len(chunk):
                return
        raise _ForgottenError(f"a chunk at byte {start} does not get through")

    def _ask(self) -> int:
        """How many bytes the registry has."""
        response = self._registry.send("GET", self._location, self._scopes)
        if response.status not in (202, 204):
            raise _ForgottenError(f"asked for the upload's state, the registry responded {response.status}")
        if "Location" in response.headers:
            self._location = self._registry.location(response)
        return _held(response, 0)

    def _finish(self, data: bytes | _Chunk | _Body, *, start: int | None = None, whole: bool = False) -> None:
        joiner = "&" if "?" in self._location else "?"
        url = f"{self._location}{joiner}digest={self._blob.digest}"
        headers = {"Content-Type": _OCTETS}
        if start is not None:
            headers["Content-Range"] = f"{start}-{start + len(data) - 1}"
        response = self._try("PUT", url, data, headers)
        if response is not None and response.status in (201, 204):
            self._registry.same_digest(response, self._blob.digest)
            return
        if whole and response is not None and response.status in _NOT_WHOLE:
            raise _NoWholeError
        # The challenge was followed; a body that has passed is not sent again.
        self._judge(response, (400, 401, 416) if whole else (400, 416))
        raise _ForgottenError(
            "the last request got no response"
            if response is None
            else f"it responded {response.status}: {error_text(response)}"
        )

    def _try(self, method: str, url: str, data: bytes | _Chunk | _Body, headers: dict[str, str]) -> Response | None:
        """One request whose repetition is not harmless; None when no response came."""
        try:
            return self._registry.send(method, url, self._scopes, data=data, headers=headers)
        except UnreachableError:
            return None

    def _judge(self, response: Response | None, mendable: tuple[int, ...]) -> None:
        """Raise for a response that no repetition changes."""
        if response is None or passes(response) or response.status in mendable:
            return
        if response.status == 404:
            raise _ForgottenError("the registry does not know the upload any more")
        self._registry.expect(response, (), f"{self._registry.name}/{self._repository}")


class _Chunk:
    """A part of the buffer as the body of a request, without a copy."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        yield self._data


class _Body:
    """A blob as the body of one request: its length is known, and its bytes pass through, once."""

    once = True

    def __init__(self, first: bytes, rest: Iterator[bytes], size: int, advance: Callable[[int], None]) -> None:
        self._first, self._rest, self._size, self._advance = first, rest, size, advance

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
            self._advance(len(self._first))
        passed = len(self._first)
        for piece in self._rest:
            yield piece
            passed += len(piece)
            self._advance(len(piece))
        if passed != self._size:
            raise UnreachableError("the blob is truncated at its source", hint="try again")


def _held(response: Response, default: int) -> int:
    """Bytes that the registry has, from `Range: 0-LAST`; registries write `0-0` for none."""
    first, _, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if first != "0" or not last.isdigit():
        return default
    return int(last) + 1 if int(last) else 0


def _from(pieces: Iterator[bytes], start: int) -> Iterator[bytes]:
    """The bytes from `start` on."""
    for piece in pieces:
        if start < len(piece):
            yield piece[start:] if start else piece
        start = max(0, start - len(piece))


def _chunks(pieces: Iterator[bytes], size: int) -> Iterator[memoryview]:
    """The bytes in chunks of `size`. One buffer is filled and sent again and again; nothing is copied out of it."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    filled = 0
    for piece in pieces:
        taken = 0
        while taken < len(piece):
            count = min(size - filled, len(piece) - taken)
            view[filled : filled + count] = memoryview(piece)[taken : taken + count]
            filled, taken = filled + count, taken + count
            if filled == size:
                yield view
                filled = 0
    if filled:
        yield view[:filled]
