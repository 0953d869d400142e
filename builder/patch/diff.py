"""Reading diffs strictly, and writing them in one canonical form.

A diff is bytes from somebody else. What GNU patch would skip, guess or do silently (an empty input, an ed script, a
binary file, a reversed hunk) is refused here, before anything is applied.

Source of the syntax: git's documentation, "Generating patch text with -p", and GNU diffutils, "Detailed description of
unified format".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from builder.patch.model import Diff, FileChange, Hunk
from builder.patch.paths import check_path, quote, unquote
from builder.util.errors import InputError
from builder.util.files import sha256

_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?: .*)?")
# git's name for the content of an empty file: the SHA-1 of `blob 0` and a zero byte.
_EMPTY_BLOB = b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
_REGULAR = ("100644", "100755")
_OTHER_MODES = {"120000": "a symbolic link", "160000": "a submodule"}
_EXTENDED = (
    b"old mode ", b"new mode ", b"deleted file mode ", b"new file mode ", b"copy from ", b"copy to ", b"rename from ",
    b"rename to ", b"similarity index ", b"dissimilarity index ", b"index ",
)  # fmt: skip


class DiffError(InputError):
    """A diff that cannot be used."""


def parse(data: bytes, where: str) -> Diff:
    """Parse a diff; `where` names it in messages. Raises `DiffError` for everything that is not a sound diff."""
    if not data.strip():
        raise DiffError(
            f"{where} is empty", hint="an empty download is a failed download: fetch it again with `builder lock`"
        )
    changes = tuple(_Parser(data, where).changes())
    if not changes:
        page = data.lstrip()[:200].lower()
        if page.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
            raise DiffError(
                f"{where} is an HTML page, not a diff", hint="the server answered with a page; fetch it again"
            )
        raise DiffError(f"{where} has no diff in it", hint="a unified diff has lines `--- a/FILE` and `+++ b/FILE`")
    rendered = canonical(changes)
    return Diff(changes, rendered, sha256(rendered))


def canonical(changes: Iterable[FileChange]) -> bytes:
    """The canonical text: a git diff without `index` lines, commit text and section headings behind `@@`.

    File order, paths, modes, marks and hunk bodies are kept. `git apply` takes it, and `parse` reads back the same changes.
    """
    return b"".join(_render(change) for change in changes)


def patch_input(changes: Iterable[FileChange]) -> bytes:
    """The canonical text as GNU patch needs it: it deletes an empty file only when an `index` line says that it is one."""
    parts: list[bytes] = []
    for change in changes:
        empty = change.kind == "delete" and not change.hunks
        marks = [b"index " + _EMPTY_BLOB + b".." + b"0" * 40] if empty else []
        head, end, rest = _render(change, marks=marks).partition(b"\n")
        if " " in change.path or " " in (change.old_path or ""):
            # Of two bare paths with blanks GNU patch cannot tell where one ends.
            old, new = change.old_path or change.path, change.new_path or change.path
            head = b"diff --git " + quote(f"a/{old}", always=True) + b" " + quote(f"b/{new}", always=True)
        parts += [head, end, rest]
    return b"".join(parts)


def _render(change: FileChange, *, marks: Sequence[bytes] = ()) -> bytes:
    old = change.old_path if change.old_path is not None else change.path
    new = change.new_path if change.new_path is not None else change.path
    lines = [b"diff --git " + quote(f"a/{old}") + b" " + quote(f"b/{new}")]
    if change.kind == "add":
        lines.append(b"new file mode " + (change.new_mode or "100644").encode())
    elif change.kind == "delete":
        lines.append(b"deleted file mode " + (change.old_mode or "100644").encode())
    elif change.old_mode is not None and change.new_mode is not None:
        lines += [b"old mode " + change.old_mode.encode(), b"new mode " + change.new_mode.encode()]
    if change.kind in ("rename", "copy"):
        lines += [change.kind.encode() + b" from " + quote(old), change.kind.encode() + b" to " + quote(new)]
    lines += marks
    if change.binary:
        left = b"/dev/null" if change.kind == "add" else quote(f"a/{old}")
        right = b"/dev/null" if change.kind == "delete" else quote(f"b/{new}")
        lines.append(b"Binary files " + left + b" and " + right + b" differ")
    elif change.hunks:
        lines.append(b"--- " + (b"/dev/null" if change.kind == "add" else _named(f"a/{old}")))
        lines.append(b"+++ " + (b"/dev/null" if change.kind == "delete" else _named(f"b/{new}")))
        for hunk in change.hunks:
            lines += _render_hunk(hunk)
    return b"\n".join(lines) + b"\n"


def _named(path: str) -> bytes:
    """A path in a `---` or `+++` line: git ends it with a tab when it has a space, so that readers see its end."""
    quoted = quote(path)
    return quoted + b"\t" if b" " in quoted and not quoted.startswith(b'"') else quoted


def _render_hunk(hunk: Hunk) -> list[bytes]:
    def span(start: int, count: int) -> bytes:
        return b"%d" % start if count == 1 else b"%d,%d" % (start, count)

    lines = [b"@@ -" + span(hunk.old_start, hunk.old_count) + b" +" + span(hunk.new_start, hunk.new_count) + b" @@"]
    last_old = max((i for i, line in enumerate(hunk.lines) if line[:1] in b" -"), default=-1)
    last_new = max((i for i, line in enumerate(hunk.lines) if line[:1] in b" +"), default=-1)
    for index, line in enumerate(hunk.lines):
        lines.append(line)
        ends_old = hunk.old_missing_newline and index == last_old
        ends_new = hunk.new_missing_newline and index == last_new
        if ends_old or ends_new:
            lines.append(b"\\ No newline at end of file")
    return lines


class _Parser:
    """One pass over the lines of a diff."""

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        lines = data.split(b"\n")
        self._complete = lines[-1] == b""
        self._lines = lines[:-1] if self._complete else lines
        self._at = 0

    def _fail(self, what: str, *, line: int | None = None, hint: str | None = None) -> DiffError:
        number = (line if line is not None else self._at) + 1
        return DiffError(
            f"{self._where}, line {number}: {what}",
            hint=hint or "fetch the diff again with `builder lock`; a diff that was edited by hand needs right counts",
            data={"line": number},
        )

    def _peek(self, ahead: int = 0) -> bytes | None:
        index = self._at + ahead
        return self._lines[index] if index < len(self._lines) else None

    def changes(self) -> Iterable[FileChange]:
        """The file changes in order. Text between them (mail headers, commit messages, signatures) is passed over."""
        while (line := self._peek()) is not None:
            if line.startswith(b"diff --git "):
                yield self._git_change()
            elif self._is_plain_header():
                yield self._plain_change()
            else:
                self._text(line)
                self._at += 1
                continue
            if not self._complete and self._peek() is None:
                raise self._fail("the diff's last line has no newline: it is cut", line=len(self._lines) - 1)

    def _text(self, line: bytes) -> None:
        if line.startswith(b"Prereq:"):
            raise self._fail(
                "a 'Prereq:' line asks for another version", hint="remove the line if the diff is meant for this base"
            )
        if line.startswith((b"GIT binary patch", b"Binary files ")):
            raise self._fail("a binary change without a `diff --git` line")
        if line.startswith(b"@@ "):
            raise self._fail("a hunk without `---` and `+++` lines before it")
        if line.startswith((b"diff --cc ", b"diff --combined ")):
            raise self._fail("a merge commit's combined diff", hint="take the diff between the merge base and the head")

    def _is_plain_header(self) -> bool:
        line, following = self._peek(), self._peek(1)
        return line is not None and line.startswith(b"--- ") and following is not None and following.startswith(b"+++ ")

    # --- one file ---------------------------------------------------------------------------------------------------

    def _git_change(self) -> FileChange:
        start = self._at
        names = self._header_text(self._lines[start])[len(b"diff --git ") :]
        self._at += 1
        marks: dict[bytes, bytes] = {}
        while (line := self._peek()) is not None and (prefix := _extended(line)) is not None:
            if prefix in marks:
                raise self._fail(f"{prefix.decode().strip()!r} stands twice")
            marks[prefix] = self._header_text(line)[len(prefix) :]
            self._at += 1
        binary = self._skip_binary()
        hunks: tuple[Hunk, ...] = ()
        shown: tuple[str | None, str | None] | None = None
        if not binary and self._is_plain_header():
            shown = self._file_lines()
            hunks = self._hunks()
        change = self._assemble(start, names, marks, shown, hunks, binary)
        return self._checked(change, start)

    def _plain_change(self) -> FileChange:
        start = self._at
        old, new = self._file_lines()
        hunks = self._hunks()
        # GNU diff marks new and deleted files by their time only; an empty side says the same without trusting a clock.
        if old is not None and new is not None and len(hunks) == 1:
            if hunks[0].old_start == 0 and hunks[0].old_count == 0:
                old = None
            elif hunks[0].new_start == 0 and hunks[0].new_count == 0:
                new = None
        path = new if new is not None else old
        if path is None:
            raise self._fail("both sides are /dev/null", line=start)
        if old is None:
            change = FileChange("add", None, path, hunks, None, "100644", start + 1)
        elif new is None:
            change = FileChange("delete", old, None, hunks, "100644", None, start + 1)
        else:
            # As GNU patch does for `--- x.orig` and `+++ x`: the new name is the file.
            change = FileChange("modify", path, path, hunks, None, None, start + 1)
        return self._checked(change, start)

    def _header_text(self, line: bytes) -> bytes:
        if line.endswith(b"\r"):
            raise self._fail(
                "the diff has CRLF line ends", hint="convert it (`dos2unix FILE.diff`); fetched diffs come with LF"
            )
        return line

    def _file_lines(self) -> tuple[str | None, str | None]:
        """The paths of a `---` and a `+++` line; None for /dev/null."""
        old = self._side(self._header_text(self._lines[self._at])[4:])
        self._at += 1
        new = self._side(self._header_text(self._lines[self._at])[4:])
        self._at += 1
        return old, new

    def _side(self, text: bytes) -> str | None:
        name, rest = unquote(text, self._fail) if text.startswith(b'"') else (text.split(b"\t", 1)[0], b"")
        if rest and not rest.startswith(b"\t"):
            raise self._fail("text behind a quoted path")
        if name == b"/dev/null":
            return None
        return self._stripped(name)

    def _stripped(self, name: bytes) -> str:
        """A path without its first part, as `--strip=1` takes it."""
        if name.startswith(b"/"):
            raise self._fail(f"{name.decode('utf-8', 'replace')!r} is an absolute path")
        head, slash, tail = name.partition(b"/")
        if not slash or not head:
            raise self._fail(
                f"{name.decode('utf-8', 'replace')!r} has no leading a/ or b/",
                hint="make the diff with git's default prefixes, a/ and b/",
            )
        return check_path(tail, self._fail)

    def _skip_binary(self) -> bool:
        line = self._peek()
        if line is None:
            return False
        if line.startswith(b"Binary files ") and line.rstrip(b"\r").endswith(b" differ"):
            self._at += 1
            return True
        if line.startswith(b"GIT binary patch"):
            self._at += 1
            while (line := self._peek()) is not None and not line.startswith(b"diff --git "):
                if line.startswith(b"-- "):
                    break
                self._at += 1
            return True
        return False

    def _assemble(
        self,
        start: int,
        names: bytes,
        marks: dict[bytes, bytes],
        shown: tuple[str | None, str | None] | None,
        hunks: tuple[Hunk, ...],
        binary: bool,
    ) -> FileChange:
        line = start + 1
        old_mode = _text(marks.get(b"old mode ") or marks.get(b"deleted file mode "))
        new_mode = _text(marks.get(b"new mode ") or marks.get(b"new file mode "))
        index = marks.get(b"index ", b"").split(b" ")
        if len(index) == 2 and _text(index[1]) in _OTHER_MODES:
            old_mode = new_mode = _text(index[1])
        for verb in ("rename", "copy"):
            source, target = marks.get(f"{verb} from ".encode()), marks.get(f"{verb} to ".encode())
            if (source is None) != (target is None):
                raise self._fail(f"'{verb} from' and '{verb} to' come as a pair", line=start)
            if source is not None and target is not None:
                old, new = self._whole(source), self._whole(target)
                if shown is not None and shown != (old, new):
                    raise self._fail("the paths of the `---` and `+++` lines are other ones", line=start)
                kind = "rename" if verb == "rename" else "copy"
                return FileChange(kind, old, new, hunks, old_mode, new_mode, line, binary)  # type: ignore[arg-type]
        added, deleted = b"new file mode " in marks, b"deleted file mode " in marks
        if (added or deleted) and shown is None and not binary:
            blob = index[0].partition(b"..")[0 if deleted else 2]
            if blob and not _EMPTY_BLOB.startswith(blob):
                raise self._fail("a file with content, but no hunk: the diff is cut", line=start)
        if shown is None:
            path = self._both(names)
            old_path, new_path = (None if added else path), (None if deleted else path)
        else:
            old_path, new_path = shown
            path = new_path if new_path is not None else old_path or ""
            if (old_path is None) != added or (new_path is None) != deleted:
                raise self._fail(
                    "/dev/null and the 'new file' or 'deleted file' mark contradict each other", line=start
                )
            if not added and not deleted and old_path != new_path:
                raise self._fail("two paths, but no 'rename' or 'copy' mark", line=start)
        if added and deleted:
            raise self._fail("a file cannot be new and deleted at once", line=start)
        if added:
            return FileChange("add", None, path, hunks, None, new_mode, line, binary)
        if deleted:
            return FileChange("delete", path, None, hunks, old_mode, None, line, binary)
        kind = "modify" if hunks or binary else "mode"
        return FileChange(kind, path, path, hunks, old_mode, new_mode, line, binary)  # type: ignore[arg-type]

    def _whole(self, text: bytes) -> str:
        """A path that is printed without a prefix, as `rename from` has it."""
        name, rest = unquote(text, self._fail) if text.startswith(b'"') else (text, b"")
        if rest:
            raise self._fail("text behind a quoted path")
        return check_path(name, self._fail)

    def _both(self, names: bytes) -> str:
        """The path of a `diff --git` line, which has it twice: the only place when there is no `---` line."""
        if names.startswith(b'"'):
            left, rest = unquote(names, self._fail)
            right = unquote(rest[1:], self._fail)[0] if rest.startswith(b' "') else rest[1:]
        else:
            middle = len(names) // 2
            left, right = names[:middle], names[middle + 1 :]
            if names[middle : middle + 1] != b" ":
                raise self._fail("cannot tell the two paths of the `diff --git` line apart")
        old, new = self._stripped(left), self._stripped(right)
        if old != new:
            raise self._fail("two paths, but no 'rename' or 'copy' mark")
        return old

    def _checked(self, change: FileChange, start: int) -> FileChange:
        modes = [mode for mode in (change.old_mode, change.new_mode) if mode is not None]
        for mode in modes:
            if mode not in _REGULAR and mode not in _OTHER_MODES:
                raise self._fail(f"mode {mode} is not taken, only 100644 and 100755", line=start)
        special = next((_OTHER_MODES[mode] for mode in modes if mode in _OTHER_MODES), "")
        if any(
            line.startswith((b"-Subproject commit ", b"+Subproject commit "))
            for hunk in change.hunks
            for line in hunk.lines
        ):
            special = _OTHER_MODES["160000"]
        if change.kind == "mode" and (change.old_mode is None or change.new_mode is None):
            raise self._fail(
                "a file section without a change", line=start, hint="the diff is cut, or holds an ed script"
            )
        if (change.kind == "add" and len(change.hunks) > 1) or (change.kind == "delete" and len(change.hunks) > 1):
            raise self._fail("a new or deleted file has one hunk", line=start)
        for hunk in change.hunks:
            if change.kind == "add" and (hunk.old_start or hunk.old_count):
                raise self._fail("a new file's hunk must begin with `@@ -0,0`", line=hunk.diff_line - 1)
            if change.kind == "delete" and (hunk.new_start or hunk.new_count):
                raise self._fail("a deleted file's hunk must end in `+0,0 @@`", line=hunk.diff_line - 1)
        return replace(change, special=special) if special else change

    # --- hunks ------------------------------------------------------------------------------------------------------

    def _hunks(self) -> tuple[Hunk, ...]:
        hunks: list[Hunk] = []
        end = -1
        while (line := self._peek()) is not None and line.startswith(b"@@ "):
            hunk = self._hunk(line)
            first = hunk.old_start if hunk.old_count else hunk.old_start + 1
            if first <= end:
                raise self._fail("hunks overlap or are out of order", line=hunk.diff_line - 1)
            end = max(end, hunk.old_start + hunk.old_count - 1, hunk.old_start)
            hunks.append(hunk)
        if not hunks:
            raise self._fail(
                "no hunk follows the `---` and `+++` lines",
                hint="only unified diffs are taken, no ed scripts and no context diffs",
            )
        return tuple(hunks)

    def _hunk(self, header: bytes) -> Hunk:
        start = self._at
        match = _HUNK.fullmatch(self._header_text(header))
        if match is None:
            raise self._fail("this is not a hunk header")
        old_start, new_start = int(match[1]), int(match[3])
        old_count = int(match[2]) if match[2] is not None else 1
        new_count = int(match[4]) if match[4] is not None else 1
        if (old_count and not old_start) or (new_count and not new_start):
            raise self._fail("a hunk with lines begins at line 1 or later")
        self._at += 1
        lines: list[bytes] = []
        old_left, new_left = old_count, new_count
        missing = {"old": False, "new": False}
        while True:
            line = self._peek()
            if line is not None and line.startswith(b"\\ "):
                self._no_newline(lines, old_left, new_left, missing)
                self._at += 1
                continue
            if old_left == 0 and new_left == 0:
                break
            if line is None:
                raise self._fail("the hunk is cut: lines are missing at the end of the diff", line=start)
            # Mailers strip the blank of an empty context line.
            line = line or b" "
            marker = line[:1]
            if marker not in (b" ", b"-", b"+"):
                raise self._fail("the hunk has fewer lines than its header says", line=start)
            old_left -= marker in b" -"
            new_left -= marker in b" +"
            if old_left < 0 or new_left < 0:
                raise self._fail("the hunk's lines do not add up to its header", line=start)
            if (missing["old"] and marker in b" -") or (missing["new"] and marker in b" +"):
                raise self._fail("a line follows the one without a newline at the end of the file")
            lines.append(line)
            self._at += 1
        following = self._peek()
        if following is not None and self._continues(following):
            raise self._fail("the hunk has more lines than its header says")
        if not any(line[:1] in b"+-" for line in lines):
            raise self._fail("the hunk changes nothing", line=start)
        return Hunk(old_start, old_count, new_start, new_count, tuple(lines), missing["old"], missing["new"], start + 1)

    def _continues(self, line: bytes) -> bool:
        """Whether a line behind a complete hunk looks like a part of it. `-- ` begins a mail's signature."""
        return line.startswith((b" ", b"+", b"-")) and line.rstrip() != b"--" and not self._is_plain_header()

    def _no_newline(self, lines: list[bytes], old_left: int, new_left: int, missing: dict[str, bool]) -> None:
        if not lines:
            raise self._fail("'No newline at end of file' before the hunk's first line")
        marker = lines[-1][:1]
        if marker in b" -":
            if old_left:
                raise self._fail("'No newline at end of file' before the last line")
            missing["old"] = True
        if marker in b" +":
            if new_left:
                raise self._fail("'No newline at end of file' before the last line")
            missing["new"] = True


def _extended(line: bytes) -> bytes | None:
    return next((prefix for prefix in _EXTENDED if line.startswith(prefix)), None)


def _text(value: bytes | None) -> str | None:
    return value.decode("ascii", "replace") if value is not None else None
