"""Pull requests from GitHub's API and its `.diff` routes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from builder.patch.diff import DiffError, parse
from builder.pulls.access import NotAvailableError, api_url, fetch, github_url, redacted
from builder.util.context import Context

_JSON = "application/vnd.github+json"
_DIFF = "application/vnd.github.diff"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The characters that no branch has: git-check-ref-format(1).
_BRANCH = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")


@dataclass(frozen=True)
class PullInfo:
    """What the API says of a pull request."""

    head: str
    base_branch: str
    title: str
    author: str
    state: str
    """`open`, `closed` or `merged`."""
    url: str
    merge_commit: str | None = None
    """What the merge left on the base branch, when it was merged."""
    changed_files: int | None = None
    """How many files the pull request changes at `head`."""


def pull_url(repository: str, number: int) -> str:
    """The pull request's page, as a lock names it: without the name and password that the address may have."""
    return redacted(f"{github_url()}/{repository}/pull/{number}")


def pull_info(repository: str, number: int, *, context: Context) -> PullInfo:
    """What the API says. Raises `NotAvailableError` when it has no such thing, `UnreachableError` when it does not respond."""
    document = _json(f"{api_url()}/repos/{repository}/pulls/{number}", context)
    head, branch, commit = (
        _text(document, *keys) for keys in (("head", "sha"), ("base", "ref"), ("merge_commit_sha",))
    )
    if not _COMMIT.fullmatch(head) or not _BRANCH.fullmatch(branch):
        raise NotAvailableError(
            f"the API names no head commit and base branch for {repository}#{number}", hint="git is asked instead"
        )
    merged = bool(document.get("merged") or document.get("merged_at"))
    state, files = _text(document, "state"), document.get("changed_files")
    return PullInfo(
        head=head,
        base_branch=branch,
        title=_text(document, "title"),
        author=_text(document, "user", "login"),
        state="merged" if merged else state if state in ("open", "closed") else "",
        url=redacted(_text(document, "html_url")) or pull_url(repository, number),
        # Of an open pull request it names GitHub's trial merge, which is on no branch.
        merge_commit=commit if merged and _COMMIT.fullmatch(commit) else None,
        changed_files=files if isinstance(files, int) else None,
    )


def merge_base(repository: str, base: str, head: str, *, context: Context) -> str:
    """Where `head` leaves `base`, a branch or a commit, by the compare route."""
    commit = _text(_json(_compare(repository, base, head), context), "merge_base_commit", "sha")
    if not _COMMIT.fullmatch(commit):
        raise NotAvailableError(f"the API names no merge base of {base} and {head[:12]}", hint="git is asked instead")
    return commit


def before_merge(repository: str, commit: str, *, context: Context) -> str | None:
    """The base branch as it was before the merge commit `commit`; None when it does not have two parents.

    A squash and a rebase leave a commit with one parent, and never the pull request's own commits, on the branch.
    """
    parents = _json(f"{api_url()}/repos/{repository}/git/commits/{commit}", context).get("parents")
    if not isinstance(parents, list) or len(parents) < 2:
        return None
    first = _text(parents[0], "sha")
    return first if _COMMIT.fullmatch(first) else None


def commits_between(repository: str, old: str, new: str, *, context: Context) -> int | None:
    """How many commits `new` has on top of `old`, by the compare route; None when `old` is not among its ancestors."""
    document = _json(_compare(repository, old, new), context)
    status, ahead = document.get("status"), document.get("ahead_by")
    if status in ("ahead", "identical") and isinstance(ahead, int):
        return ahead
    if status in ("behind", "diverged"):
        return None
    raise NotAvailableError(f"the API does not compare {old[:12]} and {new[:12]}", hint="git is asked instead")


def compare_diff(repository: str, base: str, head: str, *, context: Context) -> bytes:
    """The diff between two commits: pinned, unlike a pull request's own, which follows its branch."""
    return _diff(_compare(repository, base, head), context)


def pull_diff(repository: str, number: int, *, context: Context) -> bytes:
    """The diff of the pull request as it is now, with full index lines."""
    if not github_url().startswith("http"):
        raise NotAvailableError("BUILDER_GITHUB_URL is for git alone", hint="git is asked instead")
    return _diff(f"{github_url()}/{repository}/pull/{number}.diff?full_index=1", context)


def _compare(repository: str, base: str, head: str) -> str:
    # A branch may be called fix#1 or 100%; a slash stays as it is.
    return f"{api_url()}/repos/{repository}/compare/{quote(base)}...{quote(head)}"


def _text(document: object, *keys: str) -> str:
    """The text at `keys`, one inside the other; empty where the response has none.

    JSON can have half a surrogate pair, which can be neither printed nor written: it becomes a question mark.
    """
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document.encode("utf-8", "replace").decode() if isinstance(document, str) else ""


def _json(url: str, context: Context) -> dict[str, Any]:
    try:
        document = json.loads(fetch(url, _JSON, context=context))
    except (ValueError, RecursionError) as error:
        raise NotAvailableError("the API's response is not JSON", hint="git is asked instead") from error
    if not isinstance(document, dict):
        raise NotAvailableError("the API's response is not an object", hint="git is asked instead")
    return document


def _diff(url: str, context: Context) -> bytes:
    body = fetch(url, _DIFF, context=context)
    try:
        parse(body, "the response", fetched=True)
    except DiffError as error:
        raise NotAvailableError(
            f"GitHub's response is not a diff: {error.message}", hint="git is asked instead"
        ) from error
    return body
