"""One cause per overlay: what became of a pull request since it was locked."""

from __future__ import annotations

import re
from dataclasses import replace

from builder.console import Console
from builder.drift.model import Finding
from builder.errors import BuilderError, UnreachableError
from builder.files import sha256
from builder.layout import Project
from builder.lock import LockedOverlay
from builder.locking.overlays import read_overlay
from builder.overlay import github
from builder.overlay.diff import parse
from builder.overlay.history import History
from builder.overlay.http import NotAvailableError
from builder.overlay.interdiff import same_change
from builder.overlay.model import Diff
from builder.overlay.source import FetchedPull, fetch_pull

_PULL = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)#(?P<number>[1-9][0-9]*)(?:@(?P<head>[0-9a-f]{40}))?")


def overlay_drift(project: Project, locked: LockedOverlay, *, console: Console) -> Finding:
    """Compare one overlay with its pull request, or with its file. Raises `UnreachableError` when upstream does not answer."""
    finding = Finding("overlay", locked.id, "unchanged", locked=locked.head or locked.digest, about=locked.about())
    where = _PULL.fullmatch(locked.origin or "") if locked.head is None else _PULL.fullmatch(locked.id)
    if locked.head is None:
        edited = _edited(project, locked, finding)
        if edited is not None or where is None or where["head"] is None:
            return edited or replace(finding, detail="a local file")
        locked = locked.model_copy(update={"head": where["head"]})
        finding = replace(finding, locked=where["head"])
    assert where is not None  # noqa: S101  a locked head belongs to a pull request's id
    return _pull_drift(project, locked, where["repository"], int(where["number"]), finding, console)


def _edited(project: Project, locked: LockedOverlay, finding: Finding) -> Finding | None:
    try:
        read_overlay(project, locked)
    except BuilderError as error:
        return replace(
            finding, cause="edited", detail=error.message, next="run `builder lock` and look at the difference"
        )
    return None


def _pull_drift(
    project: Project, locked: LockedOverlay, repository: str, number: int, finding: Finding, console: Console
) -> Finding:
    history = History(repository, number)
    info = _info(repository, number, history, console)
    if info is None:
        return replace(
            finding, cause="gone", detail="neither the API nor git has it any more",
            next="the vendored diff still builds; keep it as a local file, or drop it",
        )  # fmt: skip
    finding = replace(finding, upstream=info.head)
    if info.state == "merged":
        return _merged(locked, number, info, history, finding)
    if info.state == "closed":
        if locked.state == "closed" and info.head == locked.head:
            return replace(finding, detail="was closed already when it was locked")
        return replace(
            finding, cause="closed", detail="closed without being merged",
            next="see why; the vendored diff still builds, or drop the overlay",
        )  # fmt: skip
    if info.state == "open" and info.head == locked.head and locked.state in ("closed", "merged"):
        return replace(finding, cause="reopened", detail=f"was {locked.state} when it was locked", next=_update(locked))
    current = fetch_pull(repository, number, head=info.head, console=console)
    finding = _moved(project, locked, repository, current, history, finding)
    if not info.state:
        unknown = "only git answered, which does not know whether it was closed"
        finding = replace(finding, detail=f"{finding.detail}; {unknown}" if finding.detail else unknown)
    return finding


def _info(repository: str, number: int, history: History, console: Console) -> github.PullInfo | None:
    """What the API says; without an API, what git can tell; None when both say that there is no such pull request."""
    try:
        return github.pull_info(repository, number)
    except UnreachableError as error:
        console.detail(f"{repository}#{number}: {error.message}; asking git")
        trouble = error
    head = history.current_head()
    if head is not None:
        merged = history.merged_commit(head) is not None
        # git does not know a closed pull request from an open one.
        return github.PullInfo(head, "", "", "", "merged" if merged else "", "")
    if isinstance(trouble, NotAvailableError) and trouble.status in (404, 410):
        return None
    raise trouble


def _merged(locked: LockedOverlay, number: int, info: github.PullInfo, history: History, finding: Finding) -> Finding:
    commit = info.merge_commit or history.merged_commit(info.head)
    try:
        release = history.first_release(commit)
        where = f"first released in {release}" if release else "in no tag yet"
    except UnreachableError as error:
        if info.merge_commit is None:
            raise
        release, where = None, f"its release is not known: {error.message}"
    finding = replace(finding, merge_commit=commit, first_release=release)
    told = f"merged as {(commit or 'unknown')[:12]}, {where}"
    if info.head != locked.head:
        told += f"; its head was {info.head[:12]} by then, the lock has {(locked.head or '')[:12]}"
    if locked.state == "merged" and info.head == locked.head:
        return replace(finding, detail=f"was merged already when it was locked: {told}")
    then = (
        f"`builder rebase RECIPE --base` with {release} or later drops #{number}"
        if release
        else "wait for a release that has it"
    )
    return replace(finding, cause="merged", detail=told, next=then)


def _moved(
    project: Project, locked: LockedOverlay, repository: str, current: FetchedPull, history: History, finding: Finding
) -> Finding:
    """An open pull request: the same head or another one, and what that means for the change."""
    now = parse(current.diff, locked.id)
    old = _vendored(project, locked)
    same = now.digest == locked.digest or (old is not None and same_change(old, now))
    if current.head == locked.head:
        if now.digest == locked.digest or locked.origin is not None:
            return _rendering(locked, current, finding)
        return replace(
            finding, cause="retargeted", detail="the same head, but another merge base gives another diff",
            next=_update(locked),
        )  # fmt: skip
    ahead = _ahead(repository, locked.head or "", current.head, history)
    if same:
        how = "its commits were written anew" if ahead is None else "its base branch was merged into it"
        return replace(
            finding, cause="rebased", detail=f"the same change on another base: {how}",
            next=f"nothing must be done; {_update(locked)}",
        )  # fmt: skip
    if ahead is not None:
        plural = "commit" if ahead == 1 else "commits"
        return replace(finding, cause="new commits", detail=f"{ahead} {plural} more", next=_update(locked))
    return replace(
        finding,
        cause="force-pushed",
        detail="its commits were written anew, and the change is another",
        next=_update(locked),
    )


def _ahead(repository: str, old: str, new: str, history: History) -> int | None:
    """How many commits `new` has on top of `old`, None when it is not on top of it: by git, else by the API."""
    try:
        return history.commits_between(old, new)
    except UnreachableError as error:
        try:
            return github.commits_between(repository, old, new)
        except UnreachableError:
            raise error from None


def _rendering(locked: LockedOverlay, current: FetchedPull, finding: Finding) -> Finding:
    seen = locked.rendering
    if seen is not None and seen.via == current.via and seen.sha256 != sha256(current.diff):
        return replace(finding, cause="re-rendered", detail="other bytes, the same canonical digest: nothing changes")
    return finding


def _vendored(project: Project, locked: LockedOverlay) -> Diff | None:
    try:
        return read_overlay(project, locked).diff
    except BuilderError:
        return None


def _update(locked: LockedOverlay) -> str:
    if locked.origin is not None:
        return f"make the diff again from {locked.origin.split('@')[0]}"
    return f"`builder lock RECIPE --update {locked.id}` takes it and shows what changed"
