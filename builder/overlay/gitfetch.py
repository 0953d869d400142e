"""Pull requests by git: `refs/pull/N/head`, which stays fetchable when the fork is gone.

Commits are fetched first, trees and files only as far as the diff needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from builder.overlay.gitremote import GitRemote

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


def fetch_by_git(
    repository: str, number: int, *, head: str | None, merge_base: str | None, base_branch: str | None = None,
    offline: bool = False,
) -> GitPull:  # fmt: skip
    """Fetch a pull request. With `head` and `merge_base`, exactly these commits; else its current state.

    `base_branch` is the branch that it is for; the repository's default branch when it is not known.
    Raises `UnreachableError` when the repository or the commits cannot be had.
    """
    remote = GitRemote(repository, offline=offline)
    if head is None:
        remote.fetch(f"+refs/pull/{number}/head:refs/pull/{number}")
        head = remote.local("rev-parse", f"refs/pull/{number}").strip()
    if merge_base is None:
        target = f"refs/heads/{base_branch}" if base_branch else "HEAD"
        remote.fetch(f"+{target}:refs/base/{base_branch or 'HEAD'}", *([] if remote.has(head) else [head]))
        merge_base = remote.local("merge-base", head, f"refs/base/{base_branch or 'HEAD'}").strip()
    missing = [commit for commit in (head, merge_base) if not remote.has(commit)]
    if missing:
        remote.fetch(*missing)
    return GitPull(head, merge_base, remote.talk("diff", *_DIFF_OPTIONS, merge_base, head))
