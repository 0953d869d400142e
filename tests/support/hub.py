"""A local Hub: the API's routes that a digest needs, with their real shapes, over commits that the test makes.

Shapes as huggingface.co answers them: `/api/models/R/revision/REV`, `/api/models/R/tree/COMMIT` in pages that a `Link`
header joins, `/R/resolve/COMMIT/PATH` (a redirect to other storage for LFS files), 307 for a repository that was renamed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 3


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """`commits` is commit -> files; `branches` branch -> commit; `lfs` says which file endings are in LFS."""

    repo: str = "owner/model"
    old_names: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    lfs: tuple[str, ...] = (".safetensors", "tokenizer.json")
    token: str | None = None
    url: str = ""
    seen: list[str] = field(default_factory=list)
    sent: int = 0
    damaged: set[str] = field(default_factory=set)
    # After this many requests for a page of the tree, `main` moves on to this commit.
    moves_to: str | None = None

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        name = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None

    def entries(self, commit: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        folders: set[str] = set()
        for path, data in sorted(self.commits[commit].items()):
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    found.append({"type": "directory", "oid": git_blob(folder.encode()), "size": 0, "path": folder})
            entry: dict[str, object] = {"type": "file", "oid": git_blob(data), "size": len(data), "path": path}
            if path.endswith(self.lfs):
                sha256 = hashlib.sha256(data).hexdigest()
                pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
                    sha256.encode(),
                    len(data),
                )
                entry["oid"] = git_blob(pointer)
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
                entry["xetHash"] = hashlib.sha256(b"xet" + data).hexdigest()
            found.append(entry)
        return found


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run the Hub on a loopback port while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                hub.sent += len(body)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.seen.append(path)
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.refuse(401, "RepoNotFound")
                return
            for old in hub.old_names:
                if old in path:
                    moved = f"{hub.url}{quote(path.replace(old, hub.repo))}{'?' + url.query if url.query else ''}"
                    self.answer(307, b"Temporary Redirect", {"Location": moved})
                    return
            api, files = f"/api/models/{hub.repo}", f"/{hub.repo}/resolve/"
            if path == api or path.startswith(f"{api}/revision/"):
                self.info(path.removeprefix(api).removeprefix("/revision/") or "main")
            elif path.startswith(f"{api}/tree/"):
                self.tree(path.removeprefix(f"{api}/tree/"), parse_qs(url.query))
            elif path.startswith(files):
                self.file(*path.removeprefix(files).split("/", 1))
            else:
                self.refuse(404, "RepoNotFound")

        def info(self, revision: str) -> None:
            commit = hub.resolve(revision)
            if commit is None:
                self.refuse(404, "RevisionNotFound")
                return
            siblings = [{"rfilename": name} for name in hub.commits[commit]]
            document = {"_id": "0" * 24, "id": hub.repo, "modelId": hub.repo, "sha": commit, "siblings": siblings}
            self.answer(200, json.dumps(document).encode())
            if hub.moves_to is not None:
                hub.branches["main"] = hub.moves_to

        def tree(self, revision: str, query: dict[str, list[str]]) -> None:
            commit = hub.resolve(revision)
            if commit is None:
                self.refuse(404, "RevisionNotFound")
                return
            begin = int(query.get("cursor", ["0"])[0])
            entries = hub.entries(commit)
            headers = {}
            if begin + PAGE < len(entries):
                link = (
                    f"{hub.url}/api/models/{hub.repo}/tree/{revision}?recursive=true&expand=false&cursor={begin + PAGE}"
                )
                headers["Link"] = f'<{link}>; rel="next"'
            self.answer(200, json.dumps(entries[begin : begin + PAGE]).encode(), headers)

        def file(self, revision: str, name: str) -> None:
            data = hub.commits.get(hub.resolve(revision) or "", {}).get(name)
            if data is None:
                self.refuse(404, "EntryNotFound")
                return
            self.answer(200, b"?" + data[1:] if name in hub.damaged else data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
