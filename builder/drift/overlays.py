"""One cause per overlay: what became of a pull request since it was locked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

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
    edited = _edited(project, locked)
    if edited is not None:
        return replace(
            finding, cause="edited", detail=edited,
            next=f"`builder lock {project.recipe} --check` names the file; put the locked diff back, or lock again",
        )  # fmt: skip
    where = _PULL.fullmatch(locked.id if locked.head is not None else locked.origin or "")
    head = locked.head or (where["head"] if where is not None else None)
    if where is None or head is None:
        return replace(finding, detail="a local file")
    pull = _LockedPull(project, locked, where["repository"], int(where["number"]), head)
    return pull.drift(replace(finding, locked=head), console)


def _edited(project: Project, locked: LockedOverlay) -> str | None:
    """What is wrong with the diff in the project. A pull request's copy that is lost comes back with `builder lock`."""
    if locked.head is not None and not (project.root / locked.diff).exists():
        return None
    try:
        read_overlay(project, locked)
    except BuilderError as error:
        return error.message
    return None


@dataclass(frozen=True)
class _LockedPull:
    """A pull request at the `head` that was locked, or that a local diff names as its origin."""

    project: Project
    locked: LockedOverlay
    repository: str
    number: int
    head: str

    @cached_property
    def history(self) -> History:
        return History(self.repository, self.number, base_branch=self.locked.base_branch, title=self.locked.title)

    @property
    def update(self) -> str:
        """How to take what is there now."""
        if self.locked.origin is not None:
            return f"make the diff again from {self.repository}#{self.number}"
        return f"`builder lock {self.project.recipe} --update {self.locked.id}` takes it and shows what changed"

    def drift(self, finding: Finding, console: Console) -> Finding:
        """`finding` with the cause, or as it is when nothing moved."""
        info = self._info(console)
        if info is None:
            return replace(
                finding, cause="gone", detail="neither the API nor git has it any more",
                next="the vendored diff still builds; keep it as a local file, or drop it",
            )  # fmt: skip
        finding = replace(finding, upstream=info.head)
        same_head = info.head == self.head
        if info.state == "merged":
            return self._merged(info, finding)
        if info.state == "closed":
            if self.locked.state == "closed" and same_head:
                return replace(finding, detail="was closed already when it was locked")
            return replace(
                finding, cause="closed", detail="closed without being merged",
                next="see why; the vendored diff still builds, or drop the overlay",
            )  # fmt: skip
        if info.state == "open" and same_head and self.locked.state in ("closed", "merged"):
            was = f"was {self.locked.state} when it was locked"
            return replace(finding, cause="reopened", detail=was, next=self.update)
        finding = self._moved(fetch_pull(self.repository, self.number, head=info.head, console=console), finding)
        if not info.state:
            unknown = "only git answered, which does not know whether it was closed"
            finding = replace(finding, detail=f"{finding.detail}; {unknown}" if finding.detail else unknown)
        return finding

    def _info(self, console: Console) -> github.PullInfo | None:
        """What the API says; without it, what git can tell; None when both say that there is no such pull request."""
        try:
            return github.pull_info(self.repository, self.number)
        except UnreachableError as error:
            console.detail(f"{self.repository}#{self.number}: {error.message}; asking git")
            trouble = error
        head = self.history.current_head()
        if head is not None:
            merged = self.history.merged_commit(head) is not None
            # git does not know a closed pull request from an open one.
            return github.PullInfo(head, "", "", "", "merged" if merged else "", "")
        if isinstance(trouble, NotAvailableError) and trouble.status in (404, 410):
            return None
        raise trouble

    def _merged(self, info: github.PullInfo, finding: Finding) -> Finding:
        commit = info.merge_commit or self.history.merged_commit(info.head)
        try:
            release = self.history.first_release(commit)
            where = f"first released in {release}" if release else "in no tag yet"
        except UnreachableError as error:
            if info.merge_commit is None:
                raise
            release, where = None, f"its release is not known: {error.message}"
        finding = replace(finding, merge_commit=commit, first_release=release)
        told = f"merged as {(commit or 'unknown')[:12]}, {where}"
        if info.head != self.head:
            told += f"; its head was {info.head[:12]} by then, the lock has {self.head[:12]}"
        if self.locked.state == "merged" and info.head == self.head:
            return replace(finding, detail=f"was merged already when it was locked: {told}")
        then = (
            f"`builder rebase {self.project.recipe} --base` with {release} or later drops #{self.number}"
            if release
            else "wait for a release that has it"
        )
        return replace(finding, cause="merged", detail=told, next=then)

    def _moved(self, current: FetchedPull, finding: Finding) -> Finding:
        """A pull request that is neither merged nor closed: the same head or another one, and what that means."""
        now = parse(current.diff, self.locked.id)
        old = self._vendored()
        same = now.digest == self.locked.digest or (old is not None and same_change(old, now))
        if current.head == self.head:
            if now.digest == self.locked.digest or self.locked.origin is not None:
                return self._rendering(current, finding)
            return replace(
                finding, cause="retargeted", detail="the same head, but another merge base gives another diff",
                next=self.update,
            )  # fmt: skip
        ahead = self._ahead(current.head)
        if same:
            how = "its commits were written anew" if ahead is None else "its base branch was merged into it"
            return replace(
                finding, cause="rebased", detail=f"the same change on another base: {how}",
                next=f"nothing must be done; {self.update}",
            )  # fmt: skip
        if ahead is not None:
            plural = "commit" if ahead == 1 else "commits"
            return replace(finding, cause="new commits", detail=f"{ahead} {plural} more", next=self.update)
        anew = "its commits were written anew, and the change is another"
        return replace(finding, cause="force-pushed", detail=anew, next=self.update)

    def _ahead(self, head: str) -> int | None:
        """How many commits `head` has on top of the locked one, None when it is not on top: by git, else by the API."""
        try:
            return self.history.commits_between(self.head, head)
        except UnreachableError as error:
            try:
                return github.commits_between(self.repository, self.head, head)
            except UnreachableError:
                raise error from None

    def _rendering(self, current: FetchedPull, finding: Finding) -> Finding:
        seen = self.locked.rendering
        if seen is not None and seen.via == current.via and seen.sha256 != sha256(current.diff):
            nothing = "other bytes, the same canonical digest: nothing changes"
            return replace(finding, cause="re-rendered", detail=nothing)
        return finding

    def _vendored(self) -> Diff | None:
        try:
            return read_overlay(self.project, self.locked).diff
        except BuilderError:
            return None
