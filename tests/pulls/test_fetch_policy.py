"""What a fetch may do: whom it asks and tells, how long it waits, what it keeps, and that it leaves the user's git alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.cli.app import run
from builder.net.address import basic
from builder.pulls import access
from builder.pulls.access import authorization
from builder.util.limits import Limits
from tests.support.cli import Ran, builder
from tests.support.clock import Owned
from tests.support.github import REPOSITORY, Fault, GitHub
from tests.support.smallwheel import make_project
from tests.support.trees import git
from tests.support.upstream import pull_of_two_files

TOKEN = "ghp_" + "s3cr3t" * 6
NAME = f"{REPOSITORY}#39931"
VENDORED = "overlays/vllm-project-vllm-39931.diff"
NOBODY = {"BUILDER_GITHUB_URL": "http://127.0.0.1:9", "BUILDER_GITHUB_API_URL": "http://127.0.0.1:9"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitHub]:
    with pull_of_two_files(tmp_path / "github") as server:
        yield server


class Place:
    """A project with the pull request as its overlay, and a cache of its own."""

    def __init__(self, hub: GitHub, folder: Path, *, name: str = NAME, **overlay: object) -> None:
        self.root = make_project(folder / "project", {}, overlays=[{"pull": name, **overlay}])
        self.vendored = self.root / f"overlays/{name.replace('/', '-').replace('#', '-')}.diff"
        self.env = {
            "BUILDER_GITHUB_URL": hub.url, "BUILDER_GITHUB_API_URL": hub.url, "BUILDER_CACHE_DIR": str(folder / "cache"),
        }  # fmt: skip

    def run(self, *arguments: str, **env: str) -> Ran:
        return builder(*arguments, cwd=self.root, env={**self.env, **env})

    def lock(self, *arguments: str, **env: str) -> Ran:
        return self.run("lock", "small", *arguments, **env)


class Thief:
    """A server that is not GitHub, and notes everything that it is told."""

    def __init__(self) -> None:
        told = self.told = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.append(f"{self.path} {dict(self.headers)}")
                self.send_error(404)

            do_POST = do_GET  # noqa: N815  the name is http.server's

            def log_message(self, *arguments: object) -> None:
                pass

        # Another address of this machine, so that it is another host to every client.
        self.server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
        self.url = f"http://127.0.0.2:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def thief() -> Iterator[Thief]:
    made = Thief()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("route", ["/repos/", "compare", ".diff", "info/refs", "git-upload-pack"])
def test_nobody_is_told_anything_by_a_redirect(hub: GitHub, thief: Thief, tmp_path: Path, route: str) -> None:
    place = Place(hub, tmp_path)
    if route not in ("/repos/", "compare"):
        hub.faults["/repos/"] = [Fault(404)]
    hub.faults[route] = [Fault(302, headers={"Location": f"{thief.url}/{REPOSITORY}.git/{route}"})]
    done = place.lock("-v", GITHUB_TOKEN=TOKEN)
    assert done.code == (5 if route in ("info/refs", "git-upload-pack") else 0), done.err
    assert thief.told == []
    assert any(TOKEN in str(headers) or "Basic" in str(headers) for _, _, headers in hub.seen)
    if done.code == 5:
        assert "refusing to follow a redirect to http://127.0.0.2" in done.err or "302" in done.err
        assert not place.vendored.exists()


def test_the_token_is_for_the_same_host_by_the_same_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUILDER_GITHUB_URL", raising=False)
    monkeypatch.delenv("BUILDER_GITHUB_API_URL", raising=False)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    for url, ours in {
        "https://api.github.com/repos/x": True,
        "https://github.com/x": True,
        "http://github.com/x": False,
        "http://api.github.com/x": False,
        "https://github.com:8443/x": False,
        "https://patch-diff.githubusercontent.com/x": False,
        "https://user@github.com/x": False,
        "https://github.com.example.org/x": False,
    }.items():
        assert (authorization(url) is not None) is ours, url


def test_the_api_of_another_github_is_its_own(hub: GitHub, tmp_path: Path) -> None:
    """That of github.com has other pull requests under the same names, and is not to see another one's token."""
    place = Place(hub, tmp_path)
    del place.env["BUILDER_GITHUB_API_URL"]
    done = place.lock("--json", GITHUB_TOKEN=TOKEN)
    assert done.code == 0, done.err
    assert done.document["overlays"][0]["rendering"]["via"] == "compare"
    assert [path for _, path, _ in hub.seen if path.startswith("/api/v3/repos/")]


@pytest.mark.parametrize(
    ("url", "api"),
    [
        (None, "https://api.github.com"),
        ("https://github.com/", "https://api.github.com"),
        ("ssh://git@github.com", "https://api.github.com"),
        ("https://bot:pw@github.example.com:8443", "https://github.example.com:8443/api/v3"),
        ("ssh://git@github.example.com:2222", "https://github.example.com/api/v3"),
        ("https://octo.ghe.com", "https://api.octo.ghe.com"),
        ("file:///srv/mirrors", "https://api.github.com"),
    ],
)
def test_where_the_api_is_follows_from_the_address(monkeypatch: pytest.MonkeyPatch, url: str | None, api: str) -> None:
    monkeypatch.delenv("BUILDER_GITHUB_API_URL", raising=False)
    monkeypatch.delenv("BUILDER_GITHUB_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("BUILDER_GITHUB_URL", url)
    assert access.api_url() == api
    monkeypatch.setenv("BUILDER_GITHUB_API_URL", "https://elsewhere.example")
    assert access.api_url() == "https://elsewhere.example"


def test_a_repository_that_was_renamed_is_followed(hub: GitHub, tmp_path: Path) -> None:
    hub.old_name = "vllm-before/vllm"
    by_api = Place(hub, tmp_path / "api", name="vllm-before/vllm#39931")
    assert by_api.lock().code == 0
    hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    by_git = Place(hub, tmp_path / "git", name="vllm-before/vllm#39931")
    done = by_git.lock(GITHUB_TOKEN=TOKEN)
    assert done.code == 0, done.err
    assert by_git.vendored.read_bytes() == by_api.vendored.read_bytes()


class Hasty(Limits):
    """A deadline of 1.5 s for git, which has no clock that a test can own. Our own client's deadline passes when it rings."""

    @property
    def exchange(self) -> float:
        return 1.5


@pytest.mark.parametrize("route", ["/repos/", "info/refs"])
def test_a_server_that_trickles_ends_at_the_deadline(
    hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], route: str
) -> None:
    place = Place(hub, tmp_path)
    owned = Owned(kind=Hasty if route == "info/refs" else Limits)
    owned.install(monkeypatch)
    hub.slow = owned.clock.ring
    hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    hub.faults[route] = [Fault(trickle=60)]
    monkeypatch.chdir(place.root)
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    code = run(["lock", "small", "-v"])
    said = capfd.readouterr().err
    assert code == (0 if route == "/repos/" else 5), said
    assert "did not end within 1.5 s" in said or "the response takes longer than 900 s; asking git" in said
    assert owned.clock.rung == (1 if route == "/repos/" else 0)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_part_of_a_diff_is_not_taken_for_all_of_it(hub: GitHub, tmp_path: Path) -> None:
    """It is a sound diff, its end is the connection's, and nothing is pinned yet: the API's own count tells."""
    whole = Place(hub, tmp_path / "whole")
    assert whole.lock().code == 0
    first = hub.diff("main", hub.pulls[39931].head).split(b"diff --git ")[1]
    hub.faults = {
        "compare": [
            Fault(
                200, json.dumps({"merge_base_commit": {"sha": hub.merge_base("main", "refs/pull/39931/head")}}).encode()
            ),
            Fault(200, b"diff --git " + first, open_end=True),
        ]
    }
    place = Place(hub, tmp_path / "part")
    done = place.lock("-v")
    assert done.code == 0, done.err
    assert "has 1 files, the pull request 2; asking git" in done.err
    assert place.vendored.read_bytes() == whole.vendored.read_bytes()


def test_a_lost_copy_comes_back_from_the_cache_without_a_network(hub: GitHub, tmp_path: Path) -> None:
    place = Place(hub, tmp_path)
    assert place.lock().code == 0
    wanted = place.vendored.read_bytes()
    for arguments in (["--offline"], []):
        place.vendored.unlink()
        refused = place.lock("--check", *arguments, **NOBODY)
        assert refused.code == 4
        assert VENDORED in refused.err
        assert not place.vendored.exists()
        done = place.lock(*arguments, **NOBODY)
        assert done.code == 0, done.err
        assert place.vendored.read_bytes() == wanted
    place.vendored.unlink()
    for kept in (tmp_path / "cache/content").rglob("*"):
        if kept.is_file() and kept.read_bytes() == wanted:
            kept.write_bytes(wanted[:-1])
    damaged = place.lock("--offline", **NOBODY)
    assert damaged.code == 2
    assert "neither vendored under overlays/ nor in the cache" in damaged.err


def test_pinned_commits_that_git_has_fetched_once_are_there_offline(hub: GitHub, tmp_path: Path) -> None:
    pins = {"head": hub.pulls[39931].head, "merge_base": hub.merge_base("main", "refs/pull/39931/head")}
    hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    first = Place(hub, tmp_path, **pins)
    assert first.lock().code == 0
    second = Place(hub, tmp_path / "second", **pins)
    asked = len(hub.seen)
    done = second.lock("--offline", BUILDER_CACHE_DIR=str(tmp_path / "cache"))
    assert done.code == 0, done.err
    assert len(hub.seen) == asked
    assert second.vendored.read_bytes() == first.vendored.read_bytes()
    third = Place(hub, tmp_path / "third", **pins)
    nothing = third.lock("--offline")
    assert nothing.code == 2
    assert "neither vendored under overlays/ nor in the cache" in nothing.err


def test_the_callers_git_is_left_alone(hub: GitHub, tmp_path: Path) -> None:
    """As in a git hook, whose environment names the user's repository."""
    mine = tmp_path / "mine"
    mine.mkdir()
    git(mine, "init", "-q")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    place = Place(hub, tmp_path)
    done = place.lock(
        GIT_DIR=str(mine / ".git"), GIT_WORK_TREE=str(mine), GIT_OBJECT_DIRECTORY=str(mine / ".git/objects"),
        GIT_INDEX_FILE=str(mine / ".git/index"), GIT_SSH_COMMAND="false", GIT_EXTERNAL_DIFF="false",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


def test_what_a_killed_git_leaves_behind_is_no_trouble_and_two_at_once_wait(hub: GitHub, tmp_path: Path) -> None:
    hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    place = Place(hub, tmp_path)
    assert place.lock().code == 0
    [copy] = (tmp_path / "cache/git").iterdir()
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 2\n"}, "pushed", branch="feature"))
    for name in ("config.lock", "packed-refs.lock", "refs/pull/39931.lock"):
        (copy / name).touch()
    done = place.lock("--update", NAME)
    assert done.code == 0, done.err
    assert b"+added = 2" in place.vendored.read_bytes()
    fresh = {"BUILDER_CACHE_DIR": str(tmp_path / "fresh")}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "builder", "lock", "small"], cwd=Place(hub, tmp_path / str(number)).root,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **place.env, **fresh}, stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]  # fmt: skip
    for process in runs:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err


def test_a_report_of_a_bug_has_no_token(
    hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(hub, tmp_path)
    for name, value in {**place.env, "GITHUB_TOKEN": TOKEN, "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.root)
    monkeypatch.setattr("tempfile.tempdir", None)

    def broken(response: object, url: str, context: object) -> object:
        assert TOKEN in str(authorization(url))
        raise RuntimeError("a bug")

    monkeypatch.setattr(access, "_expect", broken)
    assert run(["lock", "small", "-v"]) == 1
    said = capfd.readouterr()
    [report] = tmp_path.glob("builder-bug-*.txt")
    assert "RuntimeError: a bug" in report.read_text()
    assert str(report) in said.err
    assert TOKEN not in said.out + said.err + report.read_text()


def test_a_lock_that_cannot_be_written_leaves_no_new_diff_behind(hub: GitHub, tmp_path: Path) -> None:
    place = Place(hub, tmp_path)
    assert place.lock().code == 0
    before = place.vendored.read_bytes()
    lock = place.root / "images/small.lock.yaml"
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 2\n"}, "pushed", branch="feature"))
    lock.unlink()
    lock.mkdir()
    done = place.lock("--update")
    assert done.code == 2, done.err
    assert "cannot write" in done.err
    assert place.vendored.read_bytes() == before
    assert not [path for path in place.root.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_wrong_input(hub: GitHub, tmp_path: Path, text: str) -> None:
    done = Place(hub, tmp_path).lock(BUILDER_HTTP_TIMEOUT=text)
    assert done.code == 2
    assert "BUILDER_HTTP_TIMEOUT" in done.err


@pytest.mark.parametrize("variable", ["BUILDER_GITHUB_URL", "BUILDER_GITHUB_API_URL"])
@pytest.mark.parametrize("text", ["http://[", "http://host:port", "github.com", "https://", "http://a b", "http://a?b"])
def test_an_address_that_is_none_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str, text: str
) -> None:
    project = make_project(tmp_path / "project", {}, overlays=[{"pull": NAME}])
    monkeypatch.chdir(project)
    for name, value in {**NOBODY, variable: text}.items():
        monkeypatch.setenv(name, value)
    assert run(["lock", "small"]) == 2
    assert f"{variable} is '{text}'" in capfd.readouterr().err


def test_a_password_in_an_address_reaches_no_lock(hub: GitHub, tmp_path: Path) -> None:
    place = Place(hub, tmp_path)
    hub.faults = {"/repos/": [Fault(404)]}
    done = place.lock("-v", BUILDER_GITHUB_URL=hub.url.replace("://", "://bot:hunter2@"))
    assert done.code == 0, done.err
    lock = (place.root / "images/small.lock.yaml").read_text()
    assert f"url: {hub.url}/{REPOSITORY}/pull/39931" in lock
    assert "hunter2" not in lock + done.out + done.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert {headers.get("Authorization") for _, path, headers in hub.seen if ".git/" in path} == {
        basic("bot", "hunter2")
    }


def test_a_password_in_an_address_is_in_no_list_of_processes(hub: GitHub, tmp_path: Path) -> None:
    """git hands the address on to git-remote-https as an argument, which every user of the machine can read."""
    place = Place(hub, tmp_path)
    real = shutil.which("git")
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/seen\nexport GIT_TRACE={tmp_path}/seen\nexec {real} "$@"\n')
    fake.chmod(0o755)
    hub.faults = {"/repos/": [Fault(404)]}
    url = hub.url.replace("://", "://bot:hunter2@")
    done = place.lock(BUILDER_GITHUB_URL=url, PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.code == 0, done.err
    seen = (tmp_path / "seen").read_text()
    assert "remote-http" in seen
    assert "hunter2" not in seen


def test_the_token_is_sent_as_it_is_and_netrc_does_not_take_its_place(hub: GitHub, tmp_path: Path) -> None:
    place = Place(hub, tmp_path)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    done = place.lock(GITHUB_TOKEN=f" {TOKEN}\n", NETRC=str(netrc))
    assert done.code == 0, done.err
    assert {headers.get("Authorization") for _, _, headers in hub.seen} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", "my token", "t\u00f6ken"])
def test_a_token_that_no_header_can_have_is_wrong_input(hub: GitHub, tmp_path: Path, token: str) -> None:
    done = Place(hub, tmp_path).lock(GITHUB_TOKEN=token)
    assert done.code == 2
    assert "GITHUB_TOKEN has characters that no token has" in done.err
    assert token not in done.err
    assert hub.seen == []


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault(401, b"{}"), "set GITHUB_TOKEN: a login is needed"),
        (Fault(403, b"{}", {"X-RateLimit-Remaining": "0", "Retry-After": "3600"}), "until the rate limit is over"),
        (Fault(429, b"{}", {"Retry-After": "0"}), "set GITHUB_TOKEN, or wait a few minutes"),
    ],
)
def test_what_the_api_says_of_token_and_limits_is_the_hint(
    hub: GitHub, tmp_path: Path, fault: Fault, hint: str
) -> None:
    place = Place(hub, tmp_path)
    assert place.lock().code == 0
    hub.faults = {"/repos/": [fault], ".git/": [Fault(401)]}
    for done in (place.lock("--update"), place.run("drift", "small")):
        assert done.code == 5
        assert hint in done.err


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault(403, b'{"message": "Resource protected by organization SAML enforcement."}', {"X-GitHub-SSO": "required; url=https://github.com/x"}), "single sign-on"),
        (Fault(403, b'{"message": "Resource not accessible by personal access token"}'), "may not read this"),
        (Fault(404, b'{"message": "Not Found"}'), "that GITHUB_TOKEN is valid and may read the repository"),
        (Fault(403, b'{"message": "API rate limit exceeded for user ID 1."}', {"X-RateLimit-Remaining": "0", "Retry-After": "3600"}), "wait until the rate limit is over"),
    ],
    ids=["sign-on", "scope", "private", "limit"],
)  # fmt: skip
def test_with_a_token_no_hint_asks_for_one_and_the_apis_reason_is_shown(
    hub: GitHub, tmp_path: Path, fault: Fault, hint: str
) -> None:
    hub.faults = {"/repos/": [fault], ".git/": [Fault(404)]}
    done = Place(hub, tmp_path).lock(GITHUB_TOKEN=TOKEN)
    assert done.code == 5
    assert hint in done.err
    assert json.loads(fault.body)["message"] in done.err
    assert "set GITHUB_TOKEN" not in done.err
    assert "needs GITHUB_TOKEN" not in done.err


def test_a_token_that_the_api_refuses_is_named(hub: GitHub, tmp_path: Path) -> None:
    hub.faults = {"/repos/": [Fault(401, b"{}")], ".git/": [Fault(401)]}
    done = Place(hub, tmp_path).lock(GITHUB_TOKEN=TOKEN)
    assert done.code == 5
    assert "GITHUB_TOKEN is not valid" in done.err


def test_a_branch_is_quoted_in_the_apis_routes(hub: GitHub, tmp_path: Path) -> None:
    """Also its own name has to be that of a branch, and a number sign would end the path."""
    change: dict[str, bytes | None] = {"vllm/old.py": b"gone = 1\n"}
    hub.commit({"vllm/config.py": b"option = 1\n"}, "of the branch", branch="fix#1/100%25")
    hub.publish("fix#1/100%25")
    hub.rewrite("feature-2", "fix#1/100%25")
    hub.open_pull(39931, hub.commit(change, "for it", branch="feature-2"), base="fix#1/100%25")
    place = Place(hub, tmp_path)
    done = place.lock("-v")
    assert done.code == 0, done.err
    assert "asking git" not in done.err
    assert place.vendored.read_bytes().count(b"diff --git") == 1


def test_what_a_hint_says_can_be_run(hub: GitHub, tmp_path: Path) -> None:
    place = Place(hub, tmp_path)
    assert place.lock().code == 0
    wanted = place.vendored.read_bytes()
    place.vendored.write_bytes(wanted.replace(b"2020", b"2222"))
    said = [place.lock().err, place.run("drift", "small").out]
    for text in said:
        assert f"`builder lock small --update {NAME}` fetches the pull request as it is now" in text
    assert place.lock("--update", NAME).code == 0
    assert place.vendored.read_bytes() == wanted
    place.vendored.unlink()
    hub.faults = {"compare": [Fault(200, wanted.replace(b"2020", b"2222"))], ".git/": [Fault(500)]}
    lost = place.lock("-v", BUILDER_CACHE_DIR=str(tmp_path / "empty"))
    assert lost.code == 5
    assert "is not the one that was locked" in lost.err
    offline = place.lock("--offline", BUILDER_CACHE_DIR=str(tmp_path / "empty"))
    assert offline.code == 2
    assert "run `builder lock small` once with the network" in offline.err
