"""Lines that name a file as changed and do not have the change: a notice of a tool, or the head of a section that is missing.

Sources: GNU diffutils ("Comparing Directories"), and what Mercurial, Subversion, Bazaar and Perforce print.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_KIND = rb"(?:a regular(?: empty)? file|a directory|a symbolic link|a fifo|a socket|a (?:block|character) special file)"
_TYPES = re.compile(rb"File (.+) is " + _KIND + rb" while file (.+) is " + _KIND + rb"\r?")
_HG_BINARY = re.compile(rb"Binary file (.+) has changed\r?")
_SVN_BINARY = re.compile(rb"Cannot display: file marked as a binary type\.\r?")
_BZR = re.compile(rb"=== (added|removed|modified|renamed) file '(.+?)'(?: => '(.+)')?(?: \(.*\))?\r?")
_INDEX = re.compile(rb"Index: (\S.*?)\r?")
_BELOW_INDEX = re.compile(rb"={60,}\r?")
_P4 = re.compile(rb"==== (//\S+?)#\d+ - .+ ====\r?")
_HG_COMMAND = re.compile(rb"diff (?:-r [0-9a-f]{12,40} ){1,2}(\S.*?)\r?")

# What git says of a submodule (`--submodule=log`), and of a file in the middle of a merge.
_SUBMODULE = re.compile(
    rb"Submodule (\S.*?) [0-9a-f]{7,64}\.{2,3}[0-9a-f]{7,64}\b.*|Submodule (\S.*?) \d+\.\.\.[0-9a-f]+ .*"
)
_UNMERGED = re.compile(rb"\* Unmerged path (.+?)\r?")
# GNU diff speaks the user's language: of a binary file, a sentence with both names.
_BOTH = re.compile(rb"(?:.*[ \t])?a/(\S+) .*\bb/\1(?:[ .,;:].*)?")

LONGEST = 4 << 10
"""Bytes of a line that names a file, as long as a path may be. Some patterns take the square of a line's length."""

_NO_SECTION = "no `---` and `+++` lines follow this line: the file is empty or binary, or the change is in another form"
_TYPE = "the file is of another kind in one of the two trees"
_BINARY = "a binary file, which is not in the diff"
_SUBMODULE_LOG = "a submodule, whose files are not in the diff"
_CONFLICT = "a merge has left it open: it has a conflict"
_MOVED = "a rename, which only Bazaar reads"


@dataclass(frozen=True)
class Unsaid:
    """A file that is named as changed: its name as a diff has it, the line (from 0), and why the change is not there."""

    name: bytes
    line: int
    why: str


class Announced:
    """What is announced, until the file section that it belongs to is read."""

    def __init__(self) -> None:
        self.unsaid: list[Unsaid] = []
        self._pending: list[tuple[str, Unsaid]] = []

    def section(self, head: bytes) -> None:
        """A file section begins, with the two lines `head`: it is what was announced, when it is of a file of that name."""
        self._pending = [each for each in self._pending if each[1].name.rpartition(b"/")[2] not in head]
        self.end()

    def end(self) -> None:
        """Nothing more can follow what was announced."""
        self.unsaid += [each for _, each in self._pending]
        self._pending.clear()

    def see(self, lines: Sequence[bytes], at: int) -> None:
        """Look at a line that belongs to no file section."""
        line = lines[at]
        if len(line) > LONGEST:
            return
        if match := _HG_BINARY.fullmatch(line):
            self._pending.clear()
            self.unsaid.append(Unsaid(b"a/" + match[1], at, _BINARY))
        elif match := _SUBMODULE.fullmatch(line):
            self.unsaid.append(Unsaid(b"a/" + (match[1] or match[2]), at, _SUBMODULE_LOG))
        elif match := _UNMERGED.fullmatch(line):
            self.unsaid.append(Unsaid(b"a/" + match[1], at, _CONFLICT))
        elif match := _TYPES.fullmatch(line):
            self.unsaid.append(Unsaid(match[2], at, _TYPE))
        elif _SVN_BINARY.fullmatch(line) and self._pending:
            self.unsaid.append(Unsaid(self._pending[-1][1].name, at, _BINARY))
            self._pending.clear()
        elif match := _BZR.fullmatch(line):
            self._announce("bzr", match[3] or match[2], at)
            if match[1] == b"renamed":
                self.unsaid += [Unsaid(name, at, _MOVED) for name in (match[2], match[3] or match[2])]
                self._pending.clear()
            elif match[1] == b"modified":
                # The file's properties alone: nothing that a package has.
                self._pending.clear()
        elif (match := _INDEX.fullmatch(line)) and at + 1 < len(lines) and _BELOW_INDEX.fullmatch(lines[at + 1]):
            self._announce("index", match[1], at)
        elif match := _P4.fullmatch(line):
            self._announce("p4", match[1], at)
        elif line.startswith(b"diff -"):
            name = _compared(line)
            if name is not None:
                self._announce("diff", name, at)
        elif b" b/" in line and (match := _BOTH.fullmatch(line)):
            self._announce("both", b"b/" + match[1], at)

    def _announce(self, kind: str, name: bytes, at: int) -> None:
        # CVS prints a command below its `Index:` line; all else begins another file.
        if kind != "diff" or any(each == "diff" for each, _ in self._pending):
            self.end()
        self._pending.append((kind, Unsaid(name, at, _NO_SECTION)))


def _compared(line: bytes) -> bytes | None:
    """The name in a `diff` command that a tool printed above a file's section; None for one that a person typed."""
    if match := _HG_COMMAND.fullmatch(line):
        return b"a/" + match[1]
    try:
        words = [
            each.encode("utf-8", "surrogateescape") for each in shlex.split(line.decode("utf-8", "surrogateescape"))
        ]
    except ValueError:
        return None
    if len(words) < 4 or b"/" not in words[-1] or words[-1].startswith(b"-"):
        return None
    same = words[-2].rpartition(b"/")[2] == words[-1].rpartition(b"/")[2]
    return words[-1] if same else None
