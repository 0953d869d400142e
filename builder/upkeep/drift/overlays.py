"""One cause per overlay: what became of a pull request since it was locked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

from builder.documents.lock import LockedOverlay
from builder.documents.pull import DEFAULT_REPOSITORY
from builder.patch.diff import DiffError, parse
from builder.patch.interdiff import same_change
from builder.patch.model import Diff
from builder.pipeline.locking.overlays import read_overlay
from builder.pulls import github
from builder.pulls.access import NotAvailableError
from builder.pulls.history import History, Landing
from builder.pulls.source import FetchedPull, NothingChangedError, fetch_pull, neither
from builder.upkeep.drift.model import Cause, DriftFinding
from builder.util.context import Context
from builder.util.errors import BuilderError, UnreachableError
from builder.util.files import sha256
from builder.util.project import Project

_PULL = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)#(?P<number>[1-9][0-9]*)(?:@(?P<head>[0-9a-f]{40}))?")


def overlay_drift(project: Project, locked: LockedOverlay, *, context: Context) -> DriftFinding:
    """Compare one overlay with its pull request, or with its file. Raises `UnreachableError` when upstream does not respond."""
    finding = DriftFinding("overlay", locked.id, "unchanged", locked=locked.head or locked.digest, about=locked.about())
    edited = _edited(project, locked)
    if edited is not None:
        return replace(finding, cause="edited", detail=edited.message, next=edited.hint or edited.message)
    where = _PULL.fullmatch(locked.id if locked.head is not None else locked.origin or "")
    head = locked.head or (where["head"] if where is not None else None)
    if where is None or head is None:
        return replace(finding, detail="a local file")
    pull = _LockedPull(project, locked, where["repository"], int(where["number"]), head, context)
    return pull.drift(replace(finding, locked=head))


def _edited(project: Project, locked: LockedOverlay) -> BuilderError | None:
    """What is wrong with the diff in the project. A pull request's copy that is lost comes back with `builder lock`."""
    if locked.head is not None and not (project.root / locked.diff).exists():
        return None
    try:
        read_overlay(project, locked)
    except BuilderError as error:
        return error
    return None


@dataclass(frozen=True)
class _LockedPull:
    """A pull request at the `head` that was locked, or that a local diff names as its origin."""

    project: Project
    locked: LockedOverlay
    repository: str
    number: int
    head: str
    context: Context

    @cached_property
    def history(self) -> History:
        return History(
            self.repository,
            self.number,
            base_branch=self.locked.base_branch,
            title=self.locked.title,
            context=self.context,
        )

    @property
    def update(self) -> str:
        """How to take what is there now."""
        if self.locked.origin is not None:
            return f"make the diff again from {self.repository}#{self.number}"
        return f"`builder lock {self.project.recipe} --update {self.locked.id}` takes it and shows what changed"

    def drift(self, finding: DriftFinding) -> DriftFinding:
        """`finding` with the cause, or as it is when nothing moved."""
        info = self._info()
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
        finding = self._moved(info, finding)
        if not info.state:
            unknown = "only git responded, which does not know whether it was closed"
            finding = replace(finding, detail=f"{finding.detail}; {unknown}" if finding.detail else unknown)
        return finding

    def _info(self) -> github.PullInfo | None:
        """The API's facts; without it, what git can tell; None when neither has such a pull request."""
        try:
            return github.pull_info(self.repository, self.number, context=self.context)
        except UnreachableError as error:
            self.context.console.detail(f"{self.repository}#{self.number}: {error.message}; asking git")
            trouble = error
        try:
            head = self.history.current_head()
            merged = head is not None and self.history.merged_commit(head) is not None
        except UnreachableError as error:
            raise neither(f"{self.repository}#{self.number}", trouble, error) from error
        if head is not None:
            # git does not know a closed pull request from an open one, nor which branch it is for.
            return github.PullInfo(head, "", "", "", "merged" if merged else "", "")
        if isinstance(trouble, NotAvailableError) and trouble.status in (404, 410):
            return None
        raise trouble

    def _merged(self, info: github.PullInfo, finding: DriftFinding) -> DriftFinding:
        commit = info.merge_commit or self.history.merged_commit(info.head)
        try:
            landing = self.history.landing(commit)
            where = _where(landing)
        except UnreachableError as error:
            if info.merge_commit is None:
                raise
            landing, where = Landing(), f"its release is not known: {error.message}"
        finding = replace(finding, merge_commit=commit, first_release=landing.release, reverted_as=landing.reverted)
        told = f"merged as {(commit or 'unknown')[:12]}, {where}"
        if info.head != self.head:
            told += f"; its head was {info.head[:12]} by then, the lock has {self.head[:12]}"
        if self.locked.state == "merged" and info.head == self.head:
            return replace(finding, detail=f"was merged already when it was locked: {told}")
        return replace(finding, cause="merged", detail=told, next=self._after_merge(landing))

    def _after_merge(self, landing: Landing) -> str:
        if landing.release is None:
            if landing.reverted is None:
                return "wait for a release that has it"
            return "see why it was reverted; the vendored diff still builds, or drop the overlay"
        command = f"`builder rebase {self.project.recipe} --base {self._released(landing.release)}`"
        if landing.until is not None:
            return f"{command} drops #{self.number}; {landing.until} does not have it"
        if landing.reverted is not None:
            return f"{command} drops #{self.number}; later releases will not have it"
        return f"{command}, or a later base, drops #{self.number}"

    def _released(self, release: str) -> str:
        """The image of a release of vLLM; of another project only its maintainers know the name."""
        return f"vllm/vllm-openai:{release}" if self.repository == DEFAULT_REPOSITORY else f"BASE-OF-{release}"

    def _moved(self, info: github.PullInfo, finding: DriftFinding) -> DriftFinding:
        """A pull request that is neither merged nor closed: the same head or another one, and what that means."""
        branch = info.base_branch or self.locked.base_branch
        try:
            current = fetch_pull(
                self.repository, self.number, head=info.head, base_branch=branch, recipe=self.project.recipe,
                context=self.context,
            )  # fmt: skip
            now = parse(current.diff, self.locked.id)
        except DiffError as error:
            return self._unusable(info.head, branch, error, finding)
        if current.head == self.head:
            return self._same_head(current, now, finding)
        return self._other_head(current, now, finding)

    def _same_head(self, current: FetchedPull, now: Diff, finding: DriftFinding) -> DriftFinding:
        if now.digest == self.locked.digest or self.locked.origin is not None:
            return self._rendering(current, finding)
        if current.base_branch is None:
            # Of the commits that were locked, the diff is the one that was locked.
            return replace(finding, detail="the same head; its base branch is not known")
        if current.merge_base == self.locked.merge_base:
            return replace(finding, cause="re-rendered", detail="other hunks for the same two commits: nothing changes")
        return replace(self._base_moved(current.base_branch, finding), next=self.update)

    def _base_moved(self, branch: str, finding: DriftFinding) -> DriftFinding:
        """Another merge base for the same head."""
        before = self.locked.base_branch
        if before is not None and before != branch:
            return replace(
                finding, cause="retargeted", detail=f"the same head, for the branch {branch} now and no longer {before}"
            )
        return replace(
            finding, cause="merge base moved",
            detail=f"the same head, but the branch {branch} has some of its commits by now, or was written anew",
        )  # fmt: skip

    def _other_head(self, current: FetchedPull, now: Diff, finding: DriftFinding) -> DriftFinding:
        ahead = self._ahead(self.head, current.head)
        known = current.base_branch is not None
        other_base = known and self.locked.merge_base not in (None, current.merge_base)
        # A base that the locked head has already did not come with the commits on top of it.
        merged_in = ahead is not None and other_base and self._ahead(current.merge_base, self.head) is None
        old = self._vendored()
        same = now.digest == self.locked.digest
        if old is not None and (other_base or self.locked.origin is not None):
            # With the base, the places move. On one base, a change at another place is another change.
            same = same or same_change(old, now)
        if same and other_base and (ahead is None or merged_in):
            how = "its base branch was merged into it" if merged_in else "its commits were written anew"
            if old is None or same_change(old, now, context=True):
                return replace(
                    finding, cause="rebased", detail=f"the same change on another base: {how}",
                    next=f"nothing must be done; {self.update}",
                )  # fmt: skip
            where = f"the same added and removed lines beside other lines, on another base: {how}"
            return replace(finding, cause="rebased", detail=where, next=self.update)
        cause: Cause = "force-pushed" if ahead is None else "new commits"
        if ahead is None:
            told = "its commits were written anew"
            if not known and not same:
                told += "; whether the change is another is not known without its base branch"
            elif not same:
                told += ", and the change is another"
        elif merged_in:
            told = self._more(current)
        else:
            told = _count(ahead) if known else f"{_count(ahead)}, with what was merged into it"
        if same:
            told += ", and the change is the same"
        following = f"nothing must be done; {self.update}" if same else self.update
        return replace(finding, cause=cause, detail=told, next=following)

    def _more(self, current: FetchedPull) -> str:
        """How many commits are new where the base branch was merged in: its own commits are not the pull request's."""
        before, base = None, self.locked.merge_base
        if base is not None and self.locked.base_branch == current.base_branch:
            before = self._ahead(base, self.head)
        own = self._ahead(current.merge_base, current.head)
        if own is None or before is None or own <= before:
            return "commits were added, and its base branch was merged into it"
        return f"{_count(own - before)}, a merge of its base branch among them"

    def _unusable(self, head: str, branch: str | None, error: DiffError, finding: DriftFinding) -> DriftFinding:
        """The present diff cannot be an overlay any more. That is its author's doing: upstream did respond."""
        if isinstance(error, NothingChangedError):
            told = f"it changes nothing against {branch or 'the default branch'} now"
            following = "drop the overlay, or keep it as a local file"
        else:
            told, following = f"its diff cannot be used now: {error.message}", "the vendored diff still builds"
        if head != self.head:
            cause: Cause = "force-pushed" if self._ahead(self.head, head) is None else "new commits"
            return replace(finding, cause=cause, detail=told, next=following)
        if branch is None:
            return replace(finding, detail="the same head; its base branch is not known")
        finding = self._base_moved(branch, finding)
        return replace(finding, detail=f"{finding.detail}: {told}", next=following)

    def _ahead(self, old: str, new: str) -> int | None:
        """How many commits `new` has on top of `old`, None when it is not on top: by git, else by the API."""
        try:
            return self.history.commits_between(old, new)
        except UnreachableError as error:
            try:
                return github.commits_between(self.repository, old, new, context=self.context)
            except UnreachableError:
                raise error from None

    def _rendering(self, current: FetchedPull, finding: DriftFinding) -> DriftFinding:
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


def _where(landing: Landing) -> str:
    """Which releases have a merged pull request."""
    told = f"first released in {landing.release}" if landing.release else "in no tag yet"
    if landing.reverted is not None:
        told += f", and reverted as {landing.reverted[:12]}"
        if landing.release is None:
            told = f"reverted as {landing.reverted[:12]}, and in no release"
    return f"{told}, not in {landing.until}" if landing.until else told


def _count(commits: int) -> str:
    return f"{commits} {'commit' if commits == 1 else 'commits'} more"
