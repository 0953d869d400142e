"""A thin OCI registry client on requests: what reading a base and publishing an image need, and nothing else.

Source: OCI distribution spec 1.1. Every wait has a limit, every byte that comes back is checked by digest, what can be
repeated is repeated, and a download that breaks goes on where it broke. Blobs go up by `builder.oci.registry.upload`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urljoin

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from builder import __version__
from builder.documents.reference import is_digest
from builder.oci.registry.auth import Authenticator, SameHost
from builder.oci.registry.endpoint import endpoint, timeout
from builder.oci.types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from builder.util.errors import InputError, MismatchError, UnreachableError

ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
TRIES: Final = 4
PARALLEL: Final = 8
_MANIFEST_LIMIT = 8 << 20
_PIECE = 1 << 18
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Registry:
    """One registry. Connections and tokens are kept for the life of the object, and threads may share it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._endpoint = endpoint(name)
        self._authenticator = Authenticator(name)
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"overlay-image-builder/{__version__}"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=PARALLEL))

    # --- reading ----------------------------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str, str]:
        """A manifest's bytes, media type and digest, by tag or digest. Raises `UnreachableError` when it is not there."""
        found = self.find_manifest(repository, reference)
        if found is None:
            raise self._missing(f"{self.name}/{repository}:{reference}")
        return found

    def find_manifest(self, repository: str, reference: str) -> tuple[bytes, str, str] | None:
        """Like `manifest`, but None when there is none."""
        for attempt in range(TRIES):
            answer = self.request("GET", repository, f"manifests/{reference}", headers={"Accept": ACCEPT}, stream=True)
            with answer:
                if answer.status_code == 404:
                    return None
                self.expect(answer, (200,), f"{self.name}/{repository}:{reference}")
                try:
                    data = answer.raw.read(_MANIFEST_LIMIT + 1, decode_content=True)
                except _BROKEN as error:
                    self._again(attempt, error)
                    continue
            promised = answer.headers.get("Docker-Content-Digest") or f"sha256:{hashlib.sha256(data).hexdigest()}"
            if len(data) > _MANIFEST_LIMIT or promised == f"sha256:{hashlib.sha256(data).hexdigest()}":
                break
            # Cut, or changed on its way.
            self._again(attempt, EOFError("the manifest is not the one that the answer's header names"))
        if len(data) > _MANIFEST_LIMIT:
            raise InputError(f"the manifest of {repository}:{reference} is larger than {_MANIFEST_LIMIT >> 20} MiB")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if is_digest(reference) and digest != reference:
            raise MismatchError(
                f"{self.name} gave another manifest than the one that was asked for",
                details=[("wanted", reference), ("found", digest)],
                hint="the registry or a proxy changes content; use another mirror",
            )
        return data, answer.headers.get("Content-Type", "").split(";")[0].strip(), digest

    def has_manifest(self, repository: str, reference: str) -> str | None:
        """The digest of a tag, or None when there is no such tag."""
        answer = self.request("HEAD", repository, f"manifests/{reference}", headers={"Accept": ACCEPT})
        if answer.status_code == 404:
            return None
        self.expect(answer, (200,), f"{self.name}/{repository}:{reference}")
        digest = answer.headers.get("Docker-Content-Digest", "")
        return digest if is_digest(digest) else self.manifest(repository, reference)[2]

    def referrers(self, repository: str, digest: str) -> list[dict[str, Any]] | None:
        """What refers to a manifest, as the referrers API lists it; None when the registry does not have that API."""
        answer = self.request("GET", repository, f"referrers/{digest}", headers={"Accept": OCI_INDEX})
        if answer.status_code in (400, 404, 405, 501):
            return None
        self.expect(answer, (200,), f"the referrers of {digest}")
        try:
            manifests = answer.json()["manifests"]
        except (ValueError, KeyError, TypeError, requests.RequestException):
            return None
        return [each for each in manifests if isinstance(each, dict)] if isinstance(manifests, list) else None

    def has_blob(self, repository: str, digest: str) -> bool:
        answer = self.request("HEAD", repository, f"blobs/{digest}", action="pull,push")
        if answer.status_code == 404:
            return False
        self.expect(answer, (200,), f"blob {digest}")
        return True

    @contextmanager
    def blob(self, repository: str, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        """A blob's bytes as they are stored, in pieces; its digest is checked when the last one is taken."""
        pieces = self._pieces(repository, descriptor)
        try:
            yield pieces
        finally:
            pieces.close()

    def read_blob(self, repository: str, descriptor: Descriptor, *, limit: int = _MANIFEST_LIMIT) -> bytes:
        """A small blob (a config, a piece of evidence), checked; `limit` in bytes."""
        if descriptor.size > limit:
            raise InputError(f"blob {descriptor.digest} is larger than {limit >> 20} MiB")
        with self.blob(repository, descriptor) as pieces:
            return b"".join(pieces)

    def _pieces(self, repository: str, descriptor: Descriptor) -> Any:
        digest = hashlib.sha256()
        received = failures = 0
        while True:
            headers = {"Range": f"bytes={received}-"} if received else {}
            answer = self.request("GET", repository, f"blobs/{descriptor.digest}", headers=headers, stream=True)
            with answer:
                self.expect(answer, (200, 206), f"blob {descriptor.digest}")
                skip = self._offset(answer, received)
                try:
                    for piece in answer.raw.stream(_PIECE, decode_content=False):
                        piece, skip = piece[skip:], max(0, skip - len(piece))  # noqa: PLW2901
                        if not piece:
                            continue
                        received += len(piece)
                        if received > descriptor.size:
                            raise UnreachableError(
                                f"{self.name} sent more than blob {descriptor.digest} has", hint="try again"
                            )
                        digest.update(piece)
                        failures = 0
                        yield piece
                    problem: Exception = EOFError("the answer was cut")
                except _BROKEN as error:
                    problem = error
            if received == descriptor.size:
                break
            self._again(failures, problem)
            failures += 1
        if f"sha256:{digest.hexdigest()}" != descriptor.digest:
            raise UnreachableError(
                f"{self.name} gave a blob with other content",
                details=[("wanted", descriptor.digest), ("found", f"sha256:{digest.hexdigest()}")],
                hint="try again; a proxy may have changed it",
            )

    def _offset(self, answer: requests.Response, received: int) -> int:
        """How many bytes of the answer are known already."""
        if answer.status_code == 200:
            return received
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
            raise UnreachableError(f"{self.name} sent another range than was asked for", hint="try again")
        return 0

    # --- writing ----------------------------------------------------------------------------------------------------

    def mount(self, repository: str, digest: str, source: str) -> str | None:
        """Mount a blob from another repository of this registry. None when it was, else the upload that was opened instead."""
        path = f"blobs/uploads/?mount={digest}&from={quote(source, safe='/')}"
        answer = self.request("POST", repository, path, action="pull,push", also=source, repeat=True)
        self.expect(answer, (201, 202), f"{self.name}/{repository}")
        return None if answer.status_code == 201 else self.location(answer)

    def cancel_upload(self, repository: str, location: str) -> None:
        """Give an upload up, so that the registry need not keep it. Whether that works matters to nobody."""
        try:
            self.send("DELETE", location, self.push_scopes(repository))
        except UnreachableError:
            return

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> bool:
        """Store a manifest under a tag or its digest; whether the registry took note of its subject (referrers API)."""
        for attempt in range(TRIES):
            answer = self.request(
                "PUT",
                repository,
                f"manifests/{quote(reference, safe=':')}",
                action="pull,push",
                data=data,
                headers={"Content-Type": media_type},
                repeat=True,
            )
            # A registry may not see at once what another request has just stored.
            if answer.status_code not in (400, 404) or "BLOB_UNKNOWN" not in _said(answer) or attempt + 1 == TRIES:
                break
            time.sleep(backoff(attempt))
        self.expect(answer, (201,), f"{self.name}/{repository}:{reference}")
        self.same_digest(answer, f"sha256:{hashlib.sha256(data).hexdigest()}")
        return "OCI-Subject" in answer.headers

    def same_digest(self, answer: requests.Response, digest: str) -> None:
        """Raise `UnreachableError` when a registry says that it stored something else."""
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise UnreachableError(
                f"{self.name} stored other content than was sent",
                details=[("wanted", digest), ("found", stored[:100])],
                hint="try again; a proxy may have changed it",
            )

    def location(self, answer: requests.Response) -> str:
        """Where an upload goes on."""
        location = answer.headers.get("Location")
        if not location:
            raise UnreachableError(
                f"{self.name} opened an upload without saying where", hint="the registry does not follow the OCI spec"
            )
        return urljoin(answer.url, location)

    # --- requests ---------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        repository: str,
        path: str,
        *,
        action: str = "pull",
        also: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        stream: bool = False,
        repeat: bool = False,
    ) -> requests.Response:
        """A request below a repository. `action` and `also` (another repository, for pulling) say what it needs."""
        url = f"{self._endpoint.base}/v2/{self._endpoint.prefix}{repository}/{path}"
        scopes = [f"repository:{self._endpoint.prefix}{repository}:{action}"]
        if also is not None:
            scopes.append(f"repository:{self._endpoint.prefix}{also}:pull")
        repeat = repeat or method in ("GET", "HEAD")
        return self.send(method, url, scopes, headers=headers, data=data, stream=stream, tries=TRIES if repeat else 1)

    def push_scopes(self, repository: str) -> list[str]:
        """What an upload needs, for `send`."""
        return [f"repository:{self._endpoint.prefix}{repository}:pull,push"]

    def send(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        stream: bool = False,
        tries: int = 1,
    ) -> requests.Response:
        """One request, with authentication, and repeated up to `tries` times when that may help.

        Raises `UnreachableError` when the last try gets no answer; any answer is the caller's to judge.
        """
        challenged = False
        attempt = 0
        while True:
            authorization = self._authenticator.authorization(scopes)
            try:
                answer = self._session.request(
                    method, url, data=data, stream=stream, timeout=timeout(), allow_redirects=method in ("GET", "HEAD"),
                    headers={**(headers or {}), "Accept-Encoding": "identity"}, auth=SameHost(authorization, url),
                )  # fmt: skip
            except _BROKEN as error:
                if attempt + 1 >= tries:
                    raise self.broken(error) from error
                time.sleep(backoff(attempt))
                attempt += 1
                continue
            if answer.status_code == 401 and not challenged:
                challenged = True
                answer.close()
                self._authenticator.challenged(answer, scopes, authorization)
                continue
            if passes_by_itself(answer.status_code) and attempt + 1 < tries:
                answer.close()
                time.sleep(backoff(attempt, answer))
                attempt += 1
                continue
            return answer

    # --- errors -----------------------------------------------------------------------------------------------------

    def expect(self, answer: requests.Response, codes: tuple[int, ...], what: str) -> None:
        """Raise `UnreachableError` unless the answer has one of `codes`."""
        status = answer.status_code
        if status in codes:
            return
        if status in (401, 403):
            raise self._authenticator.denied(status, what)
        if status == 404:
            raise self._missing(what)
        raise UnreachableError(
            f"{self.name} answered {status} for {what}",
            details=[("said", _said(answer))],
            hint="wait and try again" if passes_by_itself(status) else "check the name and your rights",
        )

    def _missing(self, what: str) -> UnreachableError:
        return UnreachableError(
            f"{what} is not there", details=[("registry", self._endpoint.base)],
            hint="check the name; a tag may have been deleted, and some registries say this when a login is missing",
        )  # fmt: skip

    def broken(self, error: Exception) -> UnreachableError:
        """The error for a connection that does not hold."""
        return UnreachableError(
            f"{self.name} does not answer: {type(error).__name__}",
            details=[("where", self._endpoint.base)],
            hint="check the network; BUILDER_REGISTRY_MIRRORS names a mirror, BUILDER_HTTP_TIMEOUT the limit in seconds",
        )

    def _again(self, attempt: int, error: Exception) -> None:
        if attempt + 1 >= TRIES:
            raise self.broken(error) from error
        time.sleep(backoff(attempt))


def passes_by_itself(status: int) -> bool:
    """Whether a later try may get another answer."""
    return status == 429 or status >= 500


def backoff(attempt: int, answer: requests.Response | None = None) -> float:
    """Seconds to wait before the next try: what the registry asks for, within reason."""
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    return min(float(asked), 30.0) if asked.isdigit() else 0.2 * 2.0**attempt


def _said(answer: requests.Response) -> str:
    try:
        document: Any = answer.json()
        return "; ".join(f"{each.get('code')}: {each.get('message')}" for each in document["errors"])[:300]
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):
        return answer.reason or "nothing"
