"""Which commits of a history take others back, by what git and GitHub write into a revert."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from builder.pulls.gitremote import GitRemote

# GitHub puts the number of the pull request behind a subject, that of a revert of it once more.
_NUMBERS = re.compile(r"(?: ?\(#[0-9]+\))+$")
# git-revert(1) and, since git 2.43, its word for the revert of a revert.
_SUBJECT = re.compile(r'(Revert|Reapply) "(.*)"')
_BODY = re.compile(r"^This reverts commit ([0-9a-f]{7,40})\b", re.MULTILINE)
# What GitHub's button writes into the pull request, and so into its squash.
_BUTTON = re.compile(r"^Reverts (?:(?P<repository>[\w.-]+/[\w.-]+))?#(?P<number>[0-9]+)\b", re.MULTILINE)
SEARCH = ("--fixed-strings", "--grep=This reverts commit ", "--grep=Revert", "--grep=Reapply")
"""Options of `git log` that leave nothing out that `Revert.parse` knows."""
BASE = ""
"""Beside the names of tags: that the base branch has it."""


@dataclass(frozen=True)
class Commit:
    """A commit and its subject."""

    id: str
    subject: str


@dataclass(frozen=True)
class Revert(Commit):
    """A commit that takes others back: by their ids, their subjects, or the pull request that brought them."""

    commits: Collection[str]
    """Ids, maybe abbreviated."""
    of: str = ""
    """The whole subject of what it takes back."""
    pulls: Collection[tuple[str, int]] = ()
    """(repository, or nothing for the commit's own, number)."""

    @classmethod
    def parse(cls, commit: str, subject: str, body: str) -> Revert | None:
        """The revert that a commit is; None when it is none."""
        found = _SUBJECT.fullmatch(_NUMBERS.sub("", subject.strip()))
        # git calls the revert of `Revert "X"` by the name `Reapply "X"`.
        of = "" if found is None else found[2] if found[1] == "Revert" else f'Revert "{found[2]}"'
        pulls = {(each["repository"] or "", int(each["number"])) for each in _BUTTON.finditer(body)}
        commits = set(_BODY.findall(body))
        return cls(commit, subject.strip(), commits, of, pulls) if of or pulls or commits else None

    def takes_back(self, commit: Commit) -> bool:
        """Whether it names a commit, by its id or its subject."""
        if any(commit.id.startswith(each) for each in self.commits):
            return True
        return bool(self.of) and self.of in (commit.subject, _NUMBERS.sub("", commit.subject))

    def names(self, repository: str, number: int) -> bool:
        """Whether it names a pull request of its own repository."""
        return any(number == other and where.lower() in ("", repository.lower()) for where, other in self.pulls)


def parse_log(text: str) -> list[Revert]:
    """The reverts in what `git log --format=%H%n%s%n%b%x00` prints."""
    found = []
    for entry in text.split("\0"):
        commit, _, rest = entry.strip().partition("\n")
        subject, _, body = rest.partition("\n")
        revert = Revert.parse(commit, subject, body)
        if commit and revert is not None:
            found.append(revert)
    return found


@dataclass(frozen=True)
class Standing:
    """Where commits are, and where they are not taken back: in version tags, and on the base branch (`BASE`)."""

    remote: GitRemote
    repository: str
    number: int
    base: str | None
    versions: AbstractSet[str]
    known: Collection[Revert]

    def places(self, commits: Iterable[Commit]) -> set[str]:
        """The places that have one of the commits."""
        found: set[str] = set()
        for each in commits:
            if self.versions:
                found |= self.versions & set(self.remote.local("tag", "--contains", each.id).split())
            if self.base is not None and self.remote.is_ancestor(each.id, self.base):
                found.add(BASE)
        return found

    def standing(self, commits: Collection[Commit]) -> set[str]:
        """The places that have one of the commits, and no revert of it that is in force there."""
        found = self.places(commits)
        for each in self.reverts(commits) if found else ():
            found -= self.standing([each])
        return found

    def reverts(self, commits: Collection[Commit]) -> list[Revert]:
        """What takes one of the commits back, or the pull request that they are."""
        first = not any(isinstance(each, Revert) for each in commits)
        return [
            revert
            for revert in self.known
            if (
                any(revert.takes_back(each) for each in commits)
                or (first and revert.names(self.repository, self.number))
            )
            # An earlier one was of an earlier attempt.
            and any(each.id != revert.id and self.remote.is_ancestor(each.id, revert.id) for each in commits)
        ]
