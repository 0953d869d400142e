"""Reading hunks: each line is counted, and what a header counts wrong by one line of context is put right or named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

from builder.patch.inorder import in_order, overlap
from builder.patch.model import Hunk
from builder.util.errors import InputError

_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@[ \t]*(.*)")
# Markers that do not belong to a hunk's lines; of these, an empty line and a mark for a missing newline can.
_OTHER = re.compile(rb"[^ +-]")
_UNCLEAR = (b"\\", b"\0")
# What editors, mailers and pages put before each line of a text.
_BEFORE = re.compile(rb"(?![+@\\-])(.{1,40}?)(?:--- \S|\+\+\+ \S|@@ -\d)")
_NUMBER = re.compile(rb" *\d+")
# How `git diff --word-diff` shows what is removed and added; its porcelain form ends lines with `~`.
_WORDS = re.compile(rb"\[-.+?-\]|\{\+.+?\+\}")
_INDENTED = re.compile(rb"[ \t]+diff --git ")
# How many lines of context diffs end with.
_LOST = 3
# A line of a diffstat, behind a mail's `---`.
_STAT = re.compile(rb" .* \| +(?:\d+|Bin)\b.*")
_FIRST = itemgetter(0)

# How many old and new lines a line of a hunk is, by its marker.
_COUNTED = {b" ": (1, 1), b"-": (1, 0), b"+": (0, 1)}


class DiffError(InputError):
    """A diff that cannot be used."""


class Lines:
    """The lines of a diff, and how far they are read."""

    def __init__(self, data: bytes, where: str, *, fetched: bool) -> None:
        self.where = where
        self.fetched = fetched
        lines = data.split(b"\n")
        self.complete = lines[-1] == b""
        self.all = tuple(lines[:-1] if self.complete else lines)
        # The first byte of each line, and a zero byte for an empty one: what most of the reading looks at.
        self.markers = _first_bytes(self.all)
        self.at = 0
        self._hint = (
            "fetch the diff again with `builder lock`"
            if fetched
            else "make the diff again with `git diff` or `diff -u`; one that is edited by hand needs right counts"
        )

    def fail(self, what: str, *, line: int | None = None, hint: str | None = None) -> DiffError:
        number = (line if line is not None else self.at) + 1
        return DiffError(f"{self.where}, line {number}: {what}", hint=hint or self._hint, data={"line": number})

    def peek(self, ahead: int = 0) -> bytes | None:
        index = self.at + ahead
        return self.all[index] if index < len(self.all) else None

    def header_text(self, line: bytes) -> bytes:
        if line.endswith(b"\r"):
            raise self.fail(
                "the diff has CRLF line endings", hint="convert it (`dos2unix FILE.diff`); fetched diffs come with LF"
            )
        return line

    def at_plain_header(self, at: int | None = None) -> bool:
        """Whether a `---` and a `+++` line come next."""
        at = self.at if at is None else at
        return at + 1 < len(self.all) and self.all[at].startswith(b"--- ") and self.all[at + 1].startswith(b"+++ ")

    def at_next_file(self, at: int) -> bool:
        """Whether the header lines of another file, with its first hunk, come next."""
        return self.at_plain_header(at) and at + 2 < len(self.all) and self.all[at + 2].startswith(b"@@ -")

    def before_all(self, at: int) -> bytes:
        """What is before the header lines of another file, and before its first hunk; empty when nothing is, or no file."""
        lines = self.all[at : at + 3]
        if len(lines) < 3 or b"--- " not in lines[0][1:] or b"+++ " not in lines[1] or b"@@ -" not in lines[2]:
            return b""
        found = [match for line in lines if (match := _BEFORE.match(line)) is not None]
        texts = [match[0][len(match[1]) :][:3] for match in found]
        # The numbers of lines may be before them.
        if texts != [b"---", b"+++", b"@@ "] or len({_NUMBER.sub(b"0", match[1]) for match in found}) > 1:
            return b""
        return found[0][1]


def _first_bytes(lines: tuple[bytes, ...]) -> bytes:
    try:
        return bytes(map(_FIRST, lines))
    except IndexError:
        return bytes([line[0] if line else 0 for line in lines])


@dataclass
class _Body:
    """The lines of one hunk while they are counted."""

    old_left: int
    new_left: int
    lines: list[bytes]
    old_ended: bool = False
    new_ended: bool = False


class HunkReader:
    """Reads the hunks of one file section after another."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def hunks(self) -> tuple[Hunk, ...]:
        """All hunks up to a line that is none. Raises `DiffError`, with the header that would be right."""
        hunks: list[Hunk] = []
        sorted_already = True
        while self.at_hunk():
            hunk = self._hunk(self._lines.all[self._lines.at])
            sorted_already = sorted_already and not (hunks and overlap(hunks[-1], hunk))
            hunks.append(hunk)
        if not hunks:
            if (self._lines.peek() or b"").startswith(b"@@"):
                raise self._without_numbers()
            raise self._lines.fail(
                "no hunk follows the `---` and `+++` lines",
                hint="only unified diffs are taken, no ed scripts and no context diffs",
            )
        return tuple(hunks) if sorted_already else self._sorted(hunks)

    def _without_numbers(self) -> DiffError:
        return self._lines.fail("this is not a hunk header: those have line numbers, `@@ -LINE,COUNT +LINE,COUNT @@`")

    def at_hunk(self) -> bool:
        """Whether a hunk comes next; blank lines between two hunks are an editor's, and nothing."""
        at = self._lines.at
        while at < len(self._lines.all) and not self._lines.all[at].strip():
            at += 1
        if at >= len(self._lines.all) or not self._lines.all[at].startswith(b"@@ "):
            return False
        self._lines.at = at
        return True

    def _sorted(self, hunks: list[Hunk]) -> tuple[Hunk, ...]:
        found = in_order(hunks)
        if found is None:
            wrong = next(other for one, other in pairwise(hunks) if overlap(one, other))
            raise self._lines.fail(
                "two hunks change the same lines, or contradict each other in the lines around them",
                line=wrong.diff_line - 1,
                hint="give the second its own `---` and `+++` lines when it is made for the result of the first",
            )
        return found

    def _hunk(self, header: bytes) -> Hunk:
        start = self._lines.at
        match = _HUNK.fullmatch(self._lines.header_text(header))
        if match is None:
            raise self._without_numbers()
        old_start, new_start = int(match[1]), int(match[3])
        old_count = int(match[2]) if match[2] is not None else 1
        new_count = int(match[4]) if match[4] is not None else 1
        if (old_count and not old_start) or (new_count and not new_start):
            raise self._lines.fail("a hunk with lines begins at line 1 or later")
        self._lines.at += 1
        whole = self._plain((old_start, old_count, new_start, new_count), start, match[5] or b"")
        if whole is not None:
            return whole
        body = _Body(old_count, new_count, [])
        self._read(body, start)
        # Blank lines behind a complete hunk are an editor's, and nothing.
        surplus = [each or b" " for each in self._extent(self._lines.at)]
        if surplus:
            if len(surplus) > 1 or not surplus[0].startswith(b" ") or body.old_ended or body.new_ended:
                raise self._miscounted("the hunk has more lines than its header says", start)
            # One line of context too many changes nothing: it must be in the file too, where the hunk goes.
            body.lines += surplus
            self._lines.at += 1
            old_count, new_count = old_count + 1, new_count + 1
        if not any(line[:1] in b"+-" for line in body.lines):
            raise self._worded(start) or self._lines.fail("the hunk changes nothing", line=start)
        return Hunk(
            old_start, old_count, new_start, new_count, tuple(body.lines), body.old_ended, body.new_ended, start + 1,
            heading=match[5] or b"", header=self._header(start, old_count, new_count) if surplus else "",
        )  # fmt: skip

    def _plain(self, span: tuple[int, int, int, int], start: int, heading: bytes) -> Hunk | None:
        """The hunk whose lines add up to its header, with something else behind them; None for all that needs a second look."""
        lines, markers, begin = self._lines.all, self._lines.markers, self._lines.at
        found = _OTHER.search(markers, begin)
        end = found.start() if found is not None else len(lines)
        if found is not None and found[0] in _UNCLEAR:
            return None
        own = markers[begin:end]
        context, removed, added = own.count(b" "), own.count(b"-"), own.count(b"+")
        if context + removed != span[1] or context + added != span[3] or context == len(own):
            return None
        body = b"\n".join(lines[begin:end])
        if b"\n--- " in body or body.startswith(b"--- "):
            return None
        self._lines.at = end
        return Hunk.read(span, lines[begin:end], own, body, start + 1, heading)

    def _read(self, body: _Body, start: int) -> None:
        """Read as many lines as the header counts, and the marks that belong to them."""
        while True:
            self._read_plain(body)
            line = self._lines.peek()
            if line is not None and line.startswith(b"\\ "):
                self._no_newline(body)
                self._lines.at += 1
                continue
            if body.old_left == 0 and body.new_left == 0:
                return
            if line is None:
                raise self._miscounted(self._why_short(start), start, short=body)
            marker = line[:1] or b" "
            old, new = _COUNTED.get(marker, (0, 0))
            # The next file's header lines are lines of this hunk for a header that counts too many.
            # A hunk that begins with context and ends without is at the file's end: no other one follows.
            could_be = (body.old_left, body.new_left) == (1, 1) and body.lines[:1] and body.lines[0][:1] != b" "
            foreign = not could_be and self._lines.at_next_file(self._lines.at)
            if (not old and not new) or foreign:
                self._check_mangled(line)
                raise self._miscounted("the hunk has fewer lines than its header says", start, short=body)
            if body.old_left < old or body.new_left < new:
                raise self._miscounted("the hunk's lines do not add up to its header", start)
            if (body.old_ended and old) or (body.new_ended and new):
                raise self._lines.fail("a line follows the one without a newline at the end of the file")
            body.old_left -= old
            body.new_left -= new
            # Mailers strip the blank of an empty context line.
            body.lines.append(line or b" ")
            self._lines.at += 1

    def _read_plain(self, body: _Body) -> None:
        """Read on over lines that need no second look: most of them, and a large diff has many."""
        if body.old_ended or body.new_ended:
            return
        lines, at = self._lines.all, self._lines.at
        old_left, new_left = body.old_left, body.new_left
        begin, end = at, min(len(lines), at + old_left + new_left)
        while at < end:
            line = lines[at]
            marker = line[:1]
            if marker == b" " and old_left and new_left:
                old_left -= 1
                new_left -= 1
            elif marker == b"+" and new_left:
                new_left -= 1
            elif marker == b"-" and old_left and line[:4] != b"--- ":
                old_left -= 1
            else:
                break
            at += 1
        body.lines += lines[begin:at]
        body.old_left, body.new_left, self._lines.at = old_left, new_left, at

    def _check_mangled(self, line: bytes) -> None:
        """Raise `DiffError` for a line that a terminal or a page has changed."""
        if line.startswith(b"\x1b["):
            raise self._lines.fail("the diff has a terminal's colour codes", hint="make it with `git diff --no-color`")
        if line.startswith(b"\xc2\xa0"):
            raise self._lines.fail(
                "the diff has no-break spaces in place of blanks, as text that is copied from a page",
                hint="save the diff itself: on GitHub the pull request's address with `.diff` behind it",
            )

    def _why_short(self, start: int) -> str:
        """Why the diff ends before the hunk does: a whole hunk with a wrong header, or no whole one."""
        if self._lines.complete and self._extent(start + 1):
            return "the hunk has fewer lines than its header says; it may be truncated"
        return "the hunk is truncated: lines are missing at the end of the diff"

    def _no_newline(self, body: _Body) -> None:
        if not body.lines:
            raise self._lines.fail("'No newline at end of file' before the hunk's first line")
        marker = body.lines[-1][:1]
        if marker in b" -":
            if body.old_left:
                raise self._lines.fail("'No newline at end of file' before the last line")
            body.old_ended = True
        if marker in b" +":
            if body.new_left:
                raise self._lines.fail("'No newline at end of file' before the last line")
            body.new_ended = True

    def _extent(self, at: int) -> list[bytes]:
        """The lines from `at` on that can belong to a hunk, without the blank ones at their end."""
        if at < len(self._lines.all) and not self._lines.all[at]:
            return []
        found: list[bytes] = []
        while at < len(self._lines.all):
            line = self._lines.all[at]
            if line[:1] not in (b" ", b"+", b"-", b"\\", b"") or self._separates(at):
                break
            found.append(line)
            at += 1
        while found and not found[-1].strip():
            found.pop()
        # Behind an empty line comes text: an indented commit message, or the next mail.
        return found if not found or found[0] else []

    def _separates(self, at: int) -> bool:
        """Whether a line begins something else: the next file, or a mail's signature or its `---`."""
        line = self._lines.all[at]
        if self._lines.at_plain_header(at) or self._lines.before_all(at) or _INDENTED.match(line):
            return True
        following = self._lines.all[at + 1] if at + 1 < len(self._lines.all) else b""
        if line.rstrip() == b"--" or (line.startswith((b"--- ", b"+++ ")) and following.startswith(b"@@ -")):
            return True
        return line.rstrip() == b"---" and (
            following[:1] not in (b" ", b"+", b"-")
            or _STAT.fullmatch(following) is not None
            or self._lines.at_plain_header(at + 1)
        )

    def _miscounted(self, what: str, start: int, *, short: _Body | None = None) -> DiffError:
        """The error for a hunk that does not fit its header, with the header that would fit its lines.

        `short` is what was read of a hunk that lacks lines.
        """
        if (worded := self._worded(start)) is not None:
            return worded
        lines = self._extent(start + 1)
        old = sum(line[:1] in (b" ", b"-", b"") for line in lines)
        new = sum(line[:1] in (b" ", b"+", b"") for line in lines)
        error = self._lines.fail(what, line=start)
        error.details = (
            ("header", self._lines.all[start].decode("utf-8", "replace")),
            ("lines", f"{old} old, {new} new"),
        )
        if any(line[:1] in b"+-" for line in lines if line):
            lost = short.old_left if short is not None and 0 < short.old_left == short.new_left <= _LOST else 0
            more = f"; if blank lines were lost at its end, put {lost} with one blank each there" if lost else ""
            error.hint = f"if these are all lines of the hunk, its header is `{self._header(start, old, new)}`{more}; else {error.hint}"
        return error

    def _worded(self, start: int) -> DiffError | None:
        """The error for a hunk that shows changed words and not lines; None for one that does not."""
        for line in self._lines.all[start + 1 :]:
            if line.startswith((b"diff --git ", b"@@ -", b"--- ")):
                return None
            if line == b"~" or (line[:1] not in (b"+", b"-") and _WORDS.search(line)):
                return self._lines.fail(
                    "made with `--word-diff`: it shows words, and not the lines that change",
                    line=start,
                    hint="make it with `git diff --word-diff=none`",
                )
        return None

    def _header(self, start: int, old: int, new: int) -> str:
        match = _HUNK.fullmatch(self._lines.all[start])
        assert match is not None  # noqa: S101  it was read before

        def span(first: bytes, count: int) -> str:
            return f"{int(first)}" if count == 1 else f"{int(first)},{count}"

        return f"@@ -{span(match[1], old)} +{span(match[3], new)} @@"
