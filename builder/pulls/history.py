"""What git alone can tell of a pull request: where its head is, how it moved, and whether it was merged."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from builder.pulls.gitremote import GitRemote, NoCommitError, NoRepositoryError
from builder.pulls.reverts import BASE, SEARCH, Commit, Standing, parse_log
from builder.util.context import Context

if TYPE_CHECKING:
    from packaging.version import Version

_TAGS = "refs/tags/"


@dataclass(frozen=True)
class Landing:
    """Where a merged pull request is to be had: in the version tag `release`, the lowest that has it.

    `reverted` is the commit that took it back on the base branch; `until` is the lowest later version without it.
    """

    release: str | None = None
    reverted: str | None = None
    until: str | None = None


class History:
    """A pull request's history, from commits without trees. Commits are fetched when they are asked for.

    `base_branch` is the branch that it is for, the repository's default branch when it is not known; `title` is what it is
    called, by which a squash of it is known. A number alone is not enough: a fork such as ROCm/vllm carries upstream's
    subjects, and `(#N)` in them is another pull request.

    Every method raises `UnreachableError` when the repository does not respond: that is never a result.
    """

    def __init__(
        self,
        repository: str,
        number: int,
        *,
        base_branch: str | None = None,
        title: str | None = None,
        context: Context,
    ) -> None:
        self._repository = repository
        self._number = number
        self._context = context
        self._base_branch = base_branch
        self._title = " ".join(title.split()) if title else None

    @cached_property
    def _remote(self) -> GitRemote:
        return GitRemote(self._repository, context=self._context)

    def current_head(self) -> str | None:
        """The head now; None when the repository or the pull request's ref does not exist."""
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
        """The base branch's commit that brought the pull request: `head` by ancestry, or a squash by its whole subject."""
        remote = self._remote
        if not remote.has(head):
            remote.fetch(f"+refs/pull/{self._number}/head:refs/pull/{self._number}")
        base = self._base
        if base is None:
            return None
        if remote.is_ancestor(head, base):
            return head
        titles = {self._title} if self._title else set()
        own = remote.local("log", "--max-count=2", "--format=%s", head, f"^{base}").splitlines()
        if len(own) == 1:
            # GitHub names a squash after the pull request, or after its commit when it has just one
            # (docs.github.com, "About pull request merges").
            titles.add(own[0])
        squashes = self._named({f"{title} (#{self._number})" for title in titles}, base)
        # What the head has itself came before it.
        later = [each for each in squashes if not remote.is_ancestor(each, head)]
        return later[-1] if later else None

    def first_release(self, commit: str | None) -> str | None:
        """The lowest version tag that has `commit`: `landing` tells more."""
        return self.landing(commit).release

    def landing(self, commit: str | None) -> Landing:
        """Which versions have `commit`, or a cherry-pick of it: the same subject, which names the number.

        A version that has a revert of it too does not have it. Without `commit`, a squash is looked for by the title.
        """
        remote = self._remote
        versions = self._version_tags()
        base = self._base
        if commit is not None and not remote.has(commit):
            try:
                remote.fetch(commit)
            except NoCommitError:
                commit = None
        subject = f"{self._title} (#{self._number})" if self._title else ""
        if commit is not None:
            subject = self._subject(commit)
        where = [*(["--tags"] if versions else []), *([base] if base else [])]
        commits = [Commit(commit, subject)] if commit is not None else []
        if where and re.search(rf"#{self._number}\b", subject):
            commits += [Commit(each, subject) for each in self._named({subject}, *where) if each != commit]
        if base and commit is not None:
            commits += self._merges_of(commit, base)
        if not commits:
            return Landing()
        listed = remote.local("log", *where, *SEARCH, "--format=%H%n%s%n%b%x00") if where else ""
        search = Standing(remote, self._repository, self._number, base, versions.keys(), parse_log(listed))
        has, stands = search.places(commits), search.standing(commits)
        final = [tag for tag in stands - {BASE} if not versions[tag].is_prerelease]
        release = min(final or stands - {BASE}, key=versions.__getitem__, default=None)
        since = versions[release] if release is not None else None
        later = [tag for tag in has - stands - {BASE} if since is not None and versions[tag] > since]
        back = search.reverts(commits) if BASE in has - stands else []
        reverted = next((each.id for each in back if BASE in search.standing([each])), None)
        return Landing(release, reverted, min(later, key=versions.__getitem__, default=None))

    def _subject(self, commit: str) -> str:
        return self._remote.local("log", "--max-count=1", "--format=%s", commit).strip()

    def _merges_of(self, head: str, base: str) -> list[Commit]:
        """The merge commits that brought `head` to the branch: a revert names them, and not the head."""
        lines = self._remote.local("log", "--merges", "--format=%H %P%x09%s", base, f"^{head}").splitlines()
        found = []
        for commits, _, subject in (line.partition("\t") for line in lines):
            commit, _, *others = commits.split(" ")
            if head in others:
                found.append(Commit(commit, subject))
        return found

    @cached_property
    def _base(self) -> str | None:
        """Our name of the base branch. The default branch when that one is gone; None when there is neither."""
        for branch in dict.fromkeys((self._base_branch, None)):
            try:
                return self._remote.fetch_branch(branch)
            except NoCommitError:
                continue
        return None

    def _version_tags(self) -> dict[str, Version]:
        """The server's tags that are versions, fetched: others may be on no commit at all, and cannot be had as one."""
        from packaging.version import InvalidVersion, Version

        remote = self._remote
        versions: dict[str, Version] = {}
        listed = remote.heads(f"{_TAGS}*")
        for name in listed:
            tag = name.removeprefix(_TAGS)
            if tag != name:
                try:
                    versions[tag] = Version(tag)
                except InvalidVersion:
                    continue
        lines = remote.local("for-each-ref", "--format=%(refname) %(objectname)", _TAGS).splitlines()
        here = dict(line.split(" ") for line in lines)
        new = [_TAGS + tag for tag in versions if here.get(_TAGS + tag) != listed[_TAGS + tag]]
        if new:
            remote.fetch(*(f"+{name}:{name}" for name in new))
        return versions

    def _named(self, subjects: Collection[str], *where: str) -> list[str]:
        """Commits that have one of the subjects, newest first."""
        mark = f"#{self._number}"
        lines = self._remote.local("log", *where, "--fixed-strings", f"--grep={mark}", "--format=%H %s").splitlines()
        found = (line.split(" ", 1) for line in lines)
        return [commit for commit, subject in found if subject in subjects]
