"""Text around the file sections of a diff: mails and commit messages are passed over, changes in another form are not.

GNU patch and git skip what they do not know. A change that is skipped is lost without a word, so each known form is named.
"""

from __future__ import annotations

import re

from builder.patch.announced import LONGEST, Announced
from builder.patch.hunkreader import DiffError, Lines

# RFC 2045, section 6: `=` and non-ASCII characters of such a mail are others than those of the diff.
_ENCODED = re.compile(rb"content-transfer-encoding:[ \t]*(?:quoted-printable|base64)[ \t\r]*", re.IGNORECASE)
# A line of a diff as git prints it on a terminal: ECMA-48's "select graphic rendition" before it.
_COLORED = re.compile(rb"(?:\x1b\[[0-9;]*[mK])+(?:diff --|--- |\+\+\+ |@@ |Binary files |GIT binary patch)")
# GNU diffutils, "Detailed description of normal format": `8a12,15`, `5,7c8,10`, `3d2`.
_NORMAL = re.compile(rb"\d+(?:,\d+)?[acd]\d+(?:,\d+)?\r?")
# Lines of a git diff that belong behind a `diff --git` line. People do not write these.
_MARK = re.compile(
    rb"(?:(?:dis)?similarity index \d{1,3}%|(?:(?:old|new|deleted file|new file) mode) 1[0-7]{5}|index [0-9a-f]+\.\.[0-9a-f]+ 1[26]0000)\r?"
)
# The first line of a commit: an mbox's (RFC 4155, with git's commit in place of the sender), or `git show`'s and `git log`'s.
_GIT = re.compile(rb"(From [0-9a-f]{40,64} [A-Z][a-z]{2} .*)|commit [0-9a-f]{40,64}(?: .*)?\r?")
_MAIL = re.compile(rb"From \S+ [A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d .*|# HG changeset patch\r?")
# The first line of a mail that is kept without an mbox's line (RFC 5322).
_FIELD = re.compile(rb"(?:From|Subject|Date|Received|Return-Path|Delivered-To|Message-I[Dd]|MIME-Version): .*")
# GNU diff without `-N`: what one of the trees does not have. What Python and editors leave beside a file does not matter.
_ONLY = re.compile(rb"Only in (.+?): (.+)")
_LEFT_BESIDE = re.compile(rb"__pycache__|\..*|.*(?:\.pyc|\.orig|\.rej|\.bak|\.swp|\.old|~)")
# What other programs and servers print in place of a diff.
_PAGE = re.compile(rb"[ \t]*<(?:!doctype html|html)\b", re.IGNORECASE)
_PAGE_ENDS = re.compile(rb"</html>", re.IGNORECASE)
_ERROR = re.compile(
    rb'[ \t]*(?:\{[ \t]*"(?:message|error|errors|documentation_url)"[ \t]*:|<(?:p|h[1-6])>)?.*Sorry, (?:this|the) diff .*'
    rb'|\{[ \t]*"(?:message|error|errors)"[ \t]*:.*|(?:404: Not Found|429 Too Many Requests|50[0-4] (?:Internal Server Error|Not Implemented|Bad Gateway|Service (?:Temporarily )?Unavailable|Gateway Time-?out))\r?'
)
_OTHER_FORMS = {
    b"*** Begin Patch": "the format of `apply_patch`, which no other program reads",
    b"*** Update File: ": "the format of `apply_patch`, which no other program reads",
    b"*** Add File: ": "the format of `apply_patch`, which no other program reads",
    b"*** Delete File: ": "the format of `apply_patch`, which no other program reads",
    b"<<<<<<< SEARCH": "blocks to search and replace, not a diff",
}
_IN_SECTION = (b"--- ", b"index ", b"old mode ", b"new ", b"deleted ", b"similarity ", b"dissimilarity ", b"rename ", b"copy ", b"Binary files ", b"GIT binary patch")  # fmt: skip


class Between:
    """Reads what is not a file section. One for each diff: it knows the commit that the lines belong to."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.commits = 0
        self.announced = Announced()
        # The names that are in one of the two trees only, as the diff has them.
        self.absent: list[bytes] = []
        # The line that begins a web page, until a file section comes or the page ends.
        self._page: int | None = None
        self._error: DiffError | None = None
        # The first section of a mail that has no `---` line before it.
        self._unseparated: int | None = None

    def pass_over(self) -> None:
        """Go on behind the current line, or behind a commit's message. Raises `DiffError` for a change that would be lost."""
        line = self._lines.all[self._lines.at]
        git = _GIT.fullmatch(line)
        if git is not None or _MAIL.fullmatch(line) or (self._lines.at == 0 and _FIELD.fullmatch(line)):
            self._commit(by_git=git is not None, mail=git is None or git[1] is not None)
            return
        self._check(line)
        self.announced.see(self._lines.all, self._lines.at)
        if (only := _ONLY.fullmatch(line)) is not None and not _LEFT_BESIDE.fullmatch(only[2]):
            self.absent.append(only[1].rstrip(b"/") + b"/" + only[2])
        self._lines.at += 1

    def section(self) -> None:
        """A file section begins."""
        self.announced.section(b"\n".join(self._lines.all[self._lines.at : self._lines.at + 2]))
        self._page = None

    def end(self, *, any_section: bool) -> None:
        """The diff has ended. Raises `DiffError` for a server's error beside file sections."""
        self.announced.end()
        if any_section and self._error is not None:
            raise self._error

    def _commit(self, *, by_git: bool, mail: bool) -> None:
        """Go on at the first `diff --git` line of a commit: above it is nothing but text, whatever that looks like.

        A commit without such a line is read line by line, as any text is.
        """
        self.announced.end()
        lines, begin = self._lines.all, self._lines.at + 1
        self._lines.at = begin
        self.commits += 1
        self._unseparated = None
        section = self._first_section(begin)
        if section is None:
            return
        ends = next((at for at in range(begin, section) if lines[at].rstrip() == b"---"), None)
        for at in range(begin, section):
            self._check_encoding(lines[at], at)
            if self._lines.at_next_file(at):
                # git writes no file section without its `diff --git` line; people do, behind the message.
                if by_git or (ends is not None and at < ends):
                    raise self._in_message(at)
                section = at
                break
        self._lines.at = section
        self._unseparated = section if mail and ends is None else None

    def _first_section(self, begin: int) -> int | None:
        lines = self._lines.all
        for at in range(begin, len(lines)):
            if lines[at].startswith(b"diff --git ") and at + 1 < len(lines) and lines[at + 1].startswith(_IN_SECTION):
                return at
            if _GIT.fullmatch(lines[at]) or _MAIL.fullmatch(lines[at]):
                return None
        return None

    def _in_message(self, at: int) -> DiffError:
        return self._lines.fail(
            "a commit's message has a diff in it, which git and GNU patch would apply",
            line=at,
            hint="take the diff without messages (on GitHub the address that ends in `.diff`, not `.patch`), or put a\n"
            "blank before each line of the one in the message",
        )

    def _check_encoding(self, line: bytes, at: int) -> None:
        if _ENCODED.fullmatch(line):
            mails = sum(
                _GIT.fullmatch(each) is not None or _MAIL.fullmatch(each) is not None for each in self._lines.all
            )
            raise self._lines.fail(
                "the diff is encoded for a mail",
                line=at,
                hint="decode it: `git mailinfo message FIX.diff < MAIL`"
                if mails < 2
                else "split the mails (`mkdir MAILS; git mailsplit -oMAILS MBOX`), decode each (`git mailinfo message 1.diff < MAILS/0001`),\n"
                "and put the diffs into one file, in this order",
            )
        if _COLORED.match(line):
            raise self._lines.fail(
                "the diff has a terminal's colour codes", line=at, hint="make it with `git diff --no-color`"
            )

    def _check(self, line: bytes) -> None:
        fail, at = self._lines.fail, self._lines.at
        self._check_encoding(line, at)
        if line.rstrip() == b"---" and self._unseparated is not None:
            raise self._in_message(self._unseparated)
        if line.startswith(b"Prereq:"):
            raise fail(
                "a 'Prereq:' line asks for another version", hint="remove the line if the diff is meant for this base"
            )
        if line.startswith(b"GIT binary patch"):
            raise fail("a binary change without a `diff --git` line")
        if line.startswith(b"@@ "):
            raise fail(
                "a hunk without `---` and `+++` lines before it",
                hint="put these two lines before it; if it is another hunk of the file above, remove the text between them",
            )
        if line.startswith((b"diff --cc ", b"diff --combined ")):
            raise fail("a merge commit's combined diff", hint="take the diff between the merge base and the head")
        if _MARK.fullmatch(line):
            raise fail("this line belongs to a file section, and no `diff --git` line is before it")
        self._check_page(line)
        self._check_form(line, self._lines.peek(1) or b"", self._lines.peek(2) or b"")

    def _check_page(self, line: bytes) -> None:
        """Keep in mind a server's error, or a whole page: in the place of another diff, as when several were fetched into one file."""
        if self._page is None and _PAGE.match(line):
            self._page = self._lines.at
        whole = self._page is not None and _PAGE_ENDS.search(line)
        if self._error is None and (whole or _ERROR.fullmatch(line[:LONGEST])):
            self._error = self._lines.fail(
                "a server's error or page is in the place of a diff",
                line=self._page if whole else self._lines.at,
                hint="put the diff that belongs here in their place; if none does, remove these lines",
            )

    def _check_form(self, line: bytes, second: bytes, third: bytes) -> None:
        fail = self._lines.fail
        if line.startswith(b"*** ") and second.startswith(b"--- ") and third.startswith(b"*****"):
            raise fail("a context diff", hint="make it with `diff -u`: only unified diffs are taken")
        if _NORMAL.fullmatch(line) and second[:2] in (b"< ", b"> ", b"<", b">"):
            raise fail("a diff without context", hint="make it with `diff -u`: only unified diffs are taken")
        for start, what in _OTHER_FORMS.items():
            if line.startswith(start):
                raise fail(what, hint="make a diff of it: apply it where it was made, and take `git diff`")
        before = self._lines.before_all(self._lines.at)
        if before:
            raise fail(
                f"the lines of a diff have {before.decode('utf-8', 'replace')!r} before them",
                hint=f"take it off with `cut -b {len(before) + 1}- FIX.diff`; of text that is no part of the change, remove them",
            )
