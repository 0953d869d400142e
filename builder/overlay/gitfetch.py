"""Pull requests by git: `refs/pull/N/head`, which stays fetchable when the fork is gone.

A bare repository in the cache takes commits first and trees and files only as far as the diff needs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from builder.errors import UnreachableError
from builder.files import cache_dir
from builder.overlay.http import github_url, wait_limit
from builder.process import environment

if TYPE_CHECKING:
    from git import Repo
    from git.exc import GitCommandError

Answer = TypeVar("Answer")

_DIFF_OPTIONS = (
    "--full-index",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--find-renames",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--unified=3",
    "--diff-algorithm=myers",
)


@dataclass(frozen=True)
class GitPull:
    """A pull request's commits and the diff between them."""

    head: str
    merge_base: str
    diff: bytes


def fetch_by_git(repository: str, number: int, *, head: str | None, merge_base: str | None) -> GitPull:
    """Fetch a pull request. With `head` and `merge_base`, exactly these commits; else its current state.

    Raises `UnreachableError` when the repository or the commits cannot be had.
    """
    from git.exc import GitCommandError, GitCommandNotFound

    try:
        repo = _open(repository)
        with repo:
            return _fetch(repo, number, head, merge_base)
    except GitCommandNotFound as error:
        raise UnreachableError("git is not installed", hint="install git (Debian: apt-get install git)") from error
    except GitCommandError as error:
        raise _failed(repository, number, error) from error


class History:
    """What git alone can tell of a pull request, from commits without trees. Commits are fetched when they are asked for.

    Every method raises `UnreachableError` when the repository does not answer.
    """

    def __init__(self, repository: str, number: int) -> None:
        self._repository = repository
        self._number = number

    def current_head(self) -> str | None:
        """The head now; None when the repository or the pull request's ref is not there."""
        try:
            said = self._ask(lambda repo: str(repo.git.ls_remote("origin", f"refs/pull/{self._number}/head")))
        except UnreachableError as error:
            if any("not found" in text.lower() for _, text in error.details):
                return None
            raise
        return said.split()[0] if said.strip() else None

    def commits_between(self, old: str, new: str) -> int | None:
        """How many commits `new` has on top of `old`; None when `old` is not among its ancestors."""
        from git.exc import GitCommandError

        def count(repo: Repo) -> int | None:
            for commit in (new, old):
                if not _has(repo, commit):
                    try:
                        _get(repo, [commit])
                    except GitCommandError:
                        # A commit that nobody has any more cannot be an ancestor.
                        return None
            if not _is_ancestor(repo, old, new):
                return None
            return int(repo.git.rev_list("--count", f"{old}..{new}"))

        return self._ask(count)

    def merged_commit(self, head: str) -> str | None:
        """The default branch's commit that brought the pull request: by ancestry, or by a subject that ends in `(#N)`."""

        def find(repo: Repo) -> str | None:
            _get(repo, ["+HEAD:refs/base/HEAD", f"+refs/pull/{self._number}/head:refs/pull/{self._number}"])
            if _is_ancestor(repo, head, "refs/base/HEAD"):
                return head
            named = self._by_subject(repo, "refs/base/HEAD")
            return named[-1] if named else None

        return self._ask(find)

    def first_release(self, commit: str | None) -> str | None:
        """The lowest version tag that has `commit`, or a cherry-pick of it whose subject ends in `(#N)`."""
        from packaging.version import InvalidVersion, Version

        def find(repo: Repo) -> str | None:
            _get(repo, ["+HEAD:refs/base/HEAD", "+refs/tags/*:refs/tags/*"])
            commits = [commit] if commit is not None and _has(repo, commit) else []
            commits += self._by_subject(repo, "--tags")
            versions: dict[Version, str] = {}
            for each in commits:
                for tag in str(repo.git.tag("--contains", each)).split():
                    try:
                        versions[Version(tag)] = tag
                    except InvalidVersion:
                        continue
            final = [version for version in versions if not version.is_prerelease]
            return versions[min(final or versions)] if versions else None

        return self._ask(find)

    def _by_subject(self, repo: Repo, where: str) -> list[str]:
        """Commits whose subject ends in `(#N)`, as GitHub writes a squash; newest first."""
        lines = str(repo.git.log(where, "--fixed-strings", f"--grep=(#{self._number})", "--format=%H %s")).splitlines()
        return [line.split(" ", 1)[0] for line in lines if line.endswith(f"(#{self._number})")]

    def _ask(self, question: Callable[[Repo], Answer]) -> Answer:
        from git.exc import GitCommandError, GitCommandNotFound

        try:
            with _open(self._repository) as repo:
                return question(repo)
        except GitCommandNotFound as error:
            raise UnreachableError("git is not installed", hint="install git (Debian: apt-get install git)") from error
        except GitCommandError as error:
            raise _failed(self._repository, self._number, error) from error


def _failed(repository: str, number: int, error: GitCommandError) -> UnreachableError:
    said = _without_secrets(str(error.stderr or error).strip().removeprefix("stderr: '").rstrip("'"))
    return UnreachableError(
        f"git cannot fetch {repository}#{number}",
        details=[("from", _remote(repository)), ("said", said[-600:])],
        hint="check the network and the number; a private repository needs GITHUB_TOKEN",
    )


def _remote(repository: str) -> str:
    return f"{github_url()}/{repository}.git"


def _open(repository: str) -> Repo:
    from git import Repo

    place = urlsplit(github_url()).netloc or "local"
    folder = cache_dir("git") / re.sub(r"[^A-Za-z0-9.-]", "_", f"{place}-{repository}.git")
    repo = Repo(folder) if (folder / "HEAD").is_file() else Repo.init(folder, bare=True)
    repo.git.update_environment(**_environment())
    with repo.config_writer() as config:
        config.set_value('remote "origin"', "url", _remote(repository))
        config.set_value('remote "origin"', "promisor", "true")
        config.set_value('remote "origin"', "partialclonefilter", "tree:0")
        config.set_value("gc", "auto", "0")
    return repo


def _environment() -> dict[str, str]:
    """git without the user's configuration, without prompts, and with limits; the token only for GitHub's address."""
    clean = dict.fromkeys((name for name in os.environ if name.startswith("GIT_")), "")
    settings = {
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": str(max(1, int(wait_limit()))),
        "protocol.allow": "never",
        "protocol.https.allow": "always",
        "protocol.http.allow": "always",
        "protocol.ssh.allow": "always",
        "protocol.file.allow": "always",
    }
    token = os.environ.get("GITHUB_TOKEN")
    if token and github_url().startswith("http"):
        import base64

        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        settings[f"http.{github_url()}/.extraHeader"] = f"Authorization: Basic {basic}"
    pairs: dict[str, str] = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        pairs |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    return {
        **{name: value for name, value in clean.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")},
        **environment(),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        **pairs,
    }


def _fetch(repo: Repo, number: int, head: str | None, merge_base: str | None) -> GitPull:
    if head is None or not _has(repo, head):
        _get(repo, [f"+refs/pull/{number}/head:refs/pull/{number}"])
    current = str(repo.git.rev_parse(f"refs/pull/{number}")) if head is None else head
    if not _has(repo, current):
        _get(repo, [current])
    if merge_base is None:
        _get(repo, ["+HEAD:refs/base/HEAD"])
        merge_base = str(repo.git.merge_base(current, "refs/base/HEAD"))
    elif not _has(repo, merge_base):
        _get(repo, [merge_base])
    diff = repo.git.diff(*_DIFF_OPTIONS, merge_base, current, stdout_as_string=False, strip_newline_in_stdout=False)
    return GitPull(current, merge_base, bytes(diff))


def _has(repo: Repo, commit: str) -> bool:
    from git.exc import GitCommandError

    try:
        # Without asking the remote: a partial clone would fetch a missing object at once.
        with repo.git.custom_environment(GIT_NO_LAZY_FETCH="1"):
            repo.git.cat_file("-e", f"{commit}^{{commit}}")
    except GitCommandError:
        return False
    return True


def _is_ancestor(repo: Repo, old: str, new: str) -> bool:
    from git.exc import GitCommandError

    try:
        repo.git.merge_base("--is-ancestor", old, new)
    except GitCommandError as error:
        if error.status == 1:
            return False
        raise
    return True


def _get(repo: Repo, refs: list[str]) -> None:
    repo.git.fetch(
        "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=tree:0", "origin", *refs, kill_after_timeout=900
    )


def _without_secrets(text: str) -> str:
    token = os.environ.get("GITHUB_TOKEN")
    text = re.sub(r"://[^/@\s]+@", "://", text)
    return text.replace(token, "***") if token else text
