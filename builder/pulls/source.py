"""Fetching a pull request: GitHub's API first, git when the API does not have it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from builder.net.client import RefusedError
from builder.patch.diff import DiffError, parse
from builder.pulls import github
from builder.pulls.access import NotAvailableError
from builder.pulls.gitfetch import GitPull, fetch_by_git
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError


class WrongDiffError(UnreachableError):
    """A source gives another diff than the pinned one. Another source may give the pinned one."""


class NothingChangedError(DiffError):
    """A pull request that changes nothing against its base. Its commits will never have a diff."""


@dataclass(frozen=True)
class FetchedPull:
    """A pull request at fixed commits. What only the API knows (title, author, state) is None when git alone was asked;
    `base_branch` is, too, when the caller does not know it either or it is gone: then the merge base is the default branch's."""

    diff: bytes = field(repr=False)
    head: str
    merge_base: str
    url: str
    via: Literal["compare", "pull", "git"]
    title: str | None = None
    author: str | None = None
    state: str | None = None
    base_branch: str | None = None


def fetch_pull(
    repository: str,
    number: int,
    *,
    head: str | None = None,
    merge_base: str | None = None,
    base_branch: str | None = None,
    expected: str | None = None,
    recipe: str = "RECIPE",
    context: Context,
) -> FetchedPull:
    """Fetch a pull request: at `head` (and `merge_base`) when they are pinned, else as it is now.

    `base_branch` is the branch that it is for as far as that was known before: git is told when the API does not respond.
    `expected` is the canonical digest that the diff must have: what another source gives is not taken. `recipe` is for
    hints alone.
    Raises `UnreachableError` (exit 5) when neither source has it, `DiffError` when its diff cannot be used.
    """
    name = f"{repository}#{number}"
    if context.offline:
        return _from_cache(repository, number, head, merge_base, expected, recipe, context)
    info = None
    trouble: UnreachableError | None = None
    try:
        info = github.pull_info(repository, number, context=context)
    except UnreachableError as error:
        trouble = error
        context.console.detail(f"{name}: {error.message}; asking git")
    wanted = head or (info.head if info else None)
    branch = info.base_branch if info else base_branch
    common = {
        "url": info.url if info else github.pull_url(repository, number),
        "title": info.title if info else None,
        "author": info.author if info else None,
        "state": info.state if info else None,
        "base_branch": branch,
    }
    base = merge_base
    if info is not None and wanted is not None:
        try:
            found = merge_base or _merge_base(repository, info, wanted, context)
            if found == wanted:
                # Its commits were pushed to the branch as they are: between the two is nothing.
                raise NotAvailableError(f"the head of {name} is in {info.base_branch} already")
            base = found
            diff, via = _api_diff(repository, number, base, wanted, current=info.head, context=context)
            _check_digest(diff, name, expected, recipe)
            if wanted == info.head and expected is None:
                _check_whole(diff, name, info.changed_files)
            return FetchedPull(diff, wanted, base, via=via, **common)  # type: ignore[arg-type]
        except UnreachableError as error:
            trouble = error
            context.console.detail(f"{name}: {error.message}; asking git")
    if base is None and branch is None:
        context.console.warn(
            f"{name}: the API does not say which branch it is for, and no lock does: its diff is taken against the "
            "default branch"
        )
    try:
        pull = fetch_by_git(repository, number, head=wanted, merge_base=base, base_branch=branch, context=context)
    except UnreachableError as error:
        if trouble is not None:
            raise neither(name, trouble, error) from error
        raise
    _check_git(pull, name, expected, recipe)
    if base is None and branch is not None and pull.base_branch is None:
        context.console.warn(
            f"{name}: the branch {branch} does not exist: its diff is taken against the default branch"
        )
        common["base_branch"] = None
    return FetchedPull(pull.diff, pull.head, pull.merge_base, via="git", **common)  # type: ignore[arg-type]


def neither(name: str, api: UnreachableError, git: UnreachableError) -> UnreachableError:
    """The one error of both sources. Of a token and of limits the API says more than git, which has no login either."""
    told = isinstance(api, RefusedError) and api.status in (401, 403, 429)
    return UnreachableError(
        f"cannot fetch {name}",
        details=[("api", api.message), ("git", git.message), *git.details],
        hint=f"{api.hint if told else git.hint}; without GitHub: save the pull request's diff as overlays/NAME.diff and list "
        "it with `file:` instead of `pull:`",
    )


def _merge_base(repository: str, info: github.PullInfo, head: str, context: Context) -> str:
    """Where `head` leaves its base branch; when it was merged with its commits, that branch as it was before."""
    before = github.before_merge(repository, info.merge_commit, context=context) if info.merge_commit else None
    return github.merge_base(repository, before or info.base_branch, head, context=context)


def _from_cache(
    repository: str,
    number: int,
    head: str | None,
    merge_base: str | None,
    expected: str | None,
    recipe: str,
    context: Context,
) -> FetchedPull:
    """What git's copy in the cache has of pinned commits. Raises `InputError` when that is not enough."""
    name = f"{repository}#{number}"
    try:
        if head is None or merge_base is None:
            raise UnreachableError("neither recipe nor lock pins its commits")
        pull = fetch_by_git(repository, number, head=head, merge_base=merge_base, context=context)
    except UnreachableError as error:
        raise InputError(
            f"--offline: the diff of {name} is neither vendored under overlays/ nor in the cache",
            hint=f"run `builder lock {recipe}` once with the network",
        ) from error
    _check_git(pull, name, expected, recipe)
    return FetchedPull(pull.diff, head, merge_base, github.pull_url(repository, number), via="git")


def _check_git(pull: GitPull, name: str, expected: str | None, recipe: str) -> None:
    if not pull.diff.strip():
        raise NothingChangedError(
            f"{name} changes nothing against its base now", hint="it may be merged: drop it from the recipe"
        )
    _check_digest(pull.diff, name, expected, recipe)


def _check_whole(diff: bytes, name: str, files: int | None) -> None:
    """A body that ends between two files is a sound diff of a part: the API's own count tells."""
    found = len(parse(diff, name, fetched=True).changes)
    if files is not None and found != files:
        raise NotAvailableError(
            f"the diff of {name} has {found} files, the pull request {files}", hint="git is asked instead"
        )


def _check_digest(diff: bytes, name: str, expected: str | None, recipe: str) -> None:
    found = parse(diff, name, fetched=True).digest
    if expected is not None and found != expected:
        raise WrongDiffError(
            f"the diff of {name} is not the one that was locked",
            details=[("wanted", expected), ("found", found)],
            hint=f"try again; `builder lock {recipe} --update {name}` takes what is there now",
        )


def _api_diff(
    repository: str, number: int, base: str, head: str, *, current: str, context: Context
) -> tuple[bytes, Literal["compare", "pull"]]:
    """The diff between two commits; the pull request's own route serves only while its head is the wanted one."""
    try:
        return github.compare_diff(repository, base, head, context=context), "compare"
    except NotAvailableError:
        if head != current:
            raise
    diff = github.pull_diff(repository, number, context=context)
    after = github.pull_info(repository, number, context=context)
    if after.head != head:
        raise NotAvailableError(f"{repository}#{number} was pushed to while it was fetched", hint="run it again")
    return diff, "pull"
