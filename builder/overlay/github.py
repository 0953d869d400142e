"""Pull requests from GitHub's API and its `.diff` routes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from builder.overlay.diff import DiffError, parse
from builder.overlay.http import NotAvailableError, api_url, fetch, github_url

_JSON = "application/vnd.github+json"
_DIFF = "application/vnd.github.diff"
_COMMIT = re.compile(r"[0-9a-f]{40}")


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


def pull_info(repository: str, number: int) -> PullInfo:
    """Ask the API. Raises `NotAvailableError` when it has no answer, `UnreachableError` when it does not answer."""
    document = _json(f"{api_url()}/repos/{repository}/pulls/{number}")
    try:
        head = str(document["head"]["sha"])
        state = "merged" if document.get("merged") or document.get("merged_at") else str(document.get("state") or "")
        commit, files = document.get("merge_commit_sha"), document.get("changed_files")
        info = PullInfo(
            head=head,
            base_branch=str(document["base"]["ref"]),
            title=str(document.get("title") or ""),
            author=str((document.get("user") or {}).get("login") or ""),
            state=state,
            url=str(document.get("html_url") or f"{github_url()}/{repository}/pull/{number}"),
            # Of an open pull request it names GitHub's trial merge, which is on no branch.
            merge_commit=commit
            if state == "merged" and isinstance(commit, str) and _COMMIT.fullmatch(commit)
            else None,
            changed_files=files if isinstance(files, int) else None,
        )
    except (KeyError, TypeError) as error:
        raise NotAvailableError(
            f"the API's answer for {repository}#{number} has no {error}", hint="git is asked instead"
        ) from error
    if not _COMMIT.fullmatch(head):
        raise NotAvailableError(f"the API names no head commit for {repository}#{number}", hint="git is asked instead")
    return info


def merge_base(repository: str, base: str, head: str) -> str:
    """Where `head` leaves `base`, by the compare route."""
    document = _json(f"{api_url()}/repos/{repository}/compare/{base}...{head}")
    commit = (document.get("merge_base_commit") or {}).get("sha")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise NotAvailableError(f"the API names no merge base of {base} and {head[:12]}", hint="git is asked instead")
    return commit


def commits_between(repository: str, old: str, new: str) -> int | None:
    """How many commits `new` has on top of `old`, by the compare route; None when `old` is not among its ancestors."""
    document = _json(f"{api_url()}/repos/{repository}/compare/{old}...{new}")
    status, ahead = document.get("status"), document.get("ahead_by")
    if status in ("ahead", "identical") and isinstance(ahead, int):
        return ahead
    if status in ("behind", "diverged"):
        return None
    raise NotAvailableError(f"the API does not compare {old[:12]} and {new[:12]}", hint="git is asked instead")


def compare_diff(repository: str, base: str, head: str) -> bytes:
    """The diff between two commits: pinned, unlike a pull request's own, which follows its branch."""
    return _diff(f"{api_url()}/repos/{repository}/compare/{base}...{head}")


def pull_diff(repository: str, number: int) -> bytes:
    """The diff of the pull request as it is now, with full index lines."""
    return _diff(f"{github_url()}/{repository}/pull/{number}.diff?full_index=1")


def _json(url: str) -> dict[str, Any]:
    answer = fetch(url, _JSON)
    try:
        document = json.loads(answer.body)
    except ValueError as error:
        raise NotAvailableError("the API's answer is not JSON", hint="git is asked instead") from error
    if not isinstance(document, dict):
        raise NotAvailableError("the API's answer is not an object", hint="git is asked instead")
    return document


def _diff(url: str) -> bytes:
    body = fetch(url, _DIFF).body
    try:
        parse(body, "the answer")
    except DiffError as error:
        raise NotAvailableError(
            f"GitHub's answer is not a diff: {error.message}", hint="git is asked instead"
        ) from error
    return body
