"""Hunks whose lines are in the file but for line endings or blanks: an editor, a mailer or a page has changed the diff."""

from __future__ import annotations

from collections.abc import Callable

from builder.patch.hunks import Text
from builder.patch.model import Hunk


def _without_blanks(line: bytes) -> bytes:
    return b"".join(line.split()).replace(b"\xc2\xa0", b"")


def _unescaped(line: bytes) -> bytes:
    import html

    return html.unescape(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


_ALIKE: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("line endings", lambda line: line.removesuffix(b"\r")),
    ("blanks at the ends of lines", bytes.rstrip),
    ("blanks or tabs", _without_blanks),
    ("characters that a page has as `&lt;` and the like", _unescaped),
)


def differs_in_blanks(text: Text, hunk: Hunk) -> str:
    """What differs, when it is nothing but that; else an empty string."""
    if not hunk.old:
        return ""
    if last := _missing_newline(text, hunk):
        return last
    for what, alike in _ALIKE:
        block = tuple(map(alike, hunk.old))
        if not any(block):
            continue
        places = _normal(text, what, alike).find(block)
        if not places:
            continue
        if what == "line endings":
            ends = text.lines[places[0]].endswith(b"\r")
            return f"these lines are at line {places[0] + 1}, with line endings of {'CRLF' if ends else 'LF'}: the diff has {'LF' if ends else 'CRLF'}"
        return f"these lines are at line {places[0] + 1}, but for {what}"
    return ""


def _normal(text: Text, what: str, alike: Callable[[bytes], bytes]) -> Text:
    key = ("alike", what)
    if key not in text.memo:
        text.memo[key] = Text(tuple(map(alike, text.lines)))
    found: Text = text.memo[key]
    return found


def _missing_newline(text: Text, hunk: Hunk) -> str:
    """Whether the lines are there, and only the newline behind the last one is not as the diff has it."""
    for at in text.find(hunk.old):
        if at + len(hunk.old) == len(text.lines) and text.ends == hunk.old_missing_newline:
            return "these lines are the file's last ones, and it ends " + (
                r"in a newline: the diff says `\ No newline at end of file`"
                if text.ends
                else r"without a newline: the diff does not say `\ No newline at end of file`"
            )
    return ""
