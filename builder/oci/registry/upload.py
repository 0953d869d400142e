"""Sending a blob to a registry: in one request when it is small, in chunks that survive a dropped connection when not.

Source: OCI distribution spec 1.1, "Pushing blobs". A chunk whose answer was lost is asked for (`GET` on the upload) and
sent again from where the registry stands; an upload that the registry has forgotten is begun again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

from builder.oci.registry.client import TRIES, Registry, backoff, passes_by_itself
from builder.oci.types import BlobSource, Descriptor
from builder.util.errors import UnreachableError

CHUNK = 4 << 20
_ROUNDS = 3


class _ForgottenError(Exception):
    """The registry does not know the upload any more, or stands where this end cannot follow."""


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

    Raises `UnreachableError` when it cannot be sent; the opened upload is then given up.
    """
    for attempt in range(_ROUNDS):
        if location is None:
            answer = registry.request("POST", repository, "blobs/uploads/", action="pull,push", repeat=True)
            registry.expect(answer, (202,), f"{registry.name}/{repository}")
            location = registry.location(answer)
        sending = _Upload(registry, repository, blob, location)
        try:
            with source(blob) as pieces:
                sending.send(pieces, advance)
        except _ForgottenError as error:
            sending.cancel()
            location = None
            if registry.has_blob(repository, blob.digest):
                return
            if attempt + 1 == _ROUNDS:
                raise UnreachableError(
                    f"{registry.name} does not take blob {blob.digest}",
                    details=[("why", str(error))],
                    hint="try again later; what is there already is not sent twice",
                ) from error
            time.sleep(backoff(attempt))
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


class _Upload:
    """One opened upload."""

    def __init__(self, registry: Registry, repository: str, blob: Descriptor, location: str) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._location = location
        self._scopes = registry.push_scopes(repository)

    def send(self, pieces: Iterator[bytes], advance: Callable[[int], None]) -> None:
        if self._blob.size <= CHUNK:
            self._finish(b"".join(pieces))
            advance(self._blob.size)
            return
        sent = 0
        for chunk in _chunks(pieces):
            self._patch(chunk, sent)
            sent += len(chunk)
            advance(len(chunk))
        self._finish(b"")

    def cancel(self) -> None:
        self._registry.cancel_upload(self._repository, self._location)

    def _patch(self, chunk: bytes, start: int) -> None:
        """Send a chunk that begins at byte `start` of the blob."""
        done = 0
        for attempt in range(TRIES):
            first, last = start + done, start + len(chunk) - 1
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{first}-{last}"}
            answer = self._try("PATCH", self._location, chunk[done:], headers)
            if answer is not None and answer.status_code == 202:
                self._location = self._registry.location(answer)
                stands = _stands_at(answer, start + len(chunk))
                if stands == start + len(chunk):
                    return
            else:
                self._judge(answer, (416,))
                time.sleep(backoff(attempt, answer))
                stands = self._ask()
            done = stands - start
            if not 0 <= done <= len(chunk):
                raise _ForgottenError(f"the registry stands at byte {stands}, not at {start}")
            if done == len(chunk):
                return
        raise _ForgottenError(f"a chunk at byte {start} does not get through")

    def _ask(self) -> int:
        """How many bytes the registry has."""
        answer = self._registry.send("GET", self._location, self._scopes, tries=TRIES)
        if answer.status_code != 204:
            raise _ForgottenError(f"asked for the upload's state, the registry answered {answer.status_code}")
        if "Location" in answer.headers:
            self._location = self._registry.location(answer)
        return _stands_at(answer, 0)

    def _finish(self, data: bytes) -> None:
        joiner = "&" if "?" in self._location else "?"
        url = f"{self._location}{joiner}digest={self._blob.digest}"
        answer = self._try("PUT", url, data, {"Content-Type": "application/octet-stream"})
        if answer is not None and answer.status_code == 201:
            self._registry.same_digest(answer, self._blob.digest)
            return
        self._judge(answer, (400, 416))
        raise _ForgottenError(
            "the last request had no answer" if answer is None else f"it answered {answer.status_code}"
        )

    def _try(self, method: str, url: str, data: bytes, headers: dict[str, str]) -> requests.Response | None:
        """One request whose repetition is not harmless; None when no answer came."""
        try:
            return self._registry.send(method, url, self._scopes, data=data, headers=headers)
        except UnreachableError:
            return None

    def _judge(self, answer: requests.Response | None, mendable: tuple[int, ...]) -> None:
        """Raise for an answer that no repetition mends."""
        if answer is None or passes_by_itself(answer.status_code) or answer.status_code in mendable:
            return
        if answer.status_code == 404:
            raise _ForgottenError("the upload is not known any more")
        self._registry.expect(answer, (), f"{self._registry.name}/{self._repository}")


def _stands_at(answer: requests.Response, default: int) -> int:
    """Bytes that the registry has, from `Range: 0-LAST`; `0-0` stands for none, as registries write it."""
    first, _, last = answer.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if first != "0" or not last.isdigit():
        return default
    return int(last) + 1 if int(last) else 0


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)
