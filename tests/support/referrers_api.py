"""A registry with the referrers API: Debian's registry has none, so a proxy in front of it answers for that part.

It keeps the subject of every manifest that is put through it, as the distribution spec 1.1 asks ("Enabling the Referrers
API"), and passes everything else on.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_SKIPPED = {"transfer-encoding", "connection", "host"}


@contextmanager
def with_referrers_api(backend: str) -> Iterator[str]:
    """`HOST:PORT` in front of the registry at `backend`."""
    listed: dict[str, list[dict[str, Any]]] = defaultdict(list)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            if self.command == "GET" and "/referrers/" in self.path:
                return self._referrers(self.path.rpartition("/")[2])
            connection = http.client.HTTPConnection(backend, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in _SKIPPED}
            connection.request(self.command, self.path, body, {**headers, "Host": self.headers["Host"]})
            response = connection.getresponse()
            data = response.read()
            self.send_response(response.status)
            for key, value in response.getheaders():
                if key.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(key, value)
            if self.command == "PUT" and "/manifests/" in self.path and response.status == 201:
                self._note(body)
            self.send_header("Content-Length", response.headers.get("Content-Length") or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            connection.close()
            return None

        def _note(self, body: bytes) -> None:
            manifest = json.loads(body)
            subject = manifest.get("subject")
            if subject:
                entry = {
                    "mediaType": manifest["mediaType"], "digest": f"sha256:{hashlib.sha256(body).hexdigest()}",
                    "size": len(body), "artifactType": manifest.get("artifactType", ""),
                    "annotations": manifest.get("annotations", {}),
                }  # fmt: skip
                if entry not in listed[subject["digest"]]:
                    listed[subject["digest"]].append(entry)
                self.send_header("OCI-Subject", subject["digest"])

        def _referrers(self, digest: str) -> None:
            data = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": listed[digest]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", _INDEX)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _pass  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
