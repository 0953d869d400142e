"""What the end of a diff tells of a part that is missing behind it."""

from __future__ import annotations

from builder.patch.hunkreader import Lines

# How the lines begin that go on with a diff behind a whole section.
_BEGINNINGS = (
    b"diff --git ",
    b"@@ -",
    b"index ",
    b"Index: ",
    b"--- ",
    b"+++ ",
    b"deleted file mode ",
    b"new file mode ",
)


def check_end(lines: Lines, *, in_section: bool, hunks: bool, headless: bool) -> None:
    """Raise `DiffError` when a diff shows that it is truncated.

    `in_section` is whether its last line is one of a file section, `hunks` whether the last section has any. `headless`
    is for a new file without hunks and without the `index` line that other sections have: git names an empty file there.
    """
    last = len(lines.all) - 1
    if headless and (in_section or not lines.complete):
        raise lines.fail(
            "the diff ends in the middle of a new file: it is truncated",
            line=last,
            hint=None
            if lines.fetched
            else "if the new file is empty, put the line `index 0000000..e69de29` at the end",
        )
    if lines.complete:
        return
    end = lines.all[last]
    if in_section:
        # The last line must be in the file too, and a part of it is not. Nothing tells of one that is added.
        if hunks and end[:1] in (b" ", b"-", b"\\") and not lines.fetched:
            return
        raise lines.fail(
            "the diff's last line has no newline: it may be truncated",
            line=last,
            hint=None if lines.fetched else "if the line is whole, put a newline behind it: `echo >> FIX.diff`",
        )
    if end.startswith(_BEGINNINGS) or any(each.startswith(end) for each in _BEGINNINGS):
        raise lines.fail("the diff's last line is truncated", line=last)
