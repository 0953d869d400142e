"""Reading diffs strictly, and writing them in one canonical form.

A diff is bytes that others wrote. What GNU patch would skip, guess or do silently (an empty input, an ed script, a
binary file, a reversed hunk) is refused here, before anything is applied.

Source of the syntax: git's documentation, "Generating patch text with -p", and GNU diffutils, "Detailed description of
unified format".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import is_

from builder.patch.model import Diff, FileChange, Hunk
from builder.patch.parser import DiffError, Parser
from builder.patch.paths import quote
from builder.patch.unlike import check_text, no_diff
from builder.util.files import sha256

__all__ = ["DiffError", "canonical", "parse", "patch_input"]

# git's name for the content of an empty file: the SHA-1 of `blob 0` and a zero byte.
_EMPTY_BLOB = b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
# It would hide the line, of the first file or of one that was put behind another.
_BYTE_ORDER_MARK = re.compile(rb"(?:\A|(?<=\n))\xef\xbb\xbf")


def parse(data: bytes, where: str, *, strip: int = 1, under: str = "", fetched: bool = False) -> Diff:
    """Parse a diff; `where` names it in messages. Raises `DiffError` for everything that is not a sound diff.

    `strip` folders come off every name (as `patch --strip`), and `under` goes before what is left. `fetched` is for a
    diff that a server sent, which can be fetched again.
    """
    if not data.strip():
        raise DiffError(
            f"{where} is empty",
            hint="an empty download is a failed download: fetch it again with `builder lock`"
            if fetched
            else "put a unified diff there, or take the overlay out of the recipe",
        )
    check_text(data, where, fetched=fetched)
    if b"\xef\xbb\xbf" in data:
        data = _BYTE_ORDER_MARK.sub(b"", data)
    parser = Parser(data, where, strip, under, fetched=fetched)
    changes = tuple(parser.changes())
    if not changes:
        raise no_diff(data, where, fetched=fetched)
    rendered = canonical(changes)
    return Diff(changes, rendered, sha256(rendered), parser.absent())


def canonical(changes: Iterable[FileChange]) -> bytes:
    """The canonical text: a git diff without `index` lines, commit text and section headings behind `@@`.

    File order, paths, modes, marks and hunk bodies are kept. `git apply` takes it, and `parse` reads back the same changes.
    """
    return b"".join(_render(change) for change in changes)


def patch_input(changes: Sequence[FileChange], diff: Diff | None = None) -> bytes:
    """The canonical text as GNU patch needs it: it deletes an empty file only when an `index` line says that it is one.

    `diff` is the one that the changes come from: its text is taken when they are all of it, as it has them.
    """
    if diff is not None and _same(changes, diff.changes) and not any(map(_is_special, changes)):
        return diff.canonical
    parts: list[bytes] = []
    for change in changes:
        empty = change.kind == "delete" and not change.hunks
        marks = [b"index " + _EMPTY_BLOB + b".." + b"0" * 40] if empty else []
        names = (change.old_path or change.path, change.new_path or change.path)
        # GNU patch takes a blank at a name's end for nothing, unless the name is in quotes.
        quoted = any(name != name.rstrip() for name in names)
        head, end, rest = _render(change, marks=marks, quoted=quoted).partition(b"\n")
        if any(" " in name for name in names):
            # Of two bare paths with blanks GNU patch cannot tell where one ends.
            head = b"diff --git " + b" ".join(
                quote(f"{side}/{name}", always=True) for side, name in zip("ab", names, strict=True)
            )
        parts += [head, end, rest]
    return b"".join(parts)


def _same(some: Sequence[FileChange], others: Sequence[FileChange]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _is_special(change: FileChange) -> bool:
    """Whether GNU patch needs another text than the canonical one."""
    if change.kind == "delete" and not change.hunks:
        return True
    old, new = change.old_path or "", change.new_path or ""
    return " " in old or " " in new or old != old.rstrip() or new != new.rstrip()


def _render(change: FileChange, *, marks: Sequence[bytes] = (), quoted: bool = False) -> bytes:
    def shown(path: str) -> bytes:
        return quote(path, always=quoted)

    old = change.old_path if change.old_path is not None else change.path
    new = change.new_path if change.new_path is not None else change.path
    lines = [b"diff --git " + shown(f"a/{old}") + b" " + shown(f"b/{new}"), *_mode_lines(change)]
    if change.kind in ("rename", "copy"):
        lines += [change.kind.encode() + b" from " + shown(old), change.kind.encode() + b" to " + shown(new)]
    lines += marks
    if change.binary:
        left = b"/dev/null" if change.kind == "add" else shown(f"a/{old}")
        right = b"/dev/null" if change.kind == "delete" else shown(f"b/{new}")
        lines.append(b"Binary files " + left + b" and " + right + b" differ")
    elif change.hunks:
        lines.append(b"--- " + (b"/dev/null" if change.kind == "add" else _ended(shown(f"a/{old}"))))
        lines.append(b"+++ " + (b"/dev/null" if change.kind == "delete" else _ended(shown(f"b/{new}"))))
        lines += [_render_hunk(hunk) for hunk in change.hunks]
    return b"\n".join(lines) + b"\n"


def _mode_lines(change: FileChange) -> list[bytes]:
    if change.kind == "add":
        return [b"new file mode " + (change.new_mode or "100644").encode()]
    if change.kind == "delete":
        return [b"deleted file mode " + (change.old_mode or "100644").encode()]
    if change.new_mode is None:
        # What is refused for its old mode keeps it: without the line it would have the digest of a diff that applies.
        return [b"old mode " + change.old_mode.encode()] if change.special and change.old_mode is not None else []
    # A new mode decides the result, whether or not the old one is given.
    old = [b"old mode " + change.old_mode.encode()] if change.old_mode is not None else []
    return [*old, b"new mode " + change.new_mode.encode()]


def _ended(quoted: bytes) -> bytes:
    """A path in a `---` or `+++` line: git ends it with a tab when it has a blank, so that readers see its end."""
    return quoted + b"\t" if b" " in quoted and not quoted.startswith(b'"') else quoted


def _render_hunk(hunk: Hunk) -> bytes:
    old = b"%d" % hunk.old_start if hunk.old_count == 1 else b"%d,%d" % (hunk.old_start, hunk.old_count)
    new = b"%d" % hunk.new_start if hunk.new_count == 1 else b"%d,%d" % (hunk.new_start, hunk.new_count)
    header = b"@@ -%b +%b @@\n" % (old, new)
    if not hunk.old_missing_newline and not hunk.new_missing_newline:
        return header + hunk.body
    last_old = max(hunk.markers.rfind(b" "), hunk.markers.rfind(b"-"))
    last_new = max(hunk.markers.rfind(b" "), hunk.markers.rfind(b"+"))
    lines: list[bytes] = []
    for index, line in enumerate(hunk.lines):
        lines.append(line)
        ends_old = hunk.old_missing_newline and index == last_old
        ends_new = hunk.new_missing_newline and index == last_new
        if ends_old or ends_new:
            lines.append(b"\\ No newline at end of file")
    return header + b"\n".join(lines)
