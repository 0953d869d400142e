"""A local Hub: the API's routes that a digest needs, with their real shapes, over commits that the test makes.

Shapes as huggingface.co gives them: `/api/models/R/revision/REV`, `/api/models/R/tree/COMMIT` in pages that a `Link`
header joins, `/R/resolve/COMMIT/PATH` (a redirect to other storage for LFS files), 307 for a repository that was renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 3  # of a small repository; a large one comes in pages of 1,000, as from the Hub
FAULTS = (
    "stall", "trickle", "trickle-headers", "hang-up", "truncated", "truncated-chunk", "endless", "429", "429-for-an-hour", "500", "503-once",
    "hang-up-once", "html", "no-json", "surrogate", "other-shape", "empty", "redirects",
)  # fmt: skip


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
    headers: list[dict[str, str]] = field(default_factory=list)
    # Where a page's successor is, by the position that it begins at; and files that are in other storage.
    link: Callable[[int], str] | None = None
    moved: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    damaged: set[str] = field(default_factory=set)
    # After this many requests for a page of the tree, `main` moves on to this commit.
    moves_to: str | None = None
    # Which requests get which fault (one of `FAULTS`): by a prefix of `info`, `tree/CURSOR` or `file/PATH`.
    faults: dict[str, str] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)
    # Called when the Hub has gone silent or trickles: a test lets the deadline pass there.
    slow: Callable[[], None] = lambda: None

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
def serving(hub: Hub, host: str = "127.0.0.1") -> Iterator[Hub]:
    """Run the Hub on a loopback port while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

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
            hub.headers.append(dict(self.headers))
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.refuse(401, "RepoNotFound")
                return
            for old in hub.old_names:
                if old in path:
                    moved = f"{hub.url}{quote(path.replace(old, hub.repo))}{'?' + url.query if url.query else ''}"
                    self.answer(307, b"Temporary Redirect", {"Location": moved})
                    return
            if self.spoiled(path, url.query):
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

        def spoiled(self, path: str, query: str) -> bool:
            """Whether this request has a fault, which then is its response."""
            kind = path.partition("/resolve/")[2].partition("/")[2]
            place = f"file/{kind}" if kind else "info"
            if "/tree/" in path:
                place = f"tree/{parse_qs(query).get('cursor', ['0'])[0]}"
            found = next((each for each in hub.faults if place.startswith(each)), None)
            fault = hub.faults.pop(found) if found is not None else ""
            if found is None:
                return False
            if not fault.endswith("-once"):
                hub.faults[found] = fault
            self.close_connection = True
            self.spoil(fault)
            return True

        def spoil(self, fault: str) -> None:
            bodies = {
                "html": b"<html>Sign in to the network</html>", "no-json": b'{"sha": ', "empty": b"",
                "surrogate": b'{"sha": "\\ud800", "id": "\\ud800"}', "other-shape": b'[{"type": "file", "path": 5}, 6]',
            }  # fmt: skip
            if fault in bodies:
                self.answer(200, bodies[fault])
            elif fault[:3].isdigit():
                wait = {"Retry-After": "3600"} if fault == "429-for-an-hour" else {}
                self.answer(int(fault[:3]), b"<html>", wait)
            elif fault == "redirects":
                self.answer(307, b"", {"Location": f"{hub.url}{self.path}"})
            elif fault == "stall":
                hub.slow()
                hub.closing.wait()
            elif fault.startswith("trickle"):
                self.trickle(
                    b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 9999\r\n\r\n" if fault == "trickle" else b"A: ")
                )
            elif fault == "endless":
                self.endless()
            elif fault.startswith("truncated"):
                chunked = b"Transfer-Encoding: chunked\r\n\r\n20\r\n[{"
                self.wfile.write(
                    b"HTTP/1.1 200 OK\r\n" + (chunked if fault == "truncated-chunk" else b"Content-Length: 9\r\n\r\n[]")
                )

        def trickle(self, start: bytes) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(start)
                hub.slow()
                while not hub.closing.wait(0.05):
                    self.wfile.write(b" ")

        def endless(self) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while not hub.closing.is_set():
                    self.wfile.write(b" " * (1 << 20))

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
            size = PAGE if len(entries) < 1000 else 1000
            if begin + size < len(entries):
                link = (
                    f"{hub.url}/api/models/{hub.repo}/tree/{revision}?recursive=true&expand=false&cursor={begin + size}"
                )
                headers["Link"] = f'<{hub.link(begin + size) if hub.link else link}>; rel="next"'
            self.answer(200, json.dumps(entries[begin : begin + size]).encode(), headers)

        def file(self, revision: str, name: str) -> None:
            if name in hub.moved:
                self.answer(302, b"", {"Location": hub.moved[name]})
                return
            data = hub.commits.get(hub.resolve(revision) or "", {}).get(name)
            if data is None:
                self.refuse(404, "EntryNotFound")
                return
            self.answer(200, b"?" + data[1:] if name in hub.damaged else data)

    server = ThreadingHTTPServer((host, 0), Handler)
    hub.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
