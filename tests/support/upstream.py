"""A pull request that was locked, and the things that become of it: pushed to, rebased, merged, deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cli import Ran, builder
from tests.support.github import REPOSITORY, GitHub, github
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git

PULL = f"{REPOSITORY}#39931"
EDITED = FILES["vllm/config.py"].replace(b"option_20 = 20\n", b"option_20 = 2020\n")


@dataclass
class World:
    """A project that was locked, and the GitHub that it was locked from."""

    hub: GitHub
    project: Path
    env: dict[str, str]

    def run(self, *arguments: str, **env: str) -> Ran:
        return builder(*arguments, cwd=self.project, env={**self.env, **env})

    def drift(self, **env: str) -> tuple[int, dict[str, Any]]:
        done = self.run("drift", "small", "--json", **env)
        assert done.code in (0, 4), done.err
        return done.code, done.document["findings"][0]

    def digest(self) -> str:
        done = self.run("build", "small", "--engine", "oci", "--json")
        assert done.code == 0, done.err
        return str(done.document["digest"])


@contextmanager
def pull_of_two_files(folder: Path) -> Iterator[GitHub]:
    """A GitHub with one open pull request, behind whose back main has gone on."""
    with github(folder) as hub:
        hub.commit({**FILES}, "base")
        change: dict[str, bytes | None] = {"vllm/added.py": b"added = 1\n", "vllm/config.py": EDITED}
        hub.open_pull(39931, hub.commit(change, "the change", branch="feature"))
        hub.commit({"README.md": b"main goes on\n"}, "elsewhere")
        yield hub


@contextmanager
def locked_world(tmp_path: Path) -> Iterator[World]:
    """A recipe with one pull request, just locked."""
    with github(tmp_path / "github") as hub:
        hub.commit({**FILES, "README.md": b"one\n"}, "base")
        hub.tag("v0.0.1")
        head = hub.commit({"vllm/config.py": EDITED}, "the change", branch="feature")
        hub.open_pull(39931, head)
        project = make_project(tmp_path / "project", {}, overlays=[{"pull": PULL}])
        env = {
            "BUILDER_GITHUB_URL": hub.url,
            "BUILDER_GITHUB_API_URL": hub.url,
            "BUILDER_CACHE_DIR": str(tmp_path / "builder-cache"),
            "BUILDER_HTTP_TIMEOUT": "2",
        }
        made = World(hub, project, env)
        done = made.run("lock", "small")
        assert done.code == 0, done.err
        yield made


def rerender(hub: GitHub) -> None:
    hub.abbreviation = 14


def push(hub: GitHub) -> None:
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 1\n"}, "more", branch="feature"))


def retrigger(hub: GitHub) -> None:
    """An empty commit, so that CI runs once more."""
    git(hub.work, "checkout", "-q", "feature")
    git(hub.work, "commit", "-q", "--allow-empty", "-m", "run CI again")
    hub.open_pull(39931, git(hub.work, "rev-parse", "feature").decode().strip())


def amend(hub: GitHub) -> None:
    """The same change under another message."""
    hub.rewrite("feature", "main")
    hub.open_pull(39931, hub.commit({"vllm/config.py": EDITED}, "the change, said better", branch="feature"))


def move_line(hub: GitHub) -> None:
    """The added line stands elsewhere in the file: as lines they are the same."""
    hub.rewrite("feature", "main")
    lines = EDITED.splitlines(keepends=True)
    lines.insert(30, lines.pop(20))
    hub.open_pull(39931, hub.commit({"vllm/config.py": b"".join(lines)}, "elsewhere", branch="feature"))


def push_with_main(hub: GitHub) -> None:
    """main goes on by six commits, which are merged into the branch, and then comes a commit of its own."""
    for number in range(6):
        hub.commit({"README.md": b"%d\n" % number}, "main goes on")
    hub.merge_base_in("feature")
    push(hub)


def take_main(hub: GitHub) -> None:
    hub.commit({"README.md": b"two\n"}, "main goes on")
    hub.open_pull(39931, hub.merge_base_in("feature"))


def take_back(hub: GitHub) -> None:
    hub.open_pull(39931, hub.commit({"vllm/config.py": FILES["vllm/config.py"]}, "taken back", branch="feature"))


def empty(hub: GitHub) -> None:
    hub.rewrite("feature", "main")
    retrigger(hub)


def add_odd_name(hub: GitHub) -> None:
    """A diff that no overlay can be."""
    hub.open_pull(39931, hub.commit({"vllm/odd\tname.py": b"odd = 1\n"}, "odd", branch="feature"))


def force_push(hub: GitHub) -> None:
    hub.rewrite("feature", "main")
    other = EDITED.replace(b"2020", b"2121")
    hub.open_pull(39931, hub.commit({"vllm/config.py": other}, "another change", branch="feature"))


def rebase(hub: GitHub) -> None:
    above = b"first = 1\n" + FILES["vllm/config.py"]
    hub.commit({"vllm/config.py": above}, "main goes on")
    hub.open_pull(39931, hub.rebase("feature"))


def close(hub: GitHub) -> None:
    hub.pulls[39931].state = "closed"


def squash(hub: GitHub) -> None:
    hub.merge(39931, squash=True)
    hub.tag("v0.0.3rc1")
    hub.tag("v0.0.3")
    hub.tag("v0.0.4")


def merge(hub: GitHub) -> None:
    hub.commit({"README.md": b"two\n"}, "main goes on")
    hub.merge(39931, squash=False, tag="v0.0.2")


def merge_untagged(hub: GitHub) -> None:
    hub.merge(39931, squash=True)


def revert(hub: GitHub) -> None:
    """Merged, and taken back before any release."""
    hub.revert(hub.merge(39931, squash=True))
    hub.tag("v0.0.3")


def revert_later(hub: GitHub) -> None:
    hub.revert(hub.merge(39931, squash=True, tag="v0.0.3"))
    hub.tag("v0.0.4")


def revert_merge(hub: GitHub) -> None:
    """A merge commit, whose revert names the merge."""
    hub.revert(hub.merge(39931, squash=False))
    hub.tag("v0.0.3")


def delete(hub: GitHub) -> None:
    hub.delete(39931)


CASES: dict[str, tuple[Callable[[GitHub], None] | None, int, str, str]] = {
    "nothing": (None, 0, "unchanged", ""),
    "re-rendered": (rerender, 0, "re-rendered", "same canonical digest"),
    "pushed to": (push, 4, "new commits", "1 commit more"),
    "force-pushed": (force_push, 4, "force-pushed", "change is another"),
    "pushed to, with main": (push_with_main, 4, "new commits", "2 commits more, a merge of its base branch among them"),
    "CI run again": (retrigger, 4, "new commits", "1 commit more, and the change is the same"),
    "taken back": (take_back, 4, "new commits", "it changes nothing against main now"),
    "emptied": (empty, 4, "force-pushed", "it changes nothing against main now"),
    "no overlay any more": (add_odd_name, 4, "new commits", "its diff cannot be used now"),
    "amended": (amend, 4, "force-pushed", "its commits were written anew, and the change is the same"),
    "moved in its file": (move_line, 4, "force-pushed", "the change is another"),
    "main merged in": (take_main, 4, "rebased", "its base branch was merged into it"),
    "rebased": (rebase, 4, "rebased", "the same change on another base"),
    "closed": (close, 4, "closed", "without being merged"),
    "squashed": (squash, 4, "merged", "first released in v0.0.3"),
    "merged": (merge, 4, "merged", "first released in v0.0.2"),
    "merged, no tag": (merge_untagged, 4, "merged", "in no tag yet"),
    "reverted": (revert, 4, "merged", "and in no release"),
    "reverted later": (revert_later, 4, "merged", "first released in v0.0.3, and reverted as"),
    "merge reverted": (revert_merge, 4, "merged", "and in no release"),
    "deleted": (delete, 4, "gone", "neither the API nor git"),
}
