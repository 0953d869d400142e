"""Every response of a lock, spoiled in every way, once and for good: success or exit 5, nothing half written, no hang."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from requests.structures import CaseInsensitiveDict

from builder.cli.app import run
from builder.net.client import Response
from builder.pulls.access import _asked_wait
from builder.util.limits import Limits
from tests.support.clock import Owned
from tests.support.github import REPOSITORY, Fault, GitHub
from tests.support.smallwheel import make_project
from tests.support.upstream import pull_of_two_files

TOKEN = "ghp_" + "t0k3n" * 6
# The first of the pull request's two files: a sound diff, and not the whole one.
HALF = b"""diff --git a/vllm/added.py b/vllm/added.py
new file mode 100644
--- /dev/null
+++ b/vllm/added.py
@@ -0,0 +1 @@
+added = 1
"""

FAULTS = {
    "403": Fault(403, b"{}"),
    "403 rate limit": Fault(403, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}),
    "403 rate limit for an hour": Fault(403, b"{}", {"X-RateLimit-Remaining": "0", "Retry-After": "3600"}),
    "404": Fault(404, b"{}"),
    "406": Fault(406, b'{"message": "too_large"}'),
    "429": Fault(429, b"<html>slow down</html>", {"Retry-After": "0"}),
    "500": Fault(500, TOKEN.encode()),
    "503 with a date": Fault(503, b"", {"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}),
    "truncated": Fault(200, b"diff --git a/vllm/config.py b/vllm/config.py\n", truncated=True),
    "HTML": Fault(200, b"<!DOCTYPE html><html>sign in</html>", {"Content-Type": "text/html"}),
    "empty": Fault(200, b""),
    "stall": Fault(200, b"", stall=0.1),
    "garbage": Fault(200, b"\x00\xff" * 50),
    "JSON of another kind": Fault(200, b"[1]"),
    "redirect away": Fault(302, b"", {"Location": "http://127.0.0.2:9/steal"}),
    "redirect in a circle": Fault(302, b"", {"Location": "/repos/loop"}),
    "redirect to no address": Fault(302, b"", {"Location": "http://["}),
    "gzip that is none": Fault(200, b"diff --git", {"Content-Encoding": "gzip"}),
    "half a diff without a length": Fault(200, HALF, open_end=True),
}
# Another attempt helps against these: what is spoiled once is no trouble, whoever is asked.
PASSING = {"429", "500", "503 with a date", "truncated", "HTML", "empty", "stall", "garbage", "JSON of another kind"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitHub]:
    with pull_of_two_files(tmp_path / "github") as server:
        yield server


class Locker:
    """Runs `builder lock` again and again, each time as the first time."""

    def __init__(self, hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub = hub
        self.tmp = tmp_path
        self.monkeypatch = monkeypatch
        self.runs = 0
        settings = {
            "BUILDER_GITHUB_URL": hub.url,
            "BUILDER_GITHUB_API_URL": hub.url,
            "GITHUB_TOKEN": TOKEN,
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        # No limit depends on how busy this machine is: pauses end at once, and what stalls is hung up.
        Owned().install(monkeypatch)

    def lock(self, **overlay: object) -> tuple[int, Path]:
        self.runs += 1
        project = make_project(self.tmp / f"p{self.runs}", {}, overlays=[{"pull": f"{REPOSITORY}#39931", **overlay}])
        self.monkeypatch.chdir(project)
        self.monkeypatch.setenv("BUILDER_CACHE_DIR", str(self.tmp / f"c{self.runs}"))
        self.hub.seen.clear()
        return run(["lock", "small", "-v"]), project


def check(code: int, project: Path, wanted: bytes) -> None:
    vendored = project / "overlays/vllm-project-vllm-39931.diff"
    lock = project / "images/small.lock.yaml"
    assert code in (0, 5)
    assert vendored.is_file() == lock.is_file() == (code == 0)
    if code == 0:
        assert vendored.read_bytes() == wanted
    assert not [path for path in project.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("source", "name"),
    [("api", name) for name in FAULTS] + [("git", name) for name in FAULTS],
)
def test_every_position(
    hub: GitHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    source: str,
) -> None:
    locker = Locker(hub, tmp_path, monkeypatch)
    if source == "git":
        hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    code, project = locker.lock()
    assert code == 0
    wanted = (project / "overlays/vllm-project-vllm-39931.diff").read_bytes()
    positions = len(hub.seen)
    assert positions >= 3
    for position in range(positions):
        # git asks much more often: what is spoiled for good is spoiled in the middle.
        for for_good in (False, True) if source == "api" or position == 2 else (False,):
            hub.spoiled = (position, FAULTS[name], for_good)
            code, project = locker.lock()
            check(code, project, wanted)
            if not for_good and (source == "api" or name in PASSING):
                assert code == 0, position
            hub.spoiled = None
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err
    for path in tmp_path.rglob("*"):
        if path.is_file() and "github" not in path.relative_to(tmp_path).parts:
            assert TOKEN.encode() not in path.read_bytes(), path


# JSON, and not what the API says: each is one response of its route, after which git has to be asked.
OTHER_KINDS: dict[str, tuple[str, object]] = {
    "a user by name": ("/pulls/", {"user": "octocat"}),
    "a head by name": ("/pulls/", {"head": "main"}),
    "a base without a name": ("/pulls/", {"base": {"ref": None}}),
    "half a character in the title": ("/pulls/", {"title": "\ud83d"}),
    "half a character in the branch": ("/pulls/", {"base": {"ref": "\ud83d"}}),
    "a merge base by name": ("/compare/", {"merge_base_commit": "abc"}),
    "as deep as it goes": ("/compare/", None),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_response_of_another_kind_is_not_used(
    hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    route, change = OTHER_KINDS[name]
    pull = hub.pulls[39931]
    whole = {"state": "open", "head": {"sha": pull.head}, "base": {"ref": "main"}, "user": {"login": "o"}, "title": "t"}
    body = json.dumps({**whole, **change}).encode() if isinstance(change, dict) else b"[" * 200_000
    hub.faults = {route: [Fault(200, body)]}
    code, project = Locker(hub, tmp_path, monkeypatch).lock()
    assert code == 0, capfd.readouterr().err
    assert "\\uD83D" not in (project / "images/small.lock.yaml").read_text()
    assert b"+option_20 = 2020" in (project / "overlays/vllm-project-vllm-39931.diff").read_bytes()


@pytest.mark.parametrize("pinned", [False, True], ids=["the lock pins it", "the recipe pins its head too"])
def test_what_is_fetched_again_must_be_what_was_locked(
    hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    locker = Locker(hub, tmp_path, monkeypatch)
    code, project = locker.lock(**({"head": hub.pulls[39931].head} if pinned else {}))
    vendored = project / "overlays/vllm-project-vllm-39931.diff"
    wanted = vendored.read_bytes()
    assert code == 0
    vendored.unlink()
    # The cache has the diff itself too, by its digest; here it is to be fetched.
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "empty"))
    other = wanted.replace(b"option_20 = 2020", b"option_20 = 9999")
    hub.faults = {f"compare/{hub.merge_base('main', hub.pulls[39931].head)}": [Fault(200, other)]}
    assert run(["lock", "small"]) == 0
    assert vendored.read_bytes() == wanted
    vendored.unlink()
    hub.faults = {**hub.faults, ".git/": [Fault(500)]}
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "another"))
    assert run(["lock", "small"]) == 5
    assert not vendored.exists()


def test_a_date_is_a_wait_too() -> None:
    def asked(**headers: str) -> float:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return _asked_wait(Response(429, "https://api.github.com/x", CaseInsensitiveDict(named)), 1_767_225_600.0)

    assert asked(retry_after="Thu, 01 Jan 2026 00:00:20 GMT") == 20.0
    assert asked(retry_after="7") == 7.0
    assert asked(retry_after="soon") == 0.0
    for none in (
        "Thu, 01 Jan 99999999999999 00:00:00 GMT",
        "Thu, 01 Jan 2026 00:00:00 +99999999999999999999",
        ",",
        " ",
    ):
        assert asked(retry_after=none) == 0.0, none
    assert asked(retry_after="9" * 999) > Limits().longest_wait
    assert asked(x_ratelimit_remaining="0", x_ratelimit_reset="1767225605") == 5.0
