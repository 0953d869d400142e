"""Reading the file sections of a diff, strictly.

Source of the syntax: git's documentation, "Generating patch text with -p", and GNU diffutils, "Detailed description of
unified format".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from builder.patch import stamps
from builder.patch.between import Between
from builder.patch.ending import check_end
from builder.patch.hunkreader import DiffError, HunkReader, Lines
from builder.patch.model import ChangeKind, FileChange, Hunk
from builder.patch.names import beside, moved, plain_name
from builder.patch.paths import check_path, unquote
from builder.util.errors import BuilderError

__all__ = ["DiffError", "Parser"]

# git's name for the content of an empty file: the SHA-1 of `blob 0` and a zero byte.
_EMPTY_BLOB = b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
_REGULAR = ("100644", "100755")
# What `diff` says of two files that it does not print; with `-q` of any two.
_DIFFER = re.compile(rb"(Binary files|Files|Symbolic links) (.+) differ\r?")
_ONLY_DIFFER = {
    b"Files": "made with `diff --brief`, which says only that the file differs",
    b"Symbolic links": "a symbolic link, which is not in the diff",
}
# Of a `GIT binary patch` (apply.c, `parse_binary_hunk`): a line of data has its length as a letter, and base 85.
_BINARY_DATA = re.compile(rb"(?:literal|delta) \d+|[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]+")
_DEV_NULL = b"/dev/null"
_OTHER_MODES = {"120000": "a symbolic link", "160000": "a submodule"}
_EXTENDED = (
    b"old mode ", b"new mode ", b"deleted file mode ", b"new file mode ", b"copy from ", b"copy to ", b"rename from ",
    b"rename to ", b"similarity index ", b"dissimilarity index ", b"index ",
)  # fmt: skip
_NOTHING = re.compile(r"/(?:\.?/)+")


class Parser:
    """One pass over the lines of a diff."""

    def __init__(self, data: bytes, where: str, strip: int, under: str, *, fetched: bool) -> None:
        self._lines = Lines(data, where, fetched=fetched)
        self._hunk_reader = HunkReader(self._lines)
        self._between = Between(self._lines)
        self._strip = strip
        self._under = under
        # Of the section that is being read: whether a name has too few folders, and the names as they are.
        self._outside = False
        self._named: dict[str, bytes] = {}
        # Whether a section has an `index` line, and whether the last one has.
        self._indexed = self._last_indexed = False

    def _fail(self, what: str, *, line: int | None = None, hint: str | None = None) -> DiffError:
        return self._lines.fail(what, line=line, hint=hint)

    def changes(self) -> Iterable[FileChange]:
        """The file changes in order. Text between them (mail headers, commit messages, signatures) is passed over."""
        last: FileChange | None = None
        in_section = False
        while (line := self._lines.peek()) is not None:
            if line.startswith(b"diff --git "):
                self._between.section()
                last = self._git_change()
            elif self._lines.at_plain_header():
                self._between.section()
                last = self._plain_change()
            elif (differ := _DIFFER.fullmatch(line)) is not None:
                self._between.section()
                last = self._plain_binary(differ[2], _ONLY_DIFFER.get(differ[1], ""))
            else:
                self._between.pass_over()
                yield from self._unsaid()
                continue
            in_section = self._lines.peek() is None
            yield last
        if last is not None:
            headless = last.kind == "add" and not last.hunks and self._indexed and not self._last_indexed
            check_end(self._lines, in_section=in_section, hunks=bool(last.hunks), headless=headless)
        self._between.end(any_section=last is not None)
        yield from self._unsaid()

    def _unsaid(self) -> Iterator[FileChange]:
        """The files that are named as changed between the sections, without their change."""
        found = self._between.announced.unsaid
        while found:
            each = found.pop(0)
            self._outside, self._named = False, {}
            path = self._stripped(each.name)
            change = FileChange("modify", path, path, diff_line=each.line + 1, binary=True, unsaid=each.why)
            yield self._checked(change, each.line)

    def absent(self) -> tuple[str, ...]:
        """The files and folders, as they are in the package, that the diff says one of its trees does not have."""
        names = (each.decode("utf-8", "replace") for each in self._between.absent)
        return tuple(path for each in names if (path := moved(each, self._strip, self._under)) is not None)

    # --- one file ---------------------------------------------------------------------------------------------------

    def _git_change(self) -> FileChange:
        self._outside, self._named = False, {}
        start = self._lines.at
        names = self._lines.header_text(self._lines.all[start])[len(b"diff --git ") :]
        self._lines.at += 1
        marks: dict[bytes, bytes] = {}
        while (line := self._lines.peek()) is not None and (prefix := _extended(line)) is not None:
            if prefix in marks:
                raise self._fail(f"{prefix.decode().strip()!r} is repeated")
            marks[prefix] = self._lines.header_text(line)[len(prefix) :]
            self._lines.at += 1
        self._last_indexed = b"index " in marks
        self._indexed = self._indexed or self._last_indexed
        binary = self._skip_binary()
        hunks: tuple[Hunk, ...] = ()
        shown: tuple[str | None, str | None] | None = None
        if not binary and self._lines.at_plain_header() and not (_is_whole(marks) and self._are_others(names)):
            shown = self._file_lines()
            hunks = self._hunk_reader.hunks()
        elif not binary and self._hunk_reader.at_hunk():
            # The names are in the `diff --git` line too.
            hunks = self._hunk_reader.hunks()
        change = self._assemble(start, names, marks, shown, hunks, binary)
        return self._checked(change, start)

    def _plain_change(self) -> FileChange:
        self._outside, self._named = False, {}
        start = self._lines.at
        old, new = self._file_lines()
        old_says, new_says = (stamps.says(stamps.split(self._lines.all[at][4:])[1]) for at in (start, start + 1))
        hunks = self._hunk_reader.hunks()
        # GNU diff marks new and deleted files by their time only, and an emptied one by another.
        if old is not None and new is not None and len(hunks) == 1:
            if hunks[0].old_start == 0 and hunks[0].old_count == 0 and old_says != "there":
                old = None
            elif hunks[0].new_start == 0 and hunks[0].new_count == 0 and new_says != "there":
                if new_says != "gone":
                    raise self._fail(
                        f"all lines of {new} are removed, and whether the file is deleted or left empty is not said",
                        line=start,
                        hint="if it is deleted, write `+++ /dev/null`; if it is left empty, put the line\n"
                        f"`diff --git a/{new} b/{new}` above its `---` line",
                    )
                new = None
        path = new if new is not None else old
        if path is None:
            raise self._fail("both sides are /dev/null", line=start)
        if old is None:
            change = FileChange("add", None, path, hunks, None, "100644", start + 1)
        elif new is None:
            change = FileChange("delete", old, None, hunks, "100644", None, start + 1)
        else:
            path = plain_name(old, new)
            change = FileChange("modify", path, path, hunks, None, None, start + 1)
        return self._checked(change, start)

    def _file_lines(self) -> tuple[str | None, str | None]:
        """The paths of a `---` and a `+++` line; None for /dev/null."""
        old = self._side(self._lines.header_text(self._lines.all[self._lines.at])[4:])
        self._lines.at += 1
        new = self._side(self._lines.header_text(self._lines.all[self._lines.at])[4:])
        self._lines.at += 1
        return old, new

    def _side(self, text: bytes) -> str | None:
        name = self._name(text)
        if b"\\" in name and b"/" not in (name[2:] if name[:2] in (b"a/", b"b/") else name):
            raise self._backslashes(name)
        return self._stripped(name) if name != _DEV_NULL else None

    def _backslashes(self, name: bytes) -> DiffError:
        return self._fail(
            f"the name {name.decode('utf-8', 'replace')} has backslashes, as Windows writes them",
            hint="write them as slashes: sed -i -E '/^(diff|---|[+]{3}|rename|copy|Index:) /s#\\\\+#/#g' FIX.diff",
        )

    def _name(self, text: bytes) -> bytes:
        """The name in a `---` or `+++` line, as the diff has it."""
        name, rest = unquote(text, self._fail) if text.startswith(b'"') else (stamps.split(text)[0], b"")
        if rest and not rest.startswith(b"\t"):
            raise self._fail("text behind a quoted path")
        return name

    def _are_others(self, names: bytes) -> bool:
        """Whether the `---` and `+++` lines that come next have other names than the `diff --git` line: those of a plain diff."""
        old, new = (self._name(self._lines.all[self._lines.at + ahead][4:]) for ahead in (0, 1))
        return not any(old in (left, _DEV_NULL) and new in (right, _DEV_NULL) for left, right in self._splits(names))

    def _stripped(self, name: bytes, strip: int | None = None) -> str:
        """A name without its first folders, below the folder that goes before it.

        One that has too few of them, and one from the root when nothing but an a/ is stripped, is left as it is: a file
        outside the package.
        """
        path = self._without_folders(name, self._strip if strip is None else strip)
        self._named.setdefault(path, name)
        return path

    def _without_folders(self, name: bytes, strip: int) -> str:
        # For GNU patch, several slashes are one.
        while strip == 0 and name.startswith(b"./"):
            name = name[2:]
        if strip == 1 and not self._under and (plain := _plain_path(name)) is not None:
            return plain
        absolute = name.startswith(b"/") and strip <= 1
        path = name.decode("utf-8", "surrogateescape")
        left = None if absolute else moved(path, strip, "")
        # The canonical form has `a/` before a name from the root.
        if left is None or left.startswith("/"):
            self._outside = True
            whole = left if left is not None and left.startswith("/") else moved(path, min(strip, 1), "") or path
            whole = path if absolute else whole
            checked = check_path(whole.lstrip("/").encode("utf-8", "surrogateescape"), self._fail)
            return f"/{checked}" if whole.startswith("/") else checked
        # As GNU patch and git read names: several slashes, and a folder `.`, are nothing.
        left = _NOTHING.sub("/", f"/{left}")[1:]
        checked = check_path(left.encode("utf-8", "surrogateescape"), self._fail)
        return f"{self._under}/{checked}" if self._under else checked

    def _skip_binary(self) -> bool:
        line = self._lines.peek()
        if line is None:
            return False
        if line.startswith(b"Binary files ") and line.rstrip(b"\r").endswith(b" differ"):
            self._lines.at += 1
            return True
        if line.startswith(b"GIT binary patch"):
            self._lines.at += 1
            while (line := self._lines.peek()) is not None and (not line or _BINARY_DATA.fullmatch(line)):
                self._lines.at += 1
            return True
        return False

    def _plain_binary(self, names: bytes, unsaid: str) -> FileChange:
        """What `diff -r` says of two binary files: that they differ; `unsaid` is why it says no more of others."""
        self._outside, self._named = False, {}
        start = self._lines.at
        parts = names.split(b" and ")
        pairs = [(b" and ".join(parts[:at]), b" and ".join(parts[at:])) for at in range(1, len(parts))]
        # A name may have the word in it: then both sides have it alike, behind their first folder.
        sides = [(self._side(old), self._side(new)) for old, new in pairs]
        if not sides:
            raise self._fail("cannot tell the names of the two files apart")
        old, new = next((pair for pair in sides if pair[0] == pair[1] or None in pair), sides[0])
        self._lines.at += 1
        if old is None or new is None:
            kind: ChangeKind = "add" if old is None else "delete"
            return self._checked(FileChange(kind, old, new, diff_line=start + 1, binary=True, unsaid=unsaid), start)
        change = FileChange("modify", new, new, diff_line=start + 1, binary=True, unsaid=unsaid)
        return self._checked(change, start)

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
                old, new = self._moved(names, source, target)
                if shown is not None and shown != (old, new):
                    raise self._fail("the paths of the `---` and `+++` lines are other ones", line=start)
                whole = hunks or binary or marks.get(b"similarity index ", b"100%").lstrip(b"0") == b"100%"
                if not whole and (b"index " not in marks or self._lines.peek() is None):
                    raise self._fail(
                        f"the {verb} changes the file too, and no hunk follows: the diff is truncated",
                        line=start,
                        hint=None
                        if self._lines.fetched
                        else "make it again, without `--ignore-all-space` and the like",
                    )
                kind = "rename" if verb == "rename" else "copy"
                return FileChange(kind, old, new, hunks, old_mode, new_mode, line, binary)  # type: ignore[arg-type]
        added, deleted = b"new file mode " in marks, b"deleted file mode " in marks
        if (added or deleted) and shown is None and not hunks and not binary:
            blob = index[0].partition(b"..")[0 if deleted else 2]
            if blob and not _EMPTY_BLOB.startswith(blob):
                raise self._fail(
                    "a file with content, but no hunk: the diff is truncated",
                    line=start,
                    hint="make it again with `git diff`, without `--irreversible-delete`" if deleted else None,
                )
        if shown is None:
            path = self._both(names)
            old_path, new_path = (None if added else path), (None if deleted else path)
        else:
            old_path, new_path = shown
            path = new_path if new_path is not None else old_path or ""
            if (added and old_path is not None) or (deleted and new_path is not None):
                raise self._fail(
                    "/dev/null and the 'new file' or 'deleted file' mark contradict each other", line=start
                )
            # People and programs leave the marks out: /dev/null says the same.
            added, deleted = old_path is None, new_path is None
            if old_path is not None and new_path is not None and old_path != new_path:
                if not beside(old_path, new_path):
                    raise self._two_paths(old_path, new_path, start)
                old_path = new_path = path = plain_name(old_path, new_path)
        if added and deleted:
            raise self._fail("a file cannot be new and deleted at once", line=start)
        if added:
            mode = new_mode or ("100644" if shown is not None else None)
            return FileChange("add", None, path, hunks, None, mode, line, binary)
        if deleted:
            return FileChange("delete", path, None, hunks, old_mode, None, line, binary)
        kind = "modify" if hunks or binary else "mode"
        return FileChange(kind, path, path, hunks, old_mode, new_mode, line, binary)  # type: ignore[arg-type]

    def _moved(self, names: bytes, source: bytes, target: bytes) -> tuple[str, str]:
        """The two paths of a rename or copy. Its marks have no prefix: the `diff --git` line tells how long that is."""
        old, new = self._unquoted(source), self._unquoted(target)
        for left, right in self._splits(names):
            if _ends_in(left, old) and _ends_in(right, new):
                return self._stripped(left), self._stripped(right)
        strip = max(self._strip - 1, 0)
        return self._stripped(old, strip), self._stripped(new, strip)

    def _unquoted(self, text: bytes) -> bytes:
        name, rest = unquote(text, self._fail) if text.startswith(b'"') else (text, b"")
        if rest:
            raise self._fail("text behind a quoted path")
        return name

    def _splits(self, names: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The ways to read the two names of a `diff --git` line."""
        if names.startswith(b'"'):
            left, rest = unquote(names, self._fail)
            yield left, self._unquoted(rest[1:])
            return
        at = names.find(b" ")
        while at >= 0:
            right = names[at + 1 :]
            yield names[:at], self._unquoted(right) if right.startswith(b'"') and right.endswith(b'"') else right
            at = names.find(b" ", at + 1)

    def _two_paths(self, old: str, new: str, start: int) -> DiffError:
        """The error for two names of one file, with the key that makes one of them, when their first folders alone differ."""
        left, right = old.split("/"), new.split("/")
        same = 0
        while same < min(len(left), len(right)) and left[-1 - same] == right[-1 - same]:
            same += 1
        hint = None
        if same and len(left) == len(right):
            hint = (
                f"if these are two copies of one tree, write `strip: {self._strip + len(left) - same}` at the overlay in the recipe;\n"
                "if the file was renamed, make the diff again with `git diff`"
            )
        return self._fail("two paths, but no 'rename' or 'copy' mark", line=start, hint=hint)

    def _both(self, names: bytes) -> str:
        """The path of a `diff --git` line, which repeats it: the only place when there is no `---` line."""
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
            raise self._two_paths(old, new, self._lines.at - 1)
        return old

    def _checked(self, change: FileChange, start: int) -> FileChange:
        modes = [mode for mode in (change.old_mode, change.new_mode) if mode is not None]
        for mode in modes:
            if mode not in _REGULAR and mode not in _OTHER_MODES:
                raise self._fail(f"mode {mode} is not taken, only 100644 and 100755", line=start)
        special = next((_OTHER_MODES[mode] for mode in modes if mode in _OTHER_MODES), "")
        # A submodule is one line, its commit; a long hunk is none.
        lines = (line for hunk in change.hunks if len(hunk.lines) <= 2 for line in hunk.lines)
        if any(line.startswith((b"-Subproject commit ", b"+Subproject commit ")) for line in lines):
            special = _OTHER_MODES["160000"]
        if change.kind == "mode" and change.new_mode is None:
            raise self._fail(
                "a file section without a change", line=start, hint="the diff is truncated, or holds an ed script"
            )
        if (change.kind == "add" and len(change.hunks) > 1) or (change.kind == "delete" and len(change.hunks) > 1):
            raise self._fail("a new or deleted file has one hunk", line=start)
        for hunk in change.hunks:
            if change.kind == "add" and (hunk.old_start or hunk.old_count):
                raise self._fail("a new file's hunk must begin with `@@ -0,0`", line=hunk.diff_line - 1)
            if change.kind == "delete" and (hunk.new_start or hunk.new_count):
                raise self._fail("a deleted file's hunk must end in `+0,0 @@`", line=hunk.diff_line - 1)
        named = self._named[change.old_path or change.path]
        # A copy of a frozen value takes long, and a diff can have thousands.
        change.__dict__.update(named=named.decode("utf-8", "surrogateescape"), commit=self._between.commits)
        return replace(change, special=special, outside=self._outside) if special or self._outside else change


@lru_cache(maxsize=10_000)
def _plain_path(name: bytes) -> str | None:
    """What is behind the a/ or b/ of a name when that is a plain path; None for all that needs a second look.

    Each section of a diff has the same path behind a/ and b/, and the diffs of a stack have many paths in common.
    """
    if name[:2] not in (b"a/", b"b/") or name[2:3] in (b"", b"/"):
        return None
    try:
        return check_path(name[2:], BuilderError)
    except BuilderError:
        return None


def _extended(line: bytes) -> bytes | None:
    return next((prefix for prefix in _EXTENDED if line.startswith(prefix)), None)


def _is_whole(marks: Collection[bytes]) -> bool:
    """Whether a file section with these marks changes something without hunks."""
    return any(
        mark in marks for mark in (b"new mode ", b"rename to ", b"copy to ", b"new file mode ", b"deleted file mode ")
    )


def _text(value: bytes | None) -> str | None:
    return value.decode("ascii", "replace") if value is not None else None


def _ends_in(name: bytes, path: bytes) -> bool:
    """Whether a name is a path behind a prefix of whole folders, or behind none."""
    return name == path or name.endswith(b"/" + path)
