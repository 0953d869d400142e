"""A thin OCI registry client: what reading a base and publishing an image need, and nothing else.

Source: OCI distribution spec 1.1. Limits, attempts and redirects are those of `builder.net.client`; every byte that comes back
is checked by digest, and a download that breaks goes on where it broke. Blobs go up by `builder.oci.registry.upload`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from builder.documents.reference import is_digest
from builder.net.client import (
    Client,
    NoResponseError,
    Response,
    Rules,
    error_text,
    no_downgrade,
    passes,
    retry_after,
)
from builder.oci.registry.auth import Authenticator
from builder.oci.registry.endpoint import endpoint
from builder.oci.registry.foreign import has_stored, is_manifest, is_page, media_type, not_a_registry, see, shown
from builder.oci.types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError

ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
PARALLEL: Final = 8
STREAMS: Final = 4
"""Large blobs that are sent at once. Where a registry takes them in chunks only, each holds one in memory."""
_MANIFEST_LIMIT = 8 << 20
# A registry that does not mount (or does not let this user mount) means: upload. Seen: 400 (Quay, older), 403 and 401
# (scopes that the token server does not give), 404 (ECR, an unknown source), 405 (proxies).
_NOT_MOUNTED = (202, 400, 401, 403, 404, 405)
# A manifest that a registry refuses for what it is, and not for who sends it.
_UNSUPPORTED = (400, 404, 406, 415, 422)


class UnsupportedManifestError(UnreachableError):
    """A registry does not accept a manifest of this kind."""


class Registry:
    """One registry. Connections and tokens are kept for the life of the object, and threads may share it."""

    def __init__(self, name: str, *, context: Context | None = None) -> None:
        self.name = name
        self.context = context or Context()
        self.chunk: int | None = None
        """How large the chunks of an upload may be, 0 for none at all; None until the registry has refused one."""
        self._endpoint = endpoint(name)
        hint = "check the network; BUILDER_REGISTRY_MIRRORS names a mirror, BUILDER_HTTP_TIMEOUT the limit in seconds"
        self._client = Client(self.context.limits, Rules(follows=no_downgrade, hint=hint), parallel=PARALLEL + STREAMS)
        self._authenticator = Authenticator(name, self._endpoint, self._client, self.context)

    # --- reading ----------------------------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str, str]:
        """A manifest's bytes, media type and digest, by tag or digest. Raises `UnreachableError` when it does not exist."""
        found = self._manifest(repository, reference)
        if isinstance(found, Response):
            raise self._missing(f"{self.name}/{repository}:{reference}", found)
        return found

    def find_manifest(self, repository: str, reference: str) -> tuple[bytes, str, str] | None:
        """Like `manifest`, but None when there is none."""
        found = self._manifest(repository, reference)
        return None if isinstance(found, Response) else found

    def _manifest(self, repository: str, reference: str) -> tuple[bytes, str, str] | Response:
        """A manifest, or the response that says that there is none."""
        what = f"{self.name}/{repository}:{reference}"
        limits = self.context.limits
        for attempt in range(1, limits.attempts + 1):
            response = self.request(
                "GET", repository, f"manifests/{reference}", headers={"Accept": ACCEPT}, size=_MANIFEST_LIMIT
            )
            if response.status == 404:
                return response
            self.expect(response, (200,), what)
            data = response.body
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if digest != reference and not is_manifest(response):
                # A proxy may have responded in the registry's place, but hardly twice.
                if attempt >= min(2, limits.attempts):
                    raise not_a_registry(self.name, self._endpoint.base, response)
                limits.clock.sleep(limits.pause(attempt))
                continue
            if response.headers.get("Docker-Content-Digest", digest) == digest:
                break
            # Truncated, or changed on its way.
            self._again(attempt, f"the manifest {what} is not the one that the response's header names")
        if is_digest(reference) and digest != reference:
            raise MismatchError(
                f"{self.name} gave another manifest than the one that was asked for",
                details=[("wanted", reference), ("found", digest)],
                hint="the registry or a proxy changes content; use another mirror",
            )
        return data, media_type(response), digest

    def has_manifest(self, repository: str, reference: str) -> str | None:
        """The digest of a tag, or None when there is no such tag."""
        response = self.request("HEAD", repository, f"manifests/{reference}", headers={"Accept": ACCEPT})
        if response.status == 404:
            return None
        digest = response.headers.get("Docker-Content-Digest", "")
        if response.status == 200 and is_digest(digest):
            return digest
        if response.status not in (200, 405, 501):
            self.expect(response, (200,), f"{self.name}/{repository}:{reference}")
        found = self.find_manifest(repository, reference)
        return found[2] if found is not None else None

    def referrers(self, repository: str, digest: str) -> list[dict[str, Any]] | None:
        """What refers to a manifest, as the referrers API lists it; None when the registry does not have that API."""
        response = self.request(
            "GET", repository, f"referrers/{digest}", headers={"Accept": OCI_INDEX}, size=_MANIFEST_LIMIT
        )
        if response.status in (400, 404, 405, 406, 501):
            return None
        self.expect(response, (200,), f"the referrers of {digest}")
        try:
            manifests = response.json()["manifests"]
        except (ValueError, KeyError, TypeError):
            return None
        return [each for each in manifests if isinstance(each, dict)] if isinstance(manifests, list) else None

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether a repository has a blob. A registry that refuses HEAD is asked for its first byte."""
        path = f"blobs/{digest}"
        response = self.request("HEAD", repository, path, action="pull,push")
        if response.status in (405, 501):
            with self._stream(repository, path, {"Range": "bytes=0-0"}, 1, action="pull,push") as stream:
                response = stream
        if response.status in (404, 416):
            return response.status == 416
        self.expect(response, (200, 206), f"blob {digest}")
        if is_page(response):
            raise not_a_registry(self.name, self._endpoint.base, response)
        return True

    @contextmanager
    def blob(self, repository: str, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        """A blob's bytes as they are stored, in chunks; its digest is checked when the last one is taken."""
        chunks = self._chunks(repository, descriptor)
        try:
            yield chunks
        finally:
            chunks.close()

    def read_blob(self, repository: str, descriptor: Descriptor, *, limit: int = _MANIFEST_LIMIT) -> bytes:
        """A small blob (a config, a piece of evidence), checked; `limit` in bytes."""
        if descriptor.size > limit:
            raise InputError(f"blob {descriptor.digest} is larger than {limit >> 20} MiB")
        with self.blob(repository, descriptor) as chunks:
            return b"".join(chunks)

    def _chunks(self, repository: str, descriptor: Descriptor) -> Any:
        digest = hashlib.sha256()
        received = failures = 0
        what = f"blob {descriptor.digest}"
        while True:
            headers = {"Range": f"bytes={received}-"} if received else {}
            with self._stream(repository, f"blobs/{descriptor.digest}", headers, descriptor.size) as response:
                self.expect(response, (200, 206), what)
                skip = self._offset(response, received)
                try:
                    for each in response.chunks:
                        chunk, skip = each[skip:] if skip else each, max(0, skip - len(each))
                        if not chunk:
                            continue
                        received += len(chunk)
                        if received > descriptor.size:
                            raise UnreachableError(f"{self.name} sent more than {what} has", hint="try again")
                        digest.update(chunk)
                        failures = 0
                        yield chunk
                    problem = f"{what} is truncated"
                except NoResponseError as error:
                    if error.late:
                        raise
                    problem = error.message
            if received == descriptor.size:
                break
            failures += 1
            self._again(failures, problem)
        if f"sha256:{digest.hexdigest()}" != descriptor.digest:
            raise UnreachableError(
                f"{self.name} gave a blob with other content",
                details=[("wanted", descriptor.digest), ("found", f"sha256:{digest.hexdigest()}")],
                hint="try again; a proxy may have changed it",
            )

    def _offset(self, response: Response, received: int) -> int:
        """How many bytes of the response are known already."""
        if response.status == 200:
            return received
        if not response.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
            raise UnreachableError(f"{self.name} sent another range than was asked for", hint="try again")
        return 0

    # --- writing ----------------------------------------------------------------------------------------------------

    def mount(self, repository: str, digest: str, source: str) -> str | None:
        """Mount a blob from another repository of this registry, or from `repository` itself, if it may be there already.

        None when it is mounted, else where to upload it: an upload that the registry has opened instead, or '' when it
        refused the mount.
        """
        path = f"blobs/uploads/?mount={digest}&from={quote(source, safe='/')}"
        also = source if source != repository else None
        response = self.request("POST", repository, path, action="pull,push", also=also, repeat=True)
        if response.status == 201:
            return None
        self.expect(response, _NOT_MOUNTED, f"{self.name}/{repository}")
        return self.location(response) if response.status == 202 else ""

    def cancel_upload(self, repository: str, location: str) -> None:
        """Give an upload up, so that the registry need not keep it. A registry that cannot do that is left alone."""
        try:
            self.send("DELETE", location, self.push_scopes(repository))
        except UnreachableError:
            return

    def put_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str, *, patient: bool = True
    ) -> bool:
        """Store a manifest under a tag or its digest; whether the registry lists its subject (referrers API).

        What a manifest names may have been stored a moment ago: unless `patient` is False, a registry that does not know
        it is asked again. Raises `UnsupportedManifestError` when the registry does not accept manifests like this one.
        """
        limits = self.context.limits
        for attempt in range(1, limits.attempts + 1):
            response = self.request(
                "PUT",
                repository,
                f"manifests/{quote(reference, safe=':')}",
                action="pull,push",
                data=data,
                headers={"Content-Type": media_type},
                repeat=True,
            )
            # A registry may not see at once what another request has just stored.
            unseen = response.status in (400, 404) and "_UNKNOWN" in error_text(response)
            if not unseen or not patient or "NAME_UNKNOWN" in error_text(response) or attempt == limits.attempts:
                break
            limits.clock.sleep(limits.pause(attempt))
        what = f"{self.name}/{repository}:{reference}"
        if response.status in _UNSUPPORTED and not (patient and "_UNKNOWN" in error_text(response)):
            raise UnsupportedManifestError(
                f"{self.name} does not accept this manifest ({response.status})",
                details=[("where", what), ("message", error_text(response))],
                hint="check what kinds of manifests the registry supports",
            )
        self.expect(response, (200, 201, 202), what)
        if not has_stored(response):
            raise not_a_registry(self.name, self._endpoint.base, response)
        self.same_digest(response, f"sha256:{hashlib.sha256(data).hexdigest()}")
        return "OCI-Subject" in response.headers

    def same_digest(self, response: Response, digest: str) -> None:
        """Raise `UnreachableError` when a registry reports that it stored something else."""
        stored = response.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise UnreachableError(
                f"{self.name} stored other content than was sent",
                details=[("wanted", digest), ("found", stored[:100])],
                hint="try again; a proxy may have changed it",
            )

    def location(self, response: Response) -> str:
        """Where an upload goes on. On the registry's own host, TLS is kept.

        Registries behind a proxy that ends TLS often name themselves `http://` (distribution's `X-Forwarded-Proto` notes).
        """
        location = response.headers.get("Location")
        if not location:
            raise UnreachableError(
                f"{self.name} opened an upload without saying where", hint="the registry does not follow the OCI spec"
            )
        url = urljoin(response.url, location)
        before, after = urlsplit(response.url), urlsplit(url)
        if before.scheme == "https" and after.scheme == "http" and before.hostname == after.hostname:
            return after._replace(scheme="https", netloc=before.netloc).geturl()
        return url

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
        size: int | None = None,
        repeat: bool = False,
    ) -> Response:
        """A request below a repository. `action` and `also` (another repository, for pulling) say what it needs; `repeat`
        that another attempt does no harm."""
        url, scopes = self._target(repository, path, action, also)
        attempts = self.context.limits.attempts if repeat else None
        return self.send(method, url, scopes, headers=headers, data=data, size=size, attempts=attempts)

    def push_scopes(self, repository: str) -> list[str]:
        """What an upload needs, for `send`."""
        return self._target(repository, "", "pull,push", None)[1]

    def send(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        size: int | None = None,
        attempts: int | None = None,
    ) -> Response:
        """One request, with authentication. A challenge is followed once; a body that can be read `once` is not sent again then.

        Raises `UnreachableError` without a response; any response is the caller's to judge.
        """
        for last in (False, True):
            sent = self._authenticator.authorization(scopes, url)
            response = self._client.send(
                method, url, headers=_identity(headers), data=data, size=size, attempts=attempts,
                rules=self._rules(scopes),
            )  # fmt: skip
            if response.status != 401 or last:
                break
            self._authenticator.challenged(response, scopes, sent)
            if getattr(data, "once", False):
                break
        return response

    @contextmanager
    def _stream(
        self, repository: str, path: str, headers: Mapping[str, str], size: int, *, action: str = "pull"
    ) -> Iterator[Any]:
        url, scopes = self._target(repository, path, action, None)
        sent = self._authenticator.authorization(scopes, url)
        with self._client.stream(url, headers=_identity(headers), size=size, rules=self._rules(scopes)) as stream:
            if stream.status != 401:
                yield stream
                return
            self._authenticator.challenged(stream, scopes, sent)
        with self._client.stream(url, headers=_identity(headers), size=size, rules=self._rules(scopes)) as stream:
            yield stream

    def _target(self, repository: str, path: str, action: str, also: str | None) -> tuple[str, list[str]]:
        prefix = self._endpoint.prefix
        scopes = [f"repository:{prefix}{repository}:{action}"]
        if also is not None:
            scopes.append(f"repository:{prefix}{also}:pull")
        return f"{self._endpoint.base}/v2/{prefix}{repository}/{path}", scopes

    def _rules(self, scopes: Sequence[str]) -> Rules:
        return Rules(
            authorization=lambda url: self._authenticator.authorization(scopes, url),
            follows=no_downgrade,
            passing=passes,
            asked_wait=retry_after,
            hint=self._client.rules.hint,
        )

    # --- errors -----------------------------------------------------------------------------------------------------

    def expect(self, response: Response, statuses: tuple[int, ...], what: str) -> None:
        """Raise `UnreachableError` unless the response has one of `statuses`."""
        status = response.status
        if status in statuses:
            return
        if status in (401, 403) and self._endpoint.is_home(response.url):
            raise self._authenticator.denied(status, what)
        if status == 404:
            raise self._missing(what, response)
        if status < 400:
            raise not_a_registry(self.name, self._endpoint.base, response)
        host = urlsplit(response.url).hostname
        elsewhere = "" if self._endpoint.is_home(response.url) else f" (from {host}, where it led to)"
        raise UnreachableError(
            f"{self.name} responded {status} for {what}{elsewhere}",
            details=[("message", error_text(response))],
            hint="wait and try again" if passes(response) else "check the name and your rights",
        )

    def _missing(self, what: str, response: Response) -> UnreachableError:
        hint = "check the name; a tag may have been deleted, and some registries say this when a login is missing"
        page = is_page(response)
        return UnreachableError(
            f"{what} does not exist",
            details=[("registry", self._endpoint.base), *([("response", shown(response))] if page else [])],
            hint=f"check the host and its port: a registry sends no web page; {see(self._endpoint.base)}"
            if page
            else hint,
        )

    def _again(self, attempt: int, problem: str) -> None:
        """Wait before another attempt. Raises `UnreachableError` after the last one."""
        limits = self.context.limits
        if attempt >= limits.attempts:
            raise UnreachableError(
                f"{self.name} does not respond properly: {problem}", details=[("where", self._endpoint.base)],
                hint=self._client.rules.hint,
            )  # fmt: skip
        limits.clock.sleep(limits.pause(attempt))


def _identity(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Content is checked as it is stored: no transport may compress it."""
    return {**(headers or {}), "Accept-Encoding": "identity"}
