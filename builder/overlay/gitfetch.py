"""Pull requests by git: `refs/pull/N/head`, which stays fetchable when the fork is gone.

A bare repository in the cache takes commits first and trees and files only as far as the diff needs them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.errors import UnreachableError
from builder.files import cache_dir
from builder.overlay.http import github_url, wait_limit
from builder.process import environment

if TYPE_CHECKING:
    from git import Repo

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
        said = _without_secrets(str(error.stderr or error).strip().removeprefix("stderr: '").rstrip("'"))
        raise UnreachableError(
            f"git cannot fetch {repository}#{number}",
            details=[("from", _remote(repository)), ("said", said[-600:])],
            hint="check the network and the number; a private repository needs GITHUB_TOKEN",
        ) from error


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


def _get(repo: Repo, refs: list[str]) -> None:
    repo.git.fetch(
        "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=tree:0", "origin", *refs, kill_after_timeout=900
    )


def _without_secrets(text: str) -> str:
    token = os.environ.get("GITHUB_TOKEN")
    text = re.sub(r"://[^/@\s]+@", "://", text)
    return text.replace(token, "***") if token else text
