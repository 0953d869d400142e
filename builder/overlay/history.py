"""What git alone can tell of a pull request: where its head is, how it moved, and whether it was merged."""

from __future__ import annotations

from functools import cached_property

from builder.overlay.gitremote import GitRemote, NoCommitError, NoRepositoryError

_BASE = "refs/base/HEAD"


class History:
    """A pull request's history, from commits without trees. Commits are fetched when they are asked for.

    Every method raises `UnreachableError` when the repository does not answer: that is never taken for an answer.
    """

    def __init__(
        self, repository: str, number: int, *, base_branch: str | None = None, title: str | None = None
    ) -> None:
        self._repository = repository
        self._number = number
        self._base_branch = base_branch
        self._title = " ".join(title.split()) if title else None

    @cached_property
    def _remote(self) -> GitRemote:
        return GitRemote(self._repository)

    def current_head(self) -> str | None:
        """The head now; None when the repository or the pull request's ref is not there."""
        name = f"refs/pull/{self._number}/head"
        try:
            return self._remote.heads(name).get(name)
        except NoRepositoryError:
            return None

    def commits_between(self, old: str, new: str) -> int | None:
        """How many commits `new` has on top of `old`; None when `old` is not among its ancestors."""
        remote = self._remote
        for commit in (new, old):
            if not remote.has(commit):
                try:
                    remote.fetch(commit)
                except NoCommitError:
                    # A commit that nobody has any more cannot be an ancestor.
                    return None
        if not remote.is_ancestor(old, new):
            return None
        return int(remote.local("rev-list", "--count", f"{old}..{new}"))

    def merged_commit(self, head: str) -> str | None:
        """The default branch's commit that brought the pull request: by ancestry, or by a subject that ends in `(#N)`."""
        self._remote.fetch(f"+HEAD:{_BASE}", f"+refs/pull/{self._number}/head:refs/pull/{self._number}")
        if self._remote.is_ancestor(head, _BASE):
            return head
        named = self._by_subject(_BASE)
        return named[-1] if named else None

    def first_release(self, commit: str | None) -> str | None:
        """The lowest version tag that has `commit`, or a cherry-pick of it whose subject ends in `(#N)`."""
        from packaging.version import InvalidVersion, Version

        remote = self._remote
        remote.fetch(f"+HEAD:{_BASE}", "+refs/tags/*:refs/tags/*", prune=True)
        commits = [commit] if commit is not None and remote.has(commit) else []
        commits += self._by_subject("--tags")
        versions: dict[Version, str] = {}
        for each in commits:
            for tag in remote.local("tag", "--contains", each).split():
                try:
                    versions[Version(tag)] = tag
                except InvalidVersion:
                    continue
        final = [version for version in versions if not version.is_prerelease]
        return versions[min(final or versions)] if versions else None

    def _by_subject(self, where: str) -> list[str]:
        """Commits whose subject ends in `(#N)`, as GitHub writes a squash; newest first."""
        mark = f"(#{self._number})"
        lines = self._remote.local("log", where, "--fixed-strings", f"--grep={mark}", "--format=%H %s").splitlines()
        return [line.split(" ", 1)[0] for line in lines if line.endswith(mark)]
