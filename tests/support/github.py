"""A test GitHub: a real bare repository with `refs/pull/N/head`, smart HTTP by `git http-backend`, and the HTTP routes.

`faults` maps a part of a path to a response that is given instead, once per entry of its list, or always for a single one.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.trees import git, write_tree

REPOSITORY = "vllm-project/vllm"


@dataclass
class Fault:
    """A response instead of the right one.

    `truncated` promises more bytes than it sends; `open_end` promises none, so that the connection's end is the body's;
    `stall` sends nothing: git waits so many seconds, our own client (no test waits for its limit) loses the connection;
    `trickle` sends 3 kB/s of a header that never ends (to git: of a body) for so many seconds.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    truncated: bool = False
    open_end: bool = False
    stall: float = 0.0
    trickle: float = 0.0


@dataclass
class Pull:
    """A pull request's commits and what the API says of it."""

    number: int
    head: str
    base: str = "main"
    title: str = "Hybrid TurboQuant"
    author: str = "octocat"
    state: str = "open"
    merged: bool = False
    merge_commit: str | None = None


class GitHub:
    """The server and its repository. `seen` has (method, path, headers) of every request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.bare = folder / f"{REPOSITORY}.git"
        self.pulls: dict[int, Pull] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.spoiled: tuple[int, Fault, bool] | None = None
        """(position of a request from 0, what it gets, whether every later one gets it too)."""
        self.abbreviation = 7
        self.old_name = ""
        """What the repository was called before: its addresses are redirected."""
        self.url = ""
        self.slow: Callable[[], None] | None = None
        """Called when a header trickles to our own client: a test lets the deadline pass there."""
        self._kept: dict[tuple[object, ...], bytes] = {}
        self.work.mkdir(parents=True)
        git(self.work, "init", "-q", "-b", "main")
        self.bare.parent.mkdir(parents=True)
        git(folder, "init", "-q", "--bare", "-b", "main", str(self.bare))
        for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant", "http.uploadpack"):
            git(self.bare, "config", key, "true")

    def commit(self, files: dict[str, bytes | None], message: str, *, branch: str = "main") -> str:
        """Commit files (None deletes) on a branch of the working repository and push it; the commit's id."""
        if branch != "main" and branch not in git(self.work, "branch", "--format=%(refname:short)").decode().split():
            git(self.work, "branch", branch, "main")
        born = subprocess.run(
            ["git", "rev-parse", "-q", "--verify", "HEAD"], cwd=self.work, capture_output=True, check=False
        )
        if born.returncode == 0:
            git(self.work, "checkout", "-q", branch)
        write_tree(self.work, {path: data for path, data in files.items() if data is not None})
        for path, data in files.items():
            if data is None:
                (self.work / path).unlink()
        git(self.work, "add", "-A", "-f")
        git(self.work, "commit", "-q", "-m", message)
        if branch == "main":
            self.publish("main")
        return git(self.work, "rev-parse", "HEAD").decode().strip()

    def publish(self, branch: str) -> None:
        """Push a branch to the server, so that a pull request can be for it."""
        git(self.work, "push", "-q", "-f", str(self.bare), f"{branch}:refs/heads/{branch}")

    def open_pull(self, number: int, head: str, base: str = "main") -> Pull:
        """Publish `head` as a pull request for `base`."""
        git(self.work, "push", "-q", "-f", str(self.bare), f"{head}:refs/pull/{number}/head")
        self.pulls[number] = Pull(number, head, base)
        return self.pulls[number]

    def rewrite(self, branch: str, onto: str) -> None:
        """Put a branch of the working repository at another commit, as before a force-push."""
        git(self.work, "checkout", "-q", "-B", branch, onto)

    def rebase(self, branch: str) -> str:
        """Rebase a branch on main; its new head."""
        git(self.work, "rebase", "-q", "main", branch)
        return git(self.work, "rev-parse", branch).decode().strip()

    def merge_base_in(self, branch: str, base: str = "main") -> str:
        """Merge `base` into a branch of the working repository; its new head."""
        git(self.work, "checkout", "-q", branch)
        git(self.work, "merge", "-q", "--no-ff", "-m", f"Merge branch '{base}' into {branch}", base)
        return git(self.work, "rev-parse", branch).decode().strip()

    def merge(self, number: int, *, squash: bool, tag: str | None = None) -> str:
        """Merge a pull request into main as GitHub does, tag the result when asked, and say so in the API."""
        pull = self.pulls[number]
        git(self.work, "checkout", "-q", "main")
        if squash:
            git(self.work, "merge", "-q", "--squash", pull.head)
            git(self.work, "commit", "-q", "-m", f"{pull.title} (#{number})")
        else:
            git(self.work, "merge", "-q", "--no-ff", "-m", f"Merge pull request #{number} from octocat/x", pull.head)
        pull.merge_commit = git(self.work, "rev-parse", "HEAD").decode().strip()
        pull.merged, pull.state = True, "closed"
        git(self.work, "push", "-q", "-f", str(self.bare), "main:refs/heads/main")
        if tag:
            self.tag(tag)
        return pull.merge_commit

    def revert(self, commit: str, message: str | None = None) -> str:
        """Take a commit of main back, as git does or as one commit with another message; the revert."""
        git(self.work, "checkout", "-q", "main")
        merge = len(git(self.work, "log", "-1", "--format=%P", commit).split()) > 1
        git(self.work, "revert", "--no-edit", *(["-m", "1"] if merge else []), commit)
        if message is not None:
            git(self.work, "commit", "-q", "--amend", "-m", message)
        self.publish("main")
        return git(self.work, "rev-parse", "HEAD").decode().strip()

    def tag(self, name: str) -> None:
        """Tag main."""
        git(self.work, "tag", name, "main")
        git(self.work, "push", "-q", str(self.bare), f"refs/tags/{name}")

    def untag(self, name: str) -> None:
        """Take a tag back."""
        git(self.bare, "tag", "-d", name)

    def delete(self, number: int) -> None:
        """Take a pull request away, its ref included."""
        del self.pulls[number]
        git(self.bare, "update-ref", "-d", f"refs/pull/{number}/head")

    def asked(self, *arguments: str) -> bytes:
        """What git says of the bare repository. It is run once for each question about the same refs."""
        key = (self._refs(), *arguments)
        if key not in self._kept:
            self._kept[key] = git(self.bare, *arguments)
        return self._kept[key]

    def merge_base(self, base: str, head: str) -> str:
        return self.asked("merge-base", base, head).decode().strip()

    def backend(self, body: bytes, **env: str) -> bytes:
        """What `git http-backend` responds. It is run once for each request to the same refs: objects never change."""
        key = (self._refs(), body, *sorted(env.items()))
        if key not in self._kept:
            done = subprocess.run(
                ["git", "http-backend"], input=body, capture_output=True, check=False,
                env={
                    "PATH": "/usr/bin:/bin", "GIT_PROJECT_ROOT": str(self.folder), "GIT_HTTP_EXPORT_ALL": "1",
                    "REMOTE_ADDR": "127.0.0.1", **env,
                },
            )  # fmt: skip
            if done.returncode != 0:
                return done.stdout
            self._kept[key] = done.stdout
        return self._kept[key]

    def _refs(self) -> tuple[tuple[str, bytes], ...]:
        """All that the bare repository has but objects: each file and its content."""
        found = []
        for folder, folders, files in os.walk(self.bare):
            if Path(folder) == self.bare:
                folders[:] = [each for each in folders if each not in ("objects", "hooks", "info")]
            for path in (f"{folder}/{name}" for name in files):
                with suppress(FileNotFoundError):
                    found.append((path, Path(path).read_bytes()))
        return tuple(sorted(found))

    def diff(self, base: str, head: str, *, full: bool = False) -> bytes:
        """The three-dot diff as GitHub renders it: from the merge base, with abbreviated index lines."""
        option = "--full-index" if full else f"--abbrev={self.abbreviation}"
        return self.asked("diff", option, "--find-renames", self.merge_base(base, head), head)


def _handler(server: GitHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, *arguments: Any) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append((self.command, self.path, dict(self.headers)))
            fault = self._fault()
            if fault is not None:
                self._spoil(fault)
                return
            # GitHub Enterprise Server has its API below its own address.
            parts = urlsplit(self.path.removeprefix("/api/v3"))
            if server.old_name and server.old_name in parts.path:
                self._send(301, b"", {"Location": server.url + self.path.replace(server.old_name, REPOSITORY)})
                return
            if ".git/" in parts.path:
                self._git(parts.path, parts.query, body)
            elif parts.path.startswith(f"/repos/{REPOSITORY}/"):
                self._api(parts.path.removeprefix(f"/repos/{REPOSITORY}/"))
            elif parts.path.startswith(f"/{REPOSITORY}/pull/") and parts.path.endswith(".diff"):
                self._send(302, b"", {"Location": f"/raw{self.path}"})
            elif parts.path.startswith(f"/raw/{REPOSITORY}/pull/"):
                number = int(parts.path.rsplit("/", 1)[1].removesuffix(".diff"))
                pull = server.pulls.get(number)
                if pull is None:
                    self._send(404, b"Not Found")
                else:
                    full = "full_index" in parse_qs(parts.query)
                    self._send(200, server.diff(pull.base, pull.head, full=full), {"Content-Type": "text/plain"})
            else:
                self._send(404, b"Not Found")

        def _fault(self) -> Fault | None:
            if server.spoiled is not None:
                position, fault, for_good = server.spoiled
                now = len(server.seen) - 1
                if now == position or (for_good and now > position):
                    return fault
            for part, faults in server.faults.items():
                if part in self.path and faults:
                    return faults[0] if len(faults) == 1 else faults.pop(0)
            return None

        def _api(self, rest: str) -> None:
            wants_diff = "diff" in (self.headers.get("Accept") or "")
            kind, _, name = rest.partition("/")
            if kind == "pulls" and name.isdigit() and int(name) in server.pulls:
                pull = server.pulls[int(name)]
                if wants_diff:
                    self._send(200, server.diff(pull.base, pull.head))
                    return
                document = {
                    "number": pull.number, "title": pull.title, "state": pull.state, "merged": pull.merged,
                    "merge_commit_sha": pull.merge_commit,
                    "user": {"login": pull.author}, "head": {"sha": pull.head}, "base": {"ref": pull.base},
                    "html_url": f"https://github.com/{REPOSITORY}/pull/{pull.number}",
                    "changed_files": server.diff(pull.base, pull.head).count(b"diff --git "),
                }  # fmt: skip
                self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})
            elif rest.startswith("git/commits/"):
                parents = server.asked("log", "-1", "--format=%P", rest.rpartition("/")[2]).decode().split()
                self._send(200, json.dumps({"parents": [{"sha": each} for each in parents]}).encode())
            elif kind == "compare":
                base, _, head = unquote(name).partition("...")
                try:
                    merge_base = server.merge_base(base, head)
                except subprocess.CalledProcessError:
                    self._send(404, b'{"message": "Not Found"}')
                    return
                if wants_diff:
                    self._send(200, server.diff(base, head))
                else:
                    ahead = len(server.asked("rev-list", f"{base}..{head}").split())
                    behind = len(server.asked("rev-list", f"{head}..{base}").split())
                    status = (
                        "diverged" if ahead and behind else "ahead" if ahead else "behind" if behind else "identical"
                    )
                    document = {"merge_base_commit": {"sha": merge_base}, "status": status, "ahead_by": ahead}
                    self._send(200, json.dumps(document).encode())
            else:
                self._send(404, b'{"message": "Not Found"}')

        def _git(self, path: str, query: str, body: bytes) -> None:
            response = server.backend(
                body, PATH_INFO=path, QUERY_STRING=query, REQUEST_METHOD=self.command, CONTENT_LENGTH=str(len(body)),
                CONTENT_TYPE=self.headers.get("Content-Type") or "",
                HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding") or "",
                GIT_PROTOCOL=self.headers.get("Git-Protocol") or "",
            )  # fmt: skip
            head, _, data = response.partition(b"\r\n\r\n")
            headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n") if b": " in line)
            status = int(headers.pop("Status", "200").split()[0])
            self._send(status, data, headers)

        def _spoil(self, fault: Fault) -> None:
            ours = "git/" not in self.headers.get("User-Agent", "")
            if fault.stall:
                if ours:
                    self.close_connection = True
                    return
                threading.Event().wait(fault.stall)
            self.close_connection = fault.truncated or fault.open_end or bool(fault.trickle)
            length = None if fault.open_end or fault.trickle else len(fault.body) + (100 if fault.truncated else 0)
            with suppress(OSError):
                if fault.trickle:
                    # curl, which is git's, counts no header as progress.
                    rest = b"Content-Length: 999999\r\n\r\n" if ".git/" in self.path else b"X-Slow: "
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n" + rest)
                    if server.slow is not None and ours and ".git/" not in self.path:
                        server.slow()
                    end = time.monotonic() + fault.trickle
                    while time.monotonic() < end:
                        self.wfile.write(b"x" * 300)
                        time.sleep(0.1)
                    return
                self._send(fault.status, fault.body, fault.headers, length=length)

        def _send(
            self, status: int, data: bytes, headers: dict[str, str] | None = None, *, length: int | None = -1
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if length is not None:
                self.send_header("Content-Length", str(len(data) if length < 0 else length))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(data)

    return Handler


@contextmanager
def github(folder: Path) -> Iterator[GitHub]:
    """A running test GitHub on a loopback port."""
    server = GitHub(folder)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)
