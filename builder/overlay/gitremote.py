"""One GitHub repository as git sees it: a bare copy in the cache, and the one way in which git talks to the server.

The policy is that of `builder.overlay.http`: limits on every wait, bounded tries, redirects to known hosts only, and
the token for GitHub alone. git itself knows none of this: it waits for ever where a server trickles, gives up at the
first cut answer, and sends an extra header on to wherever its first request was redirected.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import UnreachableError
from builder.files import cache_dir
from builder.limits import SIZE_LIMIT, TRIES, exchange_limit, pause_before, wait_limit
from builder.overlay.http import final_address, github_url
from builder.process import TimeLimitError, run

# What git (2.39 to 2.50, in the C locale) says when the server answered and has no such thing.
_NO_REPOSITORY = re.compile(r"repository '.*' not found|Repository not found")
_NO_COMMIT = re.compile(r"not our ref|request for unadvertised object")
_NO_REF = "couldn't find remote ref"
# An HTTP status that another try does not change; 408 and 429 are not among them.
_REFUSED = re.compile(
    r"returned error: 4(?!08|29)\d\d|Authentication failed|could not read (?:Username|Password)|terminal prompts disabled"
)
_REDIRECTED = re.compile(r"returned error: 30[12378]")


class GitError(UnreachableError):
    """git did not get what it asked for. `said` is its standard error, without secrets; another try does not help
    where it was `refused`."""

    def __init__(self, repository: str, said: str, *, refused: bool = False) -> None:
        self.said, self.refused = said, refused
        super().__init__(
            f"git cannot fetch from {repository}",
            details=[("from", without_secrets(address_of(repository))), ("said", said[-600:])],
            hint="check the network, the repository and the number; a private repository needs GITHUB_TOKEN",
        )


class NoRepositoryError(GitError):
    """The server answers, and has no such repository."""


class NoCommitError(GitError):
    """The repository is there, and has no such ref or commit."""


def address_of(repository: str) -> str:
    """Where git finds `OWNER/NAME`."""
    return f"{github_url()}/{repository}.git"


class GitRemote:
    """A repository `OWNER/NAME` of GitHub. With `offline`, only what the cache has is there.

    Raises `UnreachableError` when git is not installed.
    """

    def __init__(self, repository: str, *, offline: bool = False) -> None:
        if shutil.which("git") is None:
            raise UnreachableError("git is not installed", hint="install git (Debian: apt-get install git)")
        self.repository = repository
        self._offline = offline
        self._address = address_of(repository)
        self._folder = _bare_copy(repository)

    def local(self, *arguments: str) -> str:
        """git on what is there already; it asks nobody. Raises `GitError`."""
        return self._run(arguments).decode("utf-8", "replace")

    def talk(self, *arguments: str) -> bytes:
        """git with the server: several tries, none of them endless. Raises `GitError`."""
        if self._offline:
            return self._run(arguments)
        trouble: GitError | None = None
        for attempt in range(TRIES):
            if trouble is not None:
                time.sleep(pause_before(attempt))
            try:
                found = self._run(arguments, _talking(self._address))
            except GitError as error:
                if error.refused:
                    raise
                if _NO_REF in error.said and attempt and self.heads():
                    raise NoCommitError(self.repository, error.said, refused=True) from error
                trouble = error
                if _REDIRECTED.search(error.said):
                    self._move()
            else:
                if arguments[0] != "ls-remote" or found.strip():
                    return found
                # A page in the place of an answer is, to git, a list of no refs. A repository has a HEAD.
                trouble = GitError(self.repository, "the server answers, but not as a git repository")
        assert trouble is not None  # noqa: S101  the loop ran
        raise trouble

    def fetch(self, *refs: str, prune: bool = False) -> None:
        """Fetch refs or commits, with their history and without trees and files. Raises as `talk` does.

        `prune` drops refs that the server does not have any more.
        """
        if self._offline:
            raise GitError(self.repository, "offline, and the cache does not have the commits", refused=True)
        self.talk(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--filter=tree:0",
            *(["--prune"] if prune else []), "origin", *refs,
        )  # fmt: skip

    def heads(self, *names: str) -> dict[str, str]:
        """The commits of those of the server's refs `names` that are there. Raises as `talk` does."""
        said = self.talk("ls-remote", "origin", "HEAD", *names).decode("utf-8", "replace")
        return {name: commit for commit, _, name in (line.partition("\t") for line in said.splitlines())}

    def has(self, commit: str) -> bool:
        """Whether the cache has a commit."""
        try:
            self.local("cat-file", "-e", f"{commit}^{{commit}}")
        except GitError:
            return False
        return True

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `old` is among the ancestors of `new`, or `new` itself; both must be there."""
        return self.local("rev-list", "--max-count=1", old, f"^{new}").strip() == ""

    def _move(self) -> None:
        """Go on at the address that the server redirects to, when that is a known host's: a repository was renamed."""
        suffix = "/info/refs?service=git-upload-pack"
        self._address = final_address(address_of(self.repository) + suffix).removesuffix(suffix)

    def _run(self, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> bytes:
        with _alone(self._folder) as handle:
            try:
                done = run(
                    ["git", f"--git-dir={self._folder}", *arguments], extra_env=_environment(settings or {}),
                    timeout=exchange_limit(), inherited=(handle,),
                )  # fmt: skip
            except TimeLimitError as error:
                raise GitError(self.repository, error.message, refused=True) from error
        said = without_secrets(done.stderr.decode("utf-8", "replace").strip())
        if done.returncode != 0:
            for kind, pattern in ((NoRepositoryError, _NO_REPOSITORY), (NoCommitError, _NO_COMMIT)):
                if pattern.search(said):
                    raise kind(self.repository, said, refused=True)
            raise GitError(self.repository, said, refused=_REFUSED.search(said) is not None)
        if len(done.stdout) > SIZE_LIMIT:
            raise GitError(self.repository, f"the answer is larger than {SIZE_LIMIT >> 20} MiB", refused=True)
        return done.stdout


def _bare_copy(repository: str) -> Path:
    """The folder of the bare copy, made when it is not there: under another name first, so that it is whole or absent."""
    from git import Repo

    place = urlsplit(github_url()).netloc.rsplit("@", 1)[-1] or "local"
    folder = cache_dir("git") / re.sub(r"[^A-Za-z0-9.-]", "_", f"{place}-{repository}.git")
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        new = Path(name) / "new"
        run(["git", "init", "--quiet", "--bare", str(new)])
        with Repo(new) as repo, repo.config_writer() as config:
            # What was fetched by its commit alone is under no ref: git would throw it away.
            config.set_value("gc", "auto", "0")
        with suppress(OSError):  # another run was faster
            new.rename(folder)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Keep other runs of this tool away from a bare copy; the handle keeps them away as long as a child has it.

    Then a lock file of git's is one that a killed git left behind, and would be in the way for ever.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for stale in (*folder.glob("*.lock"), *folder.glob("refs/**/*.lock"), *folder.glob("objects/**/*.lock")):
            stale.unlink(missing_ok=True)
        yield handle
    finally:
        os.close(handle)


def _talking(address: str) -> dict[str, str]:
    """git's settings for the server at `address`: limits, and the token for GitHub alone.

    Without them git knows no server: what the copy does not have is missing, and not fetched in passing.
    """
    settings = {
        "remote.origin.url": address,
        "remote.origin.promisor": "true",
        "remote.origin.partialclonefilter": "tree:0",
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": str(max(1, int(wait_limit()))),
        "http.followRedirects": "false",
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
    return settings


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """git without the user's configuration and without prompts; settings in the environment are in no file and no `ps`."""
    pairs = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        pairs |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    return {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        **pairs,
    }


def without_secrets(text: str) -> str:
    """The text without the token, and without a user's name and password in addresses."""
    token = os.environ.get("GITHUB_TOKEN")
    text = re.sub(r"://[^/@\s]+@", "://", text)
    return text.replace(token, "***") if token else text
