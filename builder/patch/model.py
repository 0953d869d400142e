"""Overlays and what became of them, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Literal

_ADDED, _REMOVED = b"+-"
# A hunk with fewer lines is split line by line, a longer one part by part.
_SHORT = 40
_WITHOUT_MARKER = itemgetter(slice(1, None))
_PARTS = re.compile(rb"( *)(-*)\+*")
_GROUPS = re.compile(rb"( *)([+-]+)")

ChangeKind = Literal["modify", "add", "delete", "rename", "copy", "mode"]


@dataclass(frozen=True)
class Hunk:
    """One hunk. Lines keep their marker (` `, `-`, `+`) and lose their line ending; a missing final newline is a flag."""

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    lines: tuple[bytes, ...]
    old_missing_newline: bool = False
    new_missing_newline: bool = False
    diff_line: int = 0
    """1-based line of the `@@` line in the diff that the hunk was read from."""
    heading: bytes = field(default=b"", compare=False)
    """The text behind the second `@@`. It does not belong to the change: whoever renders the diff chooses it."""
    header: str = field(default="", compare=False)
    """The header as it should be, when the diff's own counts one line of context too few."""

    @classmethod
    def read(
        cls,
        span: tuple[int, int, int, int],
        lines: tuple[bytes, ...],
        markers: bytes,
        body: bytes,
        line: int,
        heading: bytes,
    ) -> Hunk:
        """A hunk with what its reader knows, and with what every hunk is asked for.

        A diff can have thousands: setting the attributes of a frozen dataclass one by one, and computing each on demand
        under a lock, took most of the time.
        """
        hunk = object.__new__(cls)
        old, new = _sides(lines, markers)
        size = len(markers)
        hunk.__dict__.update(
            old_start=span[0], old_count=span[1], new_start=span[2], new_count=span[3], lines=lines,
            old_missing_newline=False, new_missing_newline=False, diff_line=line, heading=heading, header="",
            markers=markers, body=body, old=old, new=new,
            context=(size - len(markers.lstrip(b" ")), size - len(markers.rstrip(b" "))),
        )  # fmt: skip
        return hunk

    @cached_property
    def body(self) -> bytes:
        """The lines as the diff has them, without the last newline and without marks of a missing one."""
        return b"\n".join(self.lines)

    @cached_property
    def markers(self) -> bytes:
        """The markers of all lines, one byte for each."""
        return bytes([line[0] for line in self.lines])

    @cached_property
    def old(self) -> tuple[bytes, ...]:
        """The lines that the hunk finds."""
        return _sides(self.lines, self.markers)[0]

    @cached_property
    def new(self) -> tuple[bytes, ...]:
        """The lines that the hunk leaves."""
        return _sides(self.lines, self.markers)[1]

    @cached_property
    def context(self) -> tuple[int, int]:
        """How many lines of context the hunk begins and ends with."""
        size, markers = len(self.markers), self.markers
        return size - len(markers.lstrip(b" ")), size - len(markers.rstrip(b" "))

    @cached_property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """The runs of changed lines: how many lines of context come before each, how many it removes, how many it adds."""
        return tuple(
            [(len(kept), changed.count(b"-"), changed.count(b"+")) for kept, changed in _GROUPS.findall(self.markers)]
        )


def _sides(lines: tuple[bytes, ...], markers: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The old and the new lines of a hunk, without their markers."""
    if len(lines) < _SHORT:
        return (
            tuple([line[1:] for line in lines if line[0] != _ADDED]),
            tuple([line[1:] for line in lines if line[0] != _REMOVED]),
        )
    bare = list(map(_WITHOUT_MARKER, lines))
    old: list[bytes] = []
    new: list[bytes] = []
    at = 0
    for match in _PARTS.finditer(markers):
        kept, removed = match.end(1), match.end(2)
        old += bare[at:removed]
        new += bare[at:kept]
        at = match.end()
        new += bare[removed:at]
    return tuple(old), tuple(new)


@dataclass(frozen=True)
class FileChange:
    """What a diff does to one file. `old_path` is None for a new file, `new_path` for a deleted one. Modes are as git prints them, `100644`."""

    kind: ChangeKind
    old_path: str | None
    new_path: str | None
    hunks: tuple[Hunk, ...] = ()
    old_mode: str | None = None
    new_mode: str | None = None
    diff_line: int = 0
    binary: bool = False
    special: str = ""
    """What the file is when it is not a regular file: `a symbolic link` or `a submodule`."""
    outside: bool = False
    """Whether the name has fewer folders than are stripped: such a file is outside the package, whatever its name."""
    named: str = field(default="", compare=False)
    """The file's name as the diff has it, with all folders: the old side's, or that of a new file."""
    commit: int = field(default=0, compare=False)
    """Which commit of a series the section is of, from 1; 0 where the diff names none."""
    unsaid: str = field(default="", compare=False)
    """Why the change is not in the diff, when a line names the file as changed and nothing more."""
    carried_out: str = ""
    """For the deletion of a file that the diff moves out of the package: where to. Its hunks are those of the move."""

    @property
    def path(self) -> str:
        path = self.new_path or self.old_path
        assert path is not None  # noqa: S101  the parser never makes a change without a path
        return path


@dataclass(frozen=True)
class Diff:
    """A parsed diff, with the digest that identifies it."""

    changes: tuple[FileChange, ...]
    canonical: bytes
    """The canonical form: what is vendored, and what `patch` gets to see."""
    digest: str
    """SHA-256 of `canonical`, 64 hexadecimal digits."""
    absent: tuple[str, ...] = ()
    """Files and folders that the diff says to be in one of its two trees only, without their content."""


@dataclass(frozen=True)
class Overlay:
    """One overlay of a stack, ready to apply."""

    id: str
    """`vllm-project/vllm#39931`, or the path of the local file as the recipe has it."""
    diff: Diff
    where: str
    """How messages name the diff: the path of the vendored copy, relative to the project root."""
    fuzz: int = 0
    accept_undelivered: Mapping[str, str] = field(default_factory=dict)
    """Path or glob of a change that a text overlay cannot deliver -> why that is all right."""
    headings: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Path -> hunk number (from 1) -> the heading behind its `@@` that may settle which of several places is meant."""
    strip: int = 1
    """How many folders were taken off the names, for messages."""
    packages: tuple[str, ...] = ()
    """The packages that it may change; empty for the stack's own."""


@dataclass(frozen=True)
class Dropped:
    """A file of a diff that does not enter the image."""

    path: str
    reason: str
    package: str = ""
    """The package of the base that the file is in, when the overlay could name it and does not."""


@dataclass(frozen=True)
class AppliedHunk:
    """Where a hunk went. `offset` is in lines, `fuzz` in context lines that were ignored."""

    path: str
    number: int
    diff_line: int
    line: int
    offset: int = 0
    fuzz: int = 0
    chosen: str = ""
    """What settled the place where the lines repeat: `order` of the hunks, or the `heading` behind `@@`."""


@dataclass(frozen=True)
class AppliedOverlay:
    """What one overlay did."""

    id: str
    digest: str
    files: tuple[str, ...]
    hunks: tuple[AppliedHunk, ...]
    dropped: tuple[Dropped, ...]
    packages: tuple[str, ...] = ()
    """The packages that it may change."""

    @property
    def unnamed(self) -> tuple[str, ...]:
        """The packages of the base that the diff changes and the overlay does not name."""
        return tuple(dict.fromkeys(each.package for each in self.dropped if each.package))


@dataclass(frozen=True)
class StackFile:
    """One file of the package before and after the whole stack. `before` is None when it is new, `after` when it is deleted."""

    path: str
    before: bytes | None
    after: bytes | None
    mode: int
    """Permission bits of the result, 0o644 or 0o755."""
    overlays: tuple[str, ...]
    """The ids of the overlays that touched it, in order."""
    old_mode: int = 0o644
    """Permission bits of what was there before."""


@dataclass(frozen=True)
class StackResult:
    """The outcome of a stack that applied completely."""

    files: tuple[StackFile, ...]
    """Sorted by path; a file that ends as it began is not in it."""
    overlays: tuple[AppliedOverlay, ...]
    disjoint: bool
    """Whether no file is touched by two overlays, so that their order does not matter to the result."""
    not_judged: str = ""
    """Why the grammar of changed Python files was not judged, in one sentence; empty when it was."""


HunkCause = Literal[
    "missing-file",
    "exists",
    "context",
    "blanks",
    "already-in-base",
    "already-supplied",
    "differs",
    "type",
    "blocked",
    "ambiguous",
]


@dataclass(frozen=True)
class HunkFailure:
    """Why one hunk (or a whole-file change, number 0) of an overlay did not apply."""

    path: str
    number: int
    diff_line: int
    cause: HunkCause
    explanation: str
    """One line for people."""
    wanted: tuple[str, ...] = ()
    wanted_line: int = 0
    found: tuple[str, ...] = ()
    found_line: int = 0
    supplied_by: str | None = None
    """For `already-supplied`: the id of the earlier overlay whose result has this hunk."""
