"""git on its own: killed runs, the user's configuration, servers that ask to wait, and what a history tells."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cli.console import Console
from builder.pulls.gitfetch import fetch_by_git
from builder.pulls.gitremote import GitRemote
from builder.pulls.history import History, Landing
from builder.util.context import Context
from builder.util.errors import UnreachableError
from builder.util.limits import Limits
from builder.util.process import TimeLimitError
from builder.util.process import run as run_program
from tests.support.cli import builder
from tests.support.clock import ManualClock, Owned
from tests.support.github import REPOSITORY, Fault, GitHub
from tests.support.smallwheel import make_project
from tests.support.trees import git
from tests.support.upstream import EDITED, pull_of_two_files

NAME = f"{REPOSITORY}#39931"
BY_GIT = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
TITLE = "Hybrid TurboQuant"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    """A GitHub whose API has no pull request, so that git is asked."""
    with pull_of_two_files(tmp_path / "github") as server:
        server.faults = dict(BY_GIT)
        monkeypatch.setenv("BUILDER_GITHUB_URL", server.url)
        monkeypatch.setenv("BUILDER_GITHUB_API_URL", server.url)
        monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project", {}, overlays=[{"pull": NAME}])


def history(**known: str) -> History:
    return History(REPOSITORY, 39931, **{"title": TITLE, "base_branch": "main", **known}, context=Context())


def push_tag(hub: GitHub, name: str, thing: str) -> None:
    git(hub.work, "push", "-q", str(hub.bare), f"{thing}:refs/tags/{name}")


def test_a_killed_builder_takes_its_git_with_it(hub: GitHub, project: Path) -> None:
    """A server that trickles would keep a git that goes on alone, and the lock with it."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    # The first request is our own, whose answer is not read; the second is git's.
    hub.faults["info/refs"] = [Fault(trickle=60), Fault(trickle=60)]
    killed = subprocess.Popen(
        [sys.executable, "-m", "builder", "lock", "small"], cwd=project, env=env, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while "git/" not in str([headers.get("User-Agent") for _, _, headers in hub.seen]):
        assert time.monotonic() < end
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    hub.faults = dict(BY_GIT)
    done = builder("lock", "small", cwd=project)
    assert done.code == 0, done.err
    assert "waiting" not in done.err


def test_a_copy_that_another_run_keeps_is_waited_for_with_a_word_and_a_limit(
    hub: GitHub, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = GitRemote(REPOSITORY, context=Context())._folder
    owned = Owned()
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UnreachableError) as caught:
            GitRemote(REPOSITORY, context=Context(Console(), limits=owned.limits)).heads()
    finally:
        os.close(handle)
    assert f"another run has had {folder} for 900 s" in str(caught.value)
    assert capfd.readouterr().err.count(f"waiting for another run that uses {folder}, up to 900 s") == 1
    assert sum(owned.clock.pauses) > 900


def test_the_users_configuration_templates_hooks_and_attributes_are_not_used(
    hub: GitHub, project: Path, tmp_path: Path
) -> None:
    home, template = tmp_path / "home", tmp_path / "template"
    for folder in (home / ".config/git", template / "hooks"):
        folder.mkdir(parents=True)
    hook = template / "hooks/reference-transaction"
    hook.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(f"[init]\n\ttemplateDir = {template}\n")
    (home / ".config/git/attributes").write_text("*.py -diff\n")
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "GIT_TEMPLATE_DIR": str(template)}
    done = builder("lock", "small", cwd=project, env=env)
    assert done.code == 0, done.err
    assert not (tmp_path / "ran").exists()
    [copy] = (tmp_path / "cache/git").iterdir()
    assert not (copy / "hooks").exists()
    # A copy that got its hook before is there still.
    (copy / "hooks").mkdir()
    (copy / "hooks/reference-transaction").symlink_to(hook)
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 2\n"}, "pushed", branch="feature"))
    assert builder("lock", "small", "--update", cwd=project, env=env).code == 0
    assert not (tmp_path / "ran").exists()


def test_a_broken_configuration_of_the_user_is_no_trouble(hub: GitHub, project: Path, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[broken\n")
    done = builder("lock", "small", cwd=project, env={"HOME": str(tmp_path), "GIT_COMMON_DIR": str(tmp_path)})
    assert done.code == 0, done.err
    [copy] = (tmp_path / "cache/git").iterdir()
    assert git(copy, "config", "gc.auto") == b"0\n"


def test_a_cache_folder_is_taken_by_its_letters(hub: GitHub, project: Path, tmp_path: Path) -> None:
    for name in ("a $HOME b", "~root", "${x"):
        done = builder(
            "lock", "small", "--update", cwd=project, env={"BUILDER_CACHE_DIR": name, "GIT_PYTHON_REFRESH": "x"}
        )
        assert done.code == 0, done.err
        assert (project / name / "git").is_dir()


def instead_of_git(tmp_path: Path, script: str) -> str:
    """A search path on which `git` is a shell script."""
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    return f"{fake.parent}:{os.environ['PATH']}"


def test_a_copy_that_cannot_be_made_is_wrong_input(hub: GitHub, project: Path, tmp_path: Path) -> None:
    path = instead_of_git(tmp_path, '[ "$1" = init ] || exec /usr/bin/git "$@"\necho no room >&2; exit 1')
    done = builder("lock", "small", cwd=project, env={"PATH": path})
    assert done.code == 2
    assert "git cannot make a repository" in done.err
    assert "no room" in done.err


def test_a_git_that_is_too_old_is_named(hub: GitHub, project: Path, tmp_path: Path) -> None:
    path = instead_of_git(tmp_path, "echo git version 2.30.2")
    done = builder("lock", "small", cwd=project, env={"PATH": path})
    assert done.code == 5
    assert "git is older than 2.32" in done.err
    assert "install git 2.32 or later" in done.err


def test_git_waits_as_long_as_the_server_asks(hub: GitHub) -> None:
    """The server is well again after that pause, and long after what four attempts would wait by themselves."""
    hub.faults["info/refs"] = [Fault(429, headers={"Retry-After": "20"})]

    def recover(seconds: float) -> None:
        if seconds == 20:
            hub.faults.pop("info/refs", None)

    owned = Owned(ManualClock(recover))
    assert "HEAD" in GitRemote(REPOSITORY, context=owned.context).heads()
    assert owned.clock.pauses == [20.0]


def test_a_server_that_takes_no_connection_is_given_up(hub: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue of connections: Linux drops what asks for one more. git alone would wait for minutes."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        monkeypatch.setenv("BUILDER_GITHUB_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        clock = ManualClock()
        with pytest.raises(UnreachableError, match="no connection was made in time"):
            GitRemote(REPOSITORY, context=Context(limits=Limits(silence=0.3, clock=clock))).heads()
        assert len(clock.pauses) == 3
        for each in waiting:
            each.close()


def test_what_the_cache_has_is_diffed_without_a_server(hub: GitHub) -> None:
    first = fetch_by_git(REPOSITORY, 39931, head=None, merge_base=None, context=Context())
    hub.faults = {"/": [Fault(500)]}
    assert fetch_by_git(REPOSITORY, 39931, head=first.head, merge_base=first.merge_base, context=Context()) == first


def test_a_number_in_another_repositorys_subject_is_no_merge(hub: GitHub) -> None:
    """ROCm/vllm and other forks carry upstream's commits, and the numbers in their subjects are upstream's."""
    hub.commit({"README.md": b"upstream's\n"}, "[Bugfix] something of upstream (#39931)")
    hub.tag("v0.0.1.post1")
    head = hub.pulls[39931].head
    assert history().merged_commit(head) is None
    assert History(REPOSITORY, 39931, context=Context()).merged_commit(head) is None
    commit = hub.merge(39931, squash=True, tag="v0.0.9")
    assert history().merged_commit(head) == commit
    for known in (commit, None):
        assert history().first_release(known) == "v0.0.9"
    assert history(title="another").first_release(None) is None


def test_a_squash_is_known_by_its_only_commits_subject_too(hub: GitHub) -> None:
    """GitHub names a squash of one commit after that commit."""
    pull = hub.pulls[39931]
    pull.title = "the change"
    commit = hub.merge(39931, squash=True)
    assert history(title="what it was called when it was locked").merged_commit(pull.head) == commit


def test_a_commit_that_the_head_has_did_not_bring_it(hub: GitHub) -> None:
    """The same title once more, before the pull request began: as when a change is taken back and made again."""
    hub.commit({"README.md": b"earlier\n"}, f"{TITLE} (#39931)")
    hub.tag("v0.0.2")
    hub.rewrite("again", "main")
    head = hub.commit({"vllm/config.py": EDITED}, "again", branch="again")
    hub.open_pull(39931, head)
    assert history().merged_commit(head) is None


def test_a_cherry_pick_of_the_squash_is_a_release_of_it(hub: GitHub) -> None:
    commit = hub.merge(39931, squash=True, tag="v0.2.0")
    git(hub.work, "checkout", "-q", "-b", "releases", "main~1")
    git(hub.work, "cherry-pick", commit)
    push_tag(hub, "v0.1.1", "releases")
    assert history().first_release(commit) == "v0.1.1"


BACK = {
    "by git": (None, True),
    "by GitHub's button": (f'Revert "{TITLE} (#39931)" (#40001)\n\nReverts vllm-project/vllm#39931', True),
    "by its number alone": ("[Bugfix] Back to what it was (#40001)\n\nReverts #39931\n", True),
    "of the same title": (f'Revert "{TITLE} (#39931)" (#40001)', True),
    "of another repository's number": ("Revert it (#40001)\n\nReverts ROCm/vllm#39931", False),
    "of another number": ("Back (#40001)\n\nReverts #399310", False),
    "of another title": ('Revert "Something else (#39930)" (#40001)', False),
}


@pytest.mark.parametrize("name", BACK)
def test_a_version_that_has_the_revert_too_does_not_have_it(hub: GitHub, name: str) -> None:
    message, counts = BACK[name]
    commit = hub.merge(39931, squash=True, tag="v0.1.0")
    back = hub.revert(commit, message)
    hub.tag("v0.2.0")
    expected = Landing("v0.1.0", back, "v0.2.0") if counts else Landing("v0.1.0")
    assert history().landing(commit) == expected
    again = hub.revert(back, f'Reapply "{TITLE} (#39931)" (#40002)' if name == "of the same title" else None)
    hub.tag("v0.3.0")
    assert history().landing(commit) == Landing("v0.1.0", None, "v0.2.0" if counts else None)
    hub.revert(again)
    assert history().landing(commit).reverted == (back if counts else None)


def test_a_revert_on_a_branch_of_releases_counts_there(hub: GitHub) -> None:
    """main keeps it, and the release that was cut does not."""
    commit = hub.merge(39931, squash=True, tag="v0.1.0rc1")
    back = hub.revert(commit)
    push_tag(hub, "v0.1.0", back)
    git(hub.work, "reset", "-q", "--hard", commit)
    hub.commit({"README.md": b"main goes further\n"}, "elsewhere once more")
    hub.tag("v0.2.0")
    assert history().landing(commit) == Landing("v0.2.0")


def test_a_merge_is_looked_for_in_the_branch_that_it_is_for(hub: GitHub) -> None:
    git(hub.work, "push", "-q", str(hub.bare), "main:refs/heads/release")
    head = hub.pulls[39931].head
    git(hub.work, "checkout", "-q", "-b", "release", "main")
    git(hub.work, "merge", "-q", "--no-ff", "-m", "Merge pull request #39931 from octocat/x", head)
    git(hub.work, "push", "-q", str(hub.bare), "release")
    assert history(base_branch="release").merged_commit(head) == head
    assert history().merged_commit(head) is None
    # A branch that is gone is none to look in; the default one is.
    assert history(base_branch="never/was").merged_commit(head) is None


def test_tags_that_are_no_versions_are_left_alone(hub: GitHub) -> None:
    """A tag on a tree cannot be had without trees: git ends with "did not send all necessary objects"."""
    commit = hub.merge(39931, squash=True, tag="v0.0.8")
    push_tag(hub, "a-tree", "main^{tree}")
    push_tag(hub, "nightly", "main")
    assert history().first_release(commit) == "v0.0.8"
    git(hub.work, "tag", "-a", "-m", "annotated", "v0.0.7", commit)
    push_tag(hub, "v0.0.7", "refs/tags/v0.0.7")
    assert history().first_release(commit) == "v0.0.7"


def test_a_base_branch_may_have_the_name_of_a_folder_of_another(hub: GitHub) -> None:
    for branch in ("release", "release/v1"):
        git(hub.work, "push", "-q", str(hub.bare), f"main:refs/heads/{branch}")
        found = fetch_by_git(REPOSITORY, 39931, head=None, merge_base=None, base_branch=branch, context=Context())
        assert b"+option_20 = 2020" in found.diff
        git(hub.bare, "update-ref", "-d", f"refs/heads/{branch}")


def test_a_repository_without_its_default_branch_is_a_repository(hub: GitHub) -> None:
    git(hub.bare, "symbolic-ref", "HEAD", "refs/heads/nothing")
    head = hub.pulls[39931].head
    assert history().current_head() == head
    assert history().merged_commit(head) is None
    assert History(REPOSITORY, 39931, context=Context()).merged_commit(head) is None
    assert History(REPOSITORY, 1, context=Context()).current_head() is None
    assert (
        b"+option_20"
        in fetch_by_git(REPOSITORY, 39931, head=None, merge_base=None, base_branch="main", context=Context()).diff
    )


def test_a_page_is_not_a_repository_without_refs(hub: GitHub) -> None:
    hub.faults["info/refs"] = [Fault(200, b"<html>sign in</html>")]
    with pytest.raises(UnreachableError, match="cannot fetch"):
        History(REPOSITORY, 39931, context=Owned().context).current_head()


def test_a_merged_pull_request_is_locked_from_where_it_left_its_branch(
    hub: GitHub, project: Path, tmp_path: Path
) -> None:
    """After a merge commit the merge base of the two is the head itself, and nothing lies between them."""
    assert builder("lock", "small", cwd=project).code == 0
    vendored = project / "overlays/vllm-project-vllm-39931.diff"
    before = vendored.read_bytes()
    base = hub.merge_base("main", hub.pulls[39931].head)
    hub.merge(39931, squash=False)
    hub.commit({"README.md": b"and on\n"}, "main goes on")
    done = builder("lock", "small", "--update", "--json", cwd=project)
    assert done.code == 0, done.err
    assert done.document["overlays"][0]["merge_base"] == base
    vendored.unlink()
    again = builder("lock", "small", cwd=project, env={"BUILDER_CACHE_DIR": str(tmp_path / "fresh")})
    assert again.code == 0, again.err
    assert vendored.read_bytes() == before


def test_a_server_that_sends_nothing_does_not_send_git_in_circles(hub: GitHub, tmp_path: Path) -> None:
    """To git an empty response is a server of the old kind; its fetch then fetches what it lacks by a fetch, and so on."""
    remote = GitRemote(REPOSITORY, context=Owned().context)
    remote._settle()
    hub.faults = {".git/": [Fault(200, b"")]}
    with pytest.raises(UnreachableError):
        remote.fetch("+refs/pull/39931/head:refs/pull/39931")
    assert len(hub.seen) < 60


def test_a_program_that_starts_too_many_is_ended(tmp_path: Path) -> None:
    script = f"for i in 1 2 3 4 5 6; do (sleep 600; touch {tmp_path}/left) & done; wait"
    with pytest.raises(TimeLimitError, match="more than 5 programs"):
        run_program(["sh", "-c", script], most_processes=5)
    assert run_program(["sh", "-c", "sleep 1; echo done"], most_processes=5).stdout == b"done\n"
