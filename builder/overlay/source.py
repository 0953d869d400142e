"""Fetching a pull request: GitHub's API first, git when the API has no answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from builder.errors import InputError, UnreachableError
from builder.overlay import github
from builder.overlay.diff import parse
from builder.overlay.gitfetch import GitPull, fetch_by_git
from builder.overlay.http import NotAvailableError, github_url

if TYPE_CHECKING:
    from builder.console import Console


class WrongDiffError(UnreachableError):
    """A source answers with another diff than the one that is pinned: it is of no use, another source may be."""


@dataclass(frozen=True)
class FetchedPull:
    """A pull request at fixed commits. What only the API knows (title, author, state) is None when git alone answered."""

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
    expected: str | None = None,
    console: Console,
    offline: bool = False,
) -> FetchedPull:
    """Fetch a pull request: at `head` (and `merge_base`) when they are pinned, else as it is now.

    `expected` is the canonical digest that the diff must have: what another source gives is not taken.
    Raises `UnreachableError` (exit 5) when neither source has it.
    """
    name = f"{repository}#{number}"
    if offline:
        return _from_cache(repository, number, head, merge_base, expected)
    info = None
    why = ""
    try:
        info = github.pull_info(repository, number)
    except UnreachableError as error:
        why = error.message
        console.detail(f"{name}: {error.message}; asking git")
    wanted = head or (info.head if info else None)
    common = {
        "url": info.url if info else f"{github_url()}/{repository}/pull/{number}",
        "title": info.title if info else None,
        "author": info.author if info else None,
        "state": info.state if info else None,
        "base_branch": info.base_branch if info else None,
    }
    if info is not None and wanted is not None:
        try:
            base = merge_base or github.merge_base(repository, info.base_branch, wanted)
            diff, via = _api_diff(repository, number, base, wanted, current=info.head)
            _check_digest(diff, name, expected)
            if wanted == info.head and expected is None:
                _check_whole(diff, name, info.changed_files)
            return FetchedPull(diff, wanted, base, via=via, **common)  # type: ignore[arg-type]
        except UnreachableError as error:
            why = error.message
            console.detail(f"{name}: {error.message}; asking git")
    try:
        pull = fetch_by_git(
            repository, number, head=wanted, merge_base=merge_base, base_branch=info.base_branch if info else None
        )
    except UnreachableError as error:
        if why:
            raise UnreachableError(
                f"cannot fetch {name}", details=[("api", why), ("git", error.message), *error.details], hint=error.hint
            ) from error
        raise
    _check_git(pull, name, expected)
    return FetchedPull(pull.diff, pull.head, pull.merge_base, via="git", **common)  # type: ignore[arg-type]


def _from_cache(
    repository: str, number: int, head: str | None, merge_base: str | None, expected: str | None
) -> FetchedPull:
    """What git's copy in the cache has of pinned commits. Raises `InputError` when that is not enough."""
    name = f"{repository}#{number}"
    try:
        if head is None or merge_base is None:
            raise UnreachableError("neither recipe nor lock pins its commits")
        pull = fetch_by_git(repository, number, head=head, merge_base=merge_base, offline=True)
    except UnreachableError as error:
        raise InputError(
            f"--offline: the diff of {name} is neither vendored under overlays/ nor in the cache",
            hint="run `builder lock` once with the network",
        ) from error
    _check_git(pull, name, expected)
    return FetchedPull(pull.diff, head, merge_base, f"{github_url()}/{repository}/pull/{number}", via="git")


def _check_git(pull: GitPull, name: str, expected: str | None) -> None:
    if not pull.diff.strip():
        raise InputError(
            f"{name} changes nothing against its merge base", hint="it may be merged: drop it from the recipe"
        )
    _check_digest(pull.diff, name, expected)


def _check_whole(diff: bytes, name: str, files: int | None) -> None:
    """A body that ends between two files is a sound diff of a part: the API's own count tells."""
    found = len(parse(diff, name).changes)
    if files is not None and found != files:
        raise NotAvailableError(
            f"the diff of {name} has {found} files, the pull request {files}", hint="git is asked instead"
        )


def _check_digest(diff: bytes, name: str, expected: str | None) -> None:
    found = parse(diff, name).digest
    if expected is not None and found != expected:
        raise WrongDiffError(
            f"the diff of {name} is not the one that was locked",
            details=[("wanted", expected), ("found", found)],
            hint=f"try again; `builder lock --update {name}` takes what is there now",
        )


def _api_diff(
    repository: str, number: int, base: str, head: str, *, current: str
) -> tuple[bytes, Literal["compare", "pull"]]:
    """The diff between two commits; the pull request's own route serves only while its head is the wanted one."""
    try:
        return github.compare_diff(repository, base, head), "compare"
    except NotAvailableError:
        if head != current:
            raise
    diff = github.pull_diff(repository, number)
    after = github.pull_info(repository, number)
    if after.head != head:
        raise NotAvailableError(f"{repository}#{number} was pushed to while it was fetched", hint="run it again")
    return diff, "pull"
