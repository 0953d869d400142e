"""One GitHub repository as git sees it: a bare copy in the cache, and the one way in which git talks to the server.

The policy is that of `builder.net.client` and `builder.pulls.access`: limits on every wait, bounded attempts, redirects to
known hosts only, and the token for GitHub alone. git itself has none of this: it waits for ever where a server trickles,
gives up at the first truncated response, and sends an extra header to wherever its first request was redirected.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress

from builder.pulls.access import (
    GIT_SERVICE,
    NotAvailableError,
    final_address,
    git_header,
    github_token,
    github_url,
    redacted,
)
from builder.pulls.gitcopy import alone, bare_copy, check_version, environment
from builder.util.context import Context
from builder.util.errors import UnreachableError
from builder.util.limits import Limits
from builder.util.process import TimeLimitError, run

# The messages of git (2.39 to 2.50, in the C locale) when the server responded and has no such thing.
_NO_REPOSITORY = re.compile(r"repository '.*' not found|Repository not found")
_NO_COMMIT = re.compile(r"not our ref|request for unadvertised object")
_NO_REF = "couldn't find remote ref"
# An HTTP status that another attempt does not change; 408 and 429 are not among them.
_REFUSED = re.compile(
    r"returned error: 4(?!08|29)\d\d|Authentication failed|could not read (?:Username|Password)|terminal prompts disabled"
)
_REDIRECTED = re.compile(r"returned error: 30[12378]")


# A fetch that lacks an object fetches it by another fetch, and so on: a server that sends nothing makes that endless. Only a
# diff fetches on its way. The variable is of git 2.45, and of Debian's 2.39.
_NOT_ON_THE_WAY = {"GIT_NO_LAZY_FETCH": "1"}
_MOST_PROCESSES = 40


class GitError(UnreachableError):
    """git did not get what it asked for. `output` is its standard error, without secrets; when it was `refused`, another
    attempt does not help."""

    def __init__(self, repository: str, output: str, *, refused: bool = False) -> None:
        self.output, self.refused = output, refused
        super().__init__(
            f"git cannot fetch from {repository}",
            details=[("from", redacted(address_of(repository))), ("message", output[-600:])],
            hint=f"check the network, the repository and the number{_login()}",
        )


def _login() -> str:
    if github_token() is None:
        return "; a private repository needs GITHUB_TOKEN"
    return ", and that GITHUB_TOKEN is valid and may read the repository"


class NoRepositoryError(GitError):
    """The server responds, and has no such repository."""


class NoCommitError(GitError):
    """The repository exists, and has no such ref or commit."""


def address_of(repository: str) -> str:
    """Where git finds `OWNER/NAME`."""
    return f"{github_url()}/{repository}.git"


class GitRemote:
    """A repository `OWNER/NAME` of GitHub. Offline, it has only what the cache has.

    Raises `UnreachableError` when git is not installed or too old, `InputError` when the cache cannot be written.
    """

    def __init__(self, repository: str, *, context: Context) -> None:
        program = shutil.which("git")
        if program is None:
            raise UnreachableError("git is not installed", hint="install git (Debian: apt-get install git)")
        check_version(program)
        self.repository = repository
        self._context = context
        self._address = address_of(repository)
        self._folder = bare_copy(repository)
        self._settled = False

    def local(self, *arguments: str) -> str:
        """git on what the copy has; no server is asked. Raises `GitError`."""
        return self._run(arguments).decode("utf-8", "replace")

    def talk(self, *arguments: str) -> bytes:
        """git with the server: several attempts, each with a deadline. Raises `UnreachableError`, most often a `GitError`."""
        if self._context.offline:
            return self._run(arguments)
        trouble: GitError | None = None
        limits = self._context.limits
        for attempt in range(limits.attempts):
            if trouble is not None:
                limits.clock.sleep(limits.pause(attempt))
            self._settle()
            try:
                found = self._run(arguments, _talking(self._address, limits))
            except GitError as error:
                if error.refused:
                    raise
                if _NO_REF in error.output and attempt and self.heads():
                    raise NoCommitError(self.repository, error.output, refused=True) from error
                trouble = error
                if _REDIRECTED.search(error.output):
                    self._settled = False
            else:
                if arguments[0] != "ls-remote" or found.strip():
                    return found
                # git takes a web page for an empty list of refs. The list of HEAD is also empty in a repository whose
                # default branch does not exist, but that one has other refs.
                arguments = ("ls-remote", "origin")
                trouble = GitError(self.repository, "the server responds, but not as a git repository")
        assert trouble is not None  # noqa: S101  the loop ran
        raise trouble

    def fetch(self, *refs: str) -> None:
        """Fetch refs or commits, with their history and without trees and files. Raises as `talk` does."""
        if self._context.offline:
            raise GitError(self.repository, "offline, and the cache does not have the commits", refused=True)
        self.talk(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--filter=tree:0",
            "origin", *refs,
        )  # fmt: skip

    def heads(self, *names: str) -> dict[str, str]:
        """The commits of the server's refs `names` that exist, and maybe of others. Raises as `talk` does.

        A name may be a pattern. `NAME^{}` is the commit of the annotated tag NAME.
        """
        listed = self.talk("ls-remote", "origin", "HEAD", *names).decode("utf-8", "replace")
        return {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}

    def has(self, commit: str) -> bool:
        """Whether the cache has a commit."""
        try:
            self.local("cat-file", "-e", f"{commit}^{{commit}}")
        except GitError:
            return False
        return True

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `old` is among the ancestors of `new`, or `new` itself; the copy must have both."""
        return self.local("rev-list", "--max-count=1", old, f"^{new}").strip() == ""

    def diff(self, old: str, new: str, *options: str) -> bytes:
        """The diff between two commits; the server is asked for what the copy does not have. Raises as `talk` does."""
        try:
            return self._run(("diff", *options, old, new))
        except GitError:
            return self.talk("diff", *options, old, new)

    def fetch_branch(self, branch: str | None, *more: str) -> str:
        """Fetch a branch, the default one for None, and more refs; the name that the branch has here. Raises as `talk` does."""
        # By a digest: `release` and, a year later, `release/v1` cannot both be files below one folder.
        here = f"refs/base/{hashlib.sha256((branch or 'HEAD').encode()).hexdigest()[:16]}"
        self.fetch(f"+{f'refs/heads/{branch}' if branch else 'HEAD'}:{here}", *more)
        return here

    def _settle(self) -> None:
        """Send git's first request with our own HTTP client: it keeps the limits, waits as long as a server asks, and follows
        a renamed repository, at a known host alone.

        git has no limit for a connection, ignores Retry-After, and would send its extra header anywhere. Raises
        `UnreachableError`.
        """
        if self._settled or not self._address.startswith(("http://", "https://")):
            return
        # git's own message tells more of a refusal, and git has certificates of its own.
        with suppress(NotAvailableError):
            found = final_address(address_of(self.repository) + GIT_SERVICE, context=self._context)
            # A sign-in page is not a repository.
            if found.endswith(GIT_SERVICE):
                self._address = found.removesuffix(GIT_SERVICE)
        self._settled = True

    def _run(self, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> bytes:
        with alone(self._folder, self._context) as handle:
            try:
                done = run(
                    ["git", f"--git-dir={self._folder}", *arguments],
                    extra_env=environment(settings or {}) | ({} if arguments[0] == "diff" else _NOT_ON_THE_WAY),
                    timeout=self._context.limits.exchange, inherited=(handle,), most_processes=_MOST_PROCESSES,
                )  # fmt: skip
            except TimeLimitError as error:
                raise GitError(self.repository, error.message, refused=True) from error
        output = redacted(done.stderr.decode("utf-8", "replace").strip())
        if done.returncode != 0:
            for kind, pattern in ((NoRepositoryError, _NO_REPOSITORY), (NoCommitError, _NO_COMMIT)):
                if pattern.search(output):
                    raise kind(self.repository, output, refused=True)
            raise GitError(self.repository, output, refused=_REFUSED.search(output) is not None)
        size = self._context.limits.size
        if len(done.stdout) > size:
            raise GitError(self.repository, f"the response is larger than {size >> 20} MiB", refused=True)
        return done.stdout


def _talking(address: str, limits: Limits) -> dict[str, str]:
    """git's settings for the server at `address`: limits, and the token for GitHub alone.

    Without them git has no server: what the copy lacks is missing, and is not fetched on the way.
    """
    settings = {
        "remote.origin.url": address,
        "remote.origin.promisor": "true",
        "remote.origin.partialclonefilter": "tree:0",
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": str(max(1, int(limits.silence))),
        "http.followRedirects": "false",
        "protocol.https.allow": "always",
        "protocol.http.allow": "always",
        "protocol.ssh.allow": "always",
        "protocol.file.allow": "always",
    }
    header = git_header()
    if header:
        settings[f"http.{github_url()}/.extraHeader"] = f"Authorization: {header}"
    return settings
