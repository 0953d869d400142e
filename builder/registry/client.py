"""A thin OCI registry client on requests: what reading a base and publishing an image need, and nothing else.

Source: OCI distribution spec 1.1 and Docker's token authentication. Every wait has a limit, every byte that comes back
is checked by digest, and no token is sent to another host or printed.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import HTTPBasicAuth

from builder import __version__
from builder.errors import InputError, MismatchError, UnreachableError
from builder.oci import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, is_digest
from builder.registry.credentials import Credentials, find_credentials

ACCEPT = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
_MANIFEST_LIMIT = 8 << 20
_TRIES = 4
_PIECE = 1 << 18
_CHUNK = 16 << 20


def timeout() -> tuple[float, float]:
    """Limits for connecting and for each wait for bytes, in seconds; `BUILDER_HTTP_TIMEOUT` sets the second."""
    return 15.0, float(os.environ.get("BUILDER_HTTP_TIMEOUT") or 60)


@dataclass(frozen=True)
class Endpoint:
    """Where a registry is reached: base address, and the path that a mirror puts before repositories."""

    base: str
    prefix: str = ""


def endpoint(registry: str) -> Endpoint:
    """The address of a registry, with `BUILDER_REGISTRY_MIRRORS` (`docker.io=https://mirror.example/prefix,…`) applied.

    Plain HTTP is used for loopback, and for hosts in `BUILDER_INSECURE_REGISTRIES` (comma-separated).
    """
    for pair in filter(None, os.environ.get("BUILDER_REGISTRY_MIRRORS", "").split(",")):
        name, _, address = pair.partition("=")
        if name.strip() == registry and address:
            parts = urlsplit(address.strip())
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise InputError(
                    f"BUILDER_REGISTRY_MIRRORS: {address!r} is not an address",
                    hint="write docker.io=https://mirror.example",
                )
            prefix = parts.path.strip("/")
            return Endpoint(f"{parts.scheme}://{parts.netloc}", f"{prefix}/" if prefix else "")
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    insecure = [each.strip() for each in os.environ.get("BUILDER_INSECURE_REGISTRIES", "").split(",")]
    scheme = "http" if registry in insecure or _is_loopback(host) else "https"
    return Endpoint(f"{scheme}://{host}")


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class Registry:
    """One registry. Sessions and tokens are kept for the life of the object."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._endpoint = endpoint(name)
        self._session = requests.Session()
        self._session.trust_env = True
        self._session.headers["User-Agent"] = f"overlay-image-builder/{__version__}"
        self._tokens: dict[str, str] = {}
        self._scheme: str | None = None
        self._challenge: dict[str, str] = {}
        self._credentials: Credentials | None = None
        self._looked_up = False

    # --- reading ----------------------------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str, str]:
        """A manifest's bytes, media type and digest, by tag or digest."""
        answer = self._request("GET", repository, f"manifests/{reference}", headers={"Accept": ACCEPT}, stream=True)
        with answer:
            self._expect(answer, (200,), f"{self.name}/{repository}:{reference}")
            data = answer.raw.read(_MANIFEST_LIMIT + 1, decode_content=True)
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
        answer = self._request("HEAD", repository, f"manifests/{reference}", headers={"Accept": ACCEPT})
        if answer.status_code == 404:
            return None
        self._expect(answer, (200,), f"{self.name}/{repository}:{reference}")
        digest = answer.headers.get("Docker-Content-Digest", "")
        return digest if is_digest(digest) else self.manifest(repository, reference)[2]

    def has_blob(self, repository: str, digest: str) -> bool:
        answer = self._request("HEAD", repository, f"blobs/{digest}", action="pull,push")
        if answer.status_code == 404:
            return False
        self._expect(answer, (200,), f"blob {digest}")
        return True

    @contextmanager
    def blob(self, repository: str, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        """A blob's bytes as they are stored, in pieces. The reader checks the digest at the end."""
        answer = self._request("GET", repository, f"blobs/{descriptor.digest}", stream=True)
        with answer:
            self._expect(answer, (200,), f"blob {descriptor.digest}")
            yield self._pieces(answer, descriptor)

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """A small blob (a config), checked."""
        if descriptor.size > _MANIFEST_LIMIT:
            raise InputError(f"blob {descriptor.digest} is larger than {_MANIFEST_LIMIT >> 20} MiB")
        with self.blob(repository, descriptor) as pieces:
            data = b"".join(pieces)
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != descriptor.digest:
            raise UnreachableError(
                f"{self.name} gave a blob with other content",
                details=[("wanted", descriptor.digest), ("found", found)],
                hint="try again; a proxy may have cut it",
            )
        return data

    def _pieces(self, answer: requests.Response, descriptor: Descriptor) -> Iterator[bytes]:
        left = descriptor.size
        try:
            for piece in answer.raw.stream(_PIECE, decode_content=False):
                left -= len(piece)
                if left < 0:
                    raise UnreachableError(f"{self.name} sent more than blob {descriptor.digest} has", hint="try again")
                yield piece
        except (requests.RequestException, OSError) as error:
            raise self._broken(error) from error
        except Exception as error:
            if type(error).__module__.startswith("urllib3"):
                raise self._broken(error) from error
            raise

    # --- writing ----------------------------------------------------------------------------------------------------

    def mount(self, repository: str, digest: str, source: str) -> str | None:
        """Mount a blob from another repository of this registry. None when it was, else the upload that was opened instead."""
        answer = self._request(
            "POST", repository, f"blobs/uploads/?mount={digest}&from={source}", action="pull,push", also=source
        )
        self._expect(answer, (201, 202), f"{self.name}/{repository}")
        return None if answer.status_code == 201 else self._location(answer)

    def start_upload(self, repository: str) -> str:
        answer = self._request("POST", repository, "blobs/uploads/", action="pull,push")
        self._expect(answer, (202,), f"{self.name}/{repository}")
        return self._location(answer)

    def upload(self, repository: str, digest: str, pieces: Iterator[bytes], *, location: str | None = None) -> None:
        """Send a blob in chunks of 16 MiB; `location` is an upload that was opened already."""
        location = location or self.start_upload(repository)
        sent = 0
        for chunk in _chunks(pieces):
            answer = self._send(
                "PATCH",
                location,
                repository,
                data=chunk,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{sent}-{sent + len(chunk) - 1}",
                },
            )
            self._expect(answer, (202,), f"{self.name}/{repository}")
            location = self._location(answer)
            sent += len(chunk)
        joined = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        answer = self._send("PUT", joined, repository, data=b"")
        self._expect(answer, (201,), f"{self.name}/{repository}")

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest."""
        answer = self._request(
            "PUT",
            repository,
            f"manifests/{reference}",
            action="pull,push",
            data=data,
            headers={"Content-Type": media_type},
        )
        self._expect(answer, (201,), f"{self.name}/{repository}:{reference}")

    def _location(self, answer: requests.Response) -> str:
        location = answer.headers.get("Location")
        if not location:
            raise UnreachableError(
                f"{self.name} opened an upload without saying where", hint="the registry does not follow the OCI spec"
            )
        return urljoin(answer.url, location)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _request(
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
    ) -> requests.Response:
        url = f"{self._endpoint.base}/v2/{self._endpoint.prefix}{repository}/{path}"
        return self._send(method, url, repository, action=action, also=also, headers=headers, data=data, stream=stream)

    def _send(
        self,
        method: str,
        url: str,
        repository: str,
        *,
        action: str = "pull,push",
        also: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """One request with authentication, retries for what passes by itself, and redirects without our secrets."""
        scopes = [f"repository:{self._endpoint.prefix}{repository}:{action}"]
        if also is not None:
            scopes.append(f"repository:{self._endpoint.prefix}{also}:pull")
        key = " ".join(scopes)
        asked_again = False
        repeatable = method in ("GET", "HEAD")
        for attempt in range(_TRIES):
            try:
                answer = self._session.request(
                    method, url, data=data, stream=stream, timeout=timeout(), allow_redirects=repeatable,
                    headers={**(headers or {}), "Accept-Encoding": "identity"}, auth=_Auth(self._authorization(key), url),
                )  # fmt: skip
            except requests.RequestException as error:
                if attempt + 1 == _TRIES or not repeatable:
                    raise self._broken(error) from error
                time.sleep(0.2 * 2**attempt)
                continue
            if answer.status_code == 401 and not asked_again:
                asked_again = True
                answer.close()
                self._authenticate(answer, key, scopes)
                continue
            if (answer.status_code == 429 or answer.status_code >= 500) and repeatable and attempt + 1 < _TRIES:
                wait = _retry_after(answer, 0.2 * 2**attempt)
                answer.close()
                time.sleep(wait)
                continue
            return answer
        return answer

    def _authorization(self, key: str) -> str | None:
        if self._scheme == "basic":
            credentials = self._find_credentials()
            if credentials is not None:
                return _basic(credentials)
        return f"Bearer {self._tokens[key]}" if key in self._tokens else None

    def _find_credentials(self) -> Credentials | None:
        if not self._looked_up:
            self._credentials = find_credentials(self.name)
            self._looked_up = True
        return self._credentials

    def _authenticate(self, answer: requests.Response, key: str, scopes: list[str]) -> None:
        """Follow a 401's challenge: remember basic authentication, or fetch a token for just these scopes."""
        challenge = answer.headers.get("WWW-Authenticate", "")
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            self._scheme = "basic"
            return
        if kind.lower() != "bearer":
            return
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise UnreachableError(f"{self.name} names no token server", details=[("said", challenge[:200])])
        self._tokens[key] = self._fetch_token(realm, fields.get("service"), scopes)

    def _fetch_token(self, realm: str, service: str | None, scopes: list[str]) -> str:
        credentials = self._find_credentials()
        parameters: list[tuple[str, str]] = [("scope", scope) for scope in scopes]
        if service:
            parameters.append(("service", service))
        try:
            if credentials is not None and credentials.identity_token:
                form = [
                    *parameters,
                    ("grant_type", "refresh_token"),
                    ("refresh_token", credentials.secret),
                    ("client_id", "overlay-image-builder"),
                ]
                answer = requests.post(realm, data=form, timeout=timeout())
            else:
                auth = HTTPBasicAuth(credentials.username, credentials.secret) if credentials else None
                answer = requests.get(realm, params=parameters, auth=auth, timeout=timeout())
            document = answer.json() if answer.status_code == 200 else {}
        except (requests.RequestException, ValueError) as error:
            raise self._broken(error, "the token server") from error
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not token:
            raise self._denied(answer.status_code, f"the token server of {self.name}")
        return str(token)

    def _expect(self, answer: requests.Response, codes: tuple[int, ...], what: str) -> None:
        if answer.status_code in codes:
            return
        status = answer.status_code
        if status in (401, 403):
            raise self._denied(status, what)
        if status == 404:
            raise UnreachableError(
                f"{what} is not there", details=[("registry", self._endpoint.base)],
                hint="check the name; a tag may have been deleted, and some registries say this when a login is missing",
            )  # fmt: skip
        raise UnreachableError(
            f"{self.name} answered {status} for {what}",
            details=[("said", _said(answer))],
            hint="wait and try again" if status == 429 or status >= 500 else "check the name and your rights",
        )

    def _denied(self, status: int, what: str) -> UnreachableError:
        known = "with the credentials that are stored" if self._find_credentials() else "without credentials"
        return UnreachableError(
            f"{what} refuses access ({status}), {known}",
            hint=f"log in with `docker login {self.name}`, or check the name",
        )

    def _broken(self, error: Exception, what: str = "") -> UnreachableError:
        return UnreachableError(
            f"{what or self.name} does not answer: {type(error).__name__}",
            details=[("where", self._endpoint.base)],
            hint="check the network; BUILDER_REGISTRY_MIRRORS names a mirror, BUILDER_HTTP_TIMEOUT the limit in seconds",
        )


class _Auth(requests.auth.AuthBase):
    """Sends our authorization to the host that it is for, and to no other (requests drops it on a redirect elsewhere)."""

    def __init__(self, value: str | None, url: str) -> None:
        self._value = value
        self._host = urlsplit(url).netloc

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None and urlsplit(request.url or "").netloc == self._host:
            request.headers["Authorization"] = self._value
        return request


def _basic(credentials: Credentials) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.secret}".encode()).decode()


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= _CHUNK:
            yield bytes(buffer[:_CHUNK])
            del buffer[:_CHUNK]
    if buffer:
        yield bytes(buffer)


def _retry_after(answer: requests.Response, default: float) -> float:
    """Seconds to wait: what the registry asks for, within reason."""
    value = answer.headers.get("Retry-After", "")
    return min(float(value), 30.0) if value.isdigit() else default


def _said(answer: requests.Response) -> str:
    try:
        document: Any = answer.json()
        return "; ".join(f"{each.get('code')}: {each.get('message')}" for each in document["errors"])[:300]
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):
        return answer.reason or "nothing"
