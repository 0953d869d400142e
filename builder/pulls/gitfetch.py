"""Pull requests by git: `refs/pull/N/head`, which stays fetchable when the fork is gone.

Commits are fetched first, trees and files only as far as the diff needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from builder.pulls.gitremote import GitRemote, NoCommitError
from builder.util.context import Context

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
    diff: bytes = field(repr=False)
    base_branch: str | None = None
    """The branch that the merge base was found on; None for the default branch, and when nothing was to be found."""


def fetch_by_git(
    repository: str, number: int, *, head: str | None, merge_base: str | None, base_branch: str | None = None,
    context: Context,
) -> GitPull:  # fmt: skip
    """Fetch a pull request. With `head` and `merge_base`, exactly these commits; else its current state.

    `base_branch` is the branch that it is for; the repository's default branch when it is not known, or does not exist any
    more: GitHub then has renamed it, or made the pull request one for another branch.
    Raises `UnreachableError` when the repository or the commits cannot be had.
    """
    remote = GitRemote(repository, context=context)
    if head is None:
        remote.fetch(f"+refs/pull/{number}/head:refs/pull/{number}")
        head = remote.local("rev-parse", f"refs/pull/{number}").strip()
    found_on = None
    if merge_base is None:
        base, found_on = _base(remote, base_branch, [] if remote.has(head) else [head])
        merge_base = _fork_point(remote, head, base)
    missing = [commit for commit in (head, merge_base) if not remote.has(commit)]
    if missing:
        remote.fetch(*missing)
    return GitPull(head, merge_base, remote.diff(merge_base, head, *_DIFF_OPTIONS), found_on)


def _base(remote: GitRemote, branch: str | None, more: Sequence[str]) -> tuple[str, str | None]:
    """Fetch the base branch and `more`: its name here, and its name there when it is not the default one."""
    if branch is not None:
        with suppress(NoCommitError):
            return remote.fetch_branch(branch, *more), branch
    return remote.fetch_branch(None, *more), None


def _fork_point(remote: GitRemote, head: str, base: str) -> str:
    """Where `head` left `base`; of a head that a merge commit brought back, where it had left before that.

    Once it is merged, the merge base is the head itself, and nothing is between the two.
    """
    found = remote.local("merge-base", head, base).strip()
    if found != head:
        return found
    above = set(remote.local("rev-list", "--ancestry-path", base, f"^{head}").split())
    own = [each for each in remote.local("rev-list", "--first-parent", base, f"^{head}").split() if each in above]
    # The branch's own oldest commit that has the head: the merge. Where there is none, the head is the branch's tip.
    return remote.local("merge-base", head, f"{own[-1]}^1").strip() if own else found
