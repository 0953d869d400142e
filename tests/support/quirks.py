"""A registry in memory that has the documented quirks of a real one, one at a time by `Quirks`, or by vendor.

Sources of what `VENDORS` imitates:

- Docker Hub: logins at another host, auth.docker.io (https://distribution.github.io/distribution/spec/auth/token/); blobs
  redirected to a CDN; a manifest with `subject` was answered 404 (docker/hub-feedback#2307, oras-project/oras#666), the
  referrers API was missing; tags that are seen late (Shippable/support#1811).
- GHCR: no referrers API (oras-project/oras-java#773); 416 for a PATCH above 4 MiB (ocx-sh/ocx#237).
- ECR: a mount is answered 202 unless a manifest of the source names the blob (aws/containers-roadmap#2860); chunks of 5 MiB at
  least (dotnet/sdk-container-builds#424); 201 for a PATCH (openai/tart#273); 500 for an empty PUT (openai/tart#159);
  `OCI-Subject` without a referrers API (sigstore/sigstore-js#1183).
- Google Artifact Registry: no chunked uploads (its documentation, quoted in dotnet/sdk-container-builds#287); uploads at a path
  outside /v2/.
- Harbor: 202 for a mount that is not possible (goharbor/harbor#17097); its own referrers API.
- Quay: 400 for some mounts (quay/quay#899); index entries need a platform (PROJQUAY-4803); artifact types that are not
  configured are refused (Red Hat Quay, "Configuring artifact types").
- Artifactory: HEAD and mounts behind reverse proxies that allow GET, POST, PUT and PATCH alone answer 405; the referrers API
  came with 7.90.1 (git-pkgs/proxy#144).
- GitLab: the tag `sha256-HEX` is resolved to the manifest itself, no referrers API (oras-project/oras-go#1396); logins at the
  web application's host, and a token without the source's scope refuses the mount.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import serving


@dataclass(frozen=True)
class Quirks:
    """Statuses, where they are not the specification's. Sizes are in bytes."""

    mount: int = 201
    head: int = 200
    late: int = 0
    """How many reads of a tag still show what was there before it was set."""
    chunks: int = 202
    largest_chunk: int = 1 << 40
    smallest_chunk: int = 0
    empty_put: int = 201
    largest_put: int = 1 << 40
    put: int = 201
    """What a PUT of more than `largest_put` bytes gets; when that is 500, what fits of it has arrived."""
    referrers: bool = True
    says_subject: bool = True
    subject: int = 201
    subject_first: bool = False
    """Whether a manifest is taken only when the repository has its subject; distribution spec 1.1 says that it need not."""
    index: int = 201
    artifact_types: bool = True
    bare_entries: bool = True
    tag_is_digest: bool = False
    login_elsewhere: bool = False
    blobs_elsewhere: bool = False
    uploads: str = "/v2/{repository}/blobs/uploads/{name}"


VENDORS = {
    "Docker Hub": Quirks(
        login_elsewhere=True, blobs_elsewhere=True, referrers=False, says_subject=False, late=2, mount=202
    ),
    "GHCR": Quirks(referrers=False, says_subject=False, largest_chunk=4 << 20),
    "ECR": Quirks(mount=202, smallest_chunk=5 << 20, chunks=201, empty_put=500, referrers=False),
    "GAR": Quirks(chunks=405, uploads="/artifacts-uploads/namespaces/{repository}/uploads/{name}"),
    "Harbor": Quirks(mount=202, late=1),
    "Quay": Quirks(mount=400),
    "Artifactory": Quirks(mount=405, head=405, late=1),
    "GitLab": Quirks(mount=403, referrers=False, says_subject=False, tag_is_digest=True, login_elsewhere=True),
}


@dataclass
class QuirkyRegistry:
    """What the registry holds: blobs by repository and digest, manifests and tags by repository."""

    quirks: Quirks
    host: str = ""
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    manifests: dict[str, dict[str, tuple[bytes, str]]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    stale: dict[tuple[str, str], tuple[str | None, int]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    sizes: list[tuple[str, int]] = field(default_factory=list)
    """Method and size of the body of each request."""
    lock: Any = field(default_factory=threading.RLock)

    def put_blob(self, repository: str, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs.setdefault(repository, {})[digest] = bytes(data)
        return digest

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.manifests.setdefault(repository, {})[digest] = (data, media_type)
        if not reference.startswith("sha256:"):
            tags = self.tags.setdefault(repository, {})
            if tags.get(reference) != digest:
                self.stale[repository, reference] = (tags.get(reference), self.quirks.late)
            tags[reference] = digest
        return digest

    def complete(self, repository: str, digest: str) -> list[str]:
        """What a manifest names and the repository does not have."""
        document = json.loads(self.manifests[repository][digest][0])
        missing: list[str] = []
        for child in document.get("manifests", []):
            known = child["digest"] in self.manifests[repository]
            missing += self.complete(repository, child["digest"]) if known else [child["digest"]]
        for blob in [*document.get("layers", []), *([document["config"]] if "config" in document else [])]:
            missing += [] if blob["digest"] in self.blobs.get(repository, {}) else [blob["digest"]]
        return missing

    def referring(self, repository: str, subject: str) -> list[dict[str, Any]]:
        found = []
        for digest, (data, media_type) in self.manifests.get(repository, {}).items():
            document = json.loads(data)
            if document.get("subject", {}).get("digest") == subject:
                found.append(
                    {
                        "mediaType": media_type,
                        "digest": digest,
                        "size": len(data),
                        "artifactType": document.get("artifactType"),
                    }
                )
        return found

    # --- requests ---------------------------------------------------------------------------------------------------

    def serve(self, handler: Any, realm: str, storage: str) -> None:
        url = urlsplit(handler.path)
        with self.lock:
            self.sizes.append((handler.command, len(handler.body)))
            self.requests.append(f"{handler.command} {url.path}{'?mount' if 'mount=' in url.query else ''}")
        if realm and handler.headers.get("Authorization") != "Bearer t0ken":
            handler.say(401, WWW_Authenticate=f'Bearer realm="{realm}",service="x"')
            return
        if handler.command == "HEAD" and self.quirks.head != 200:
            handler.say(self.quirks.head)
            return
        upload = re.fullmatch(r".*/uploads/(\w+)", url.path)
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs|referrers)/(.*)", url.path)
        if upload:
            self._upload(handler, upload[1], parse_qs(url.query), self._repository(url.path))
        elif found is None:
            self._error(handler, 404, "UNSUPPORTED")
        elif found[2] == "blobs" and handler.command != "POST":
            # Not under the lock: the client may send elsewhere what it reads here.
            self._blob(handler, found[1], found[3], storage)
        elif found[2] == "blobs":
            self._open(handler, found[1].removesuffix("/blobs"), parse_qs(url.query))
        else:
            with self.lock:
                (self._manifest if found[2] == "manifests" else self._referrers)(handler, found[1], found[3])

    def _repository(self, path: str) -> str:
        return (
            path.partition("/blobs/")[0].removeprefix("/v2/")
            if path.startswith("/v2/")
            else path.split("/", 3)[3].partition("/uploads/")[0]
        )

    def _error(self, handler: Any, status: int, code: str) -> None:
        handler.say(status, json.dumps({"errors": [{"code": code, "message": "no"}]}).encode())

    def _open(self, handler: Any, repository: str, query: dict[str, list[str]]) -> None:
        if "mount" in query:
            digest, source = query["mount"][0], query["from"][0]
            if self.quirks.mount == 201 and digest in self.blobs.get(source, {}):
                self.put_blob(repository, self.blobs[source][digest])
                handler.say(201, Location=f"/v2/{repository}/blobs/{digest}")
                return
            if self.quirks.mount >= 400:
                self._error(handler, self.quirks.mount, "UNSUPPORTED")
                return
        name = uuid.uuid4().hex
        self.uploads[name] = bytearray()
        handler.say(202, Location=self.quirks.uploads.format(repository=repository, name=name), Range="0-0")

    def _upload(self, handler: Any, name: str, query: dict[str, list[str]], repository: str) -> None:
        if name not in self.uploads:
            self._error(handler, 404, "BLOB_UPLOAD_UNKNOWN")
            return
        data, body = self.uploads[name], handler.body
        location = self.quirks.uploads.format(repository=repository, name=name)
        if handler.command == "DELETE":
            del self.uploads[name]
            handler.say(204)
        elif handler.command == "PATCH":
            if self.quirks.chunks >= 400:
                self._error(handler, self.quirks.chunks, "UNSUPPORTED")
            elif len(body) > self.quirks.largest_chunk:
                self._error(handler, 416, "SIZE_INVALID")
            elif len(body) < self.quirks.smallest_chunk:
                self._error(handler, 400, "LayerPartTooSmallException")
            else:
                data += body
                handler.say(self.quirks.chunks, Location=location, Range=f"0-{len(data) - 1}")
        elif handler.command == "PUT":
            if not body and self.quirks.empty_put >= 400:
                self._error(handler, self.quirks.empty_put, "INTERNAL")
                return
            if len(body) > self.quirks.largest_put:
                data += body[: self.quirks.largest_put] if self.quirks.put == 500 else b""
                self._error(handler, self.quirks.put, "SIZE_INVALID")
                return
            data += body
            if query["digest"][0] != f"sha256:{hashlib.sha256(data).hexdigest()}":
                self._error(handler, 400, "DIGEST_INVALID")
                return
            handler.say(201, Docker_Content_Digest=self.put_blob(repository, bytes(data)))
        else:
            handler.say(204, Location=location, Range=f"0-{max(0, len(data) - 1)}")

    def _blob(self, handler: Any, repository: str, digest: str, storage: str) -> None:
        data = self.blobs.get(repository, {}).get(digest)
        if data is None:
            self._error(handler, 404, "BLOB_UNKNOWN")
        elif storage and handler.command == "GET":
            handler.say(307, Location=f"{storage}/{repository}/{digest}?signature=x")
        elif handler.headers.get("Range") == "bytes=0-0":
            handler.say(206, data[:1], Content_Range=f"bytes 0-0/{len(data)}")
        else:
            handler.say(200, data)

    def _manifest(self, handler: Any, repository: str, reference: str) -> None:
        if handler.command == "PUT":
            self._store(handler, repository, reference)
            return
        digest = reference if reference.startswith("sha256:") else self._tag(repository, reference)
        found = self.manifests.get(repository, {}).get(digest or "")
        if found is None:
            self._error(handler, 404, "MANIFEST_UNKNOWN")
        else:
            handler.say(200, found[0], Content_Type=found[1], Docker_Content_Digest=digest)

    def _tag(self, repository: str, tag: str) -> str | None:
        before, reads = self.stale.get((repository, tag), (None, 0))
        if reads:
            self.stale[repository, tag] = (before, reads - 1)
            return before
        found = self.tags.get(repository, {}).get(tag)
        if found is None and self.quirks.tag_is_digest and tag.startswith("sha256-"):
            return tag.replace("-", ":")
        return found

    def _store(self, handler: Any, repository: str, reference: str) -> None:
        document = json.loads(handler.body)
        entries = document.get("manifests")
        if "subject" in document and self.quirks.subject >= 400:
            handler.say(self.quirks.subject, b"404 page not found\n")
        elif self.quirks.subject_first and "subject" in document and self._lacks(repository, document["subject"]):
            self._error(handler, 404, "MANIFEST_UNKNOWN")
        elif "artifactType" in document and not self.quirks.artifact_types:
            self._error(handler, 400, "MANIFEST_INVALID")
        elif entries is not None and self.quirks.index >= 400:
            self._error(handler, self.quirks.index, "MANIFEST_INVALID")
        elif entries is not None and not self.quirks.bare_entries and any("platform" not in each for each in entries):
            self._error(handler, 400, "MANIFEST_INVALID")
        else:
            digest = self.put_manifest(repository, reference, handler.body, handler.headers["Content-Type"])
            headers = {"Docker_Content_Digest": digest}
            if "subject" in document and self.quirks.says_subject:
                headers["OCI_Subject"] = document["subject"]["digest"]
            handler.say(201, **headers)

    def _lacks(self, repository: str, descriptor: dict[str, Any]) -> bool:
        return descriptor["digest"] not in self.manifests.get(repository, {})

    def _referrers(self, handler: Any, repository: str, subject: str) -> None:
        if not self.quirks.referrers:
            handler.say(404, b"404 page not found\n")
            return
        index = {"schemaVersion": 2, "manifests": self.referring(repository, subject)}
        handler.say(200, json.dumps(index).encode(), Content_Type="application/vnd.oci.image.index.v1+json")


@contextmanager
def quirky_registry(quirks: Quirks) -> Iterator[QuirkyRegistry]:
    """A running registry. Where the quirks say so, logins and blobs are at 127.0.0.2, which must not be told a token."""
    registry = QuirkyRegistry(quirks)

    def elsewhere(handler: Any) -> None:
        if handler.path.startswith("/token"):
            handler.say(200, b'{"token": "t0ken"}')
            return
        assert "Authorization" not in handler.headers
        repository, _, digest = urlsplit(handler.path).path.strip("/").rpartition("/")
        handler.say(200, registry.blobs[repository][digest])

    with serving(elsewhere, "127.0.0.2") as other:
        realm = f"{other.url}/token" if quirks.login_elsewhere else ""
        storage = other.url if quirks.blobs_elsewhere else ""
        with serving(lambda handler: registry.serve(handler, realm, storage)) as server:
            registry.host = server.url.removeprefix("http://")
            yield registry
