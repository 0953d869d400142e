"""A stack for other tools: a quilt series, and mails that `git am` takes."""

from __future__ import annotations

import re
import textwrap
from binascii import b2a_qp
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime
from types import MappingProxyType

from builder import __version__
from builder.documents.lock import Lock, LockedOverlay
from builder.patch.diff import patch_input
from builder.patch.model import FileChange
from builder.patch.select import select
from builder.pipeline.locking.overlays import read_overlay
from builder.util.project import Project

# What git writes as the first line of every mail that it makes: a date that says "this is a patch, not a mailbox".
_FROM_LINE = "From {commit} Mon Sep 17 00:00:00 2001"
_TAKEN = re.compile(r"diff -|---|Index: |>?From |[A-Za-z][A-Za-z-]*:")
_NO_REPLY = "users.noreply.github.com"
_ADDRESS = re.compile(r"(?P<name>[^<>]+) <(?P<address>[^<>@\s]+@[^<>@\s]+)>")

# Overlay -> its changes, for overlays that are not handed over as their diff is (builder.upkeep.series.exact).
Exact = Mapping[str, tuple[FileChange, ...]]


def metadata(overlay: LockedOverlay, *, refreshed: str | None = None) -> list[tuple[str, str]]:
    """What is known of an overlay, as fields for its header. Empty ones are left out.

    `refreshed` is the base whose lines are its context now: the digest is that of the diff as it was.
    """
    pairs = [
        ("Overlay", overlay.id),
        ("Origin", overlay.origin or (f"{overlay.id}@{overlay.head}" if overlay.head else None)),
        ("Merge-Base", overlay.merge_base),
        ("Packages", ", ".join(overlay.package)),
        ("Url", overlay.url),
        ("State", overlay.state),
        ("Why", overlay.why),
        ("Drop-When", overlay.drop_when),
        ("Digest", overlay.digest),
        ("Refreshed-On", refreshed),
    ]
    return [(key, " ".join(value.split())) for key, value in pairs if value]


def quilt_series(
    project: Project, lock: Lock, *, whole: bool = False, exact: Exact = MappingProxyType({})
) -> dict[str, bytes]:
    """File name -> content: `series`, and one patch per overlay with its description in front.

    Without `whole`, a patch has what enters the image; with it, the diff's files outside the package too. `exact` has the
    changes of the overlays that need fuzz.
    """
    files: dict[str, bytes] = {}
    for number, overlay in enumerate(lock.overlays, 1):
        head = [f"Subject: {_title(overlay)}", f"From: {_plain_author(overlay)}"]
        head += [f"{key}: {value}" for key, value in _facts(lock, overlay, exact)]
        name = _file_name(number, overlay)
        files[name] = "\n".join([*head, "---", ""]).encode() + b"\n" + _body(project, lock, overlay, whole, exact)
    names = "".join(f"{name}\n" for name in files)
    return {"series": f"# {lock.name} on {lock.base.reference}\n{names}".encode(), **files}


def mails(
    project: Project, lock: Lock, *, whole: bool = False, exact: Exact = MappingProxyType({})
) -> dict[str, bytes]:
    """File name -> mail, in the order for `git am`; the arguments as for quilt. The same lock gives the same bytes."""
    total = len(lock.overlays)
    date = format_datetime(datetime.fromtimestamp(lock.epoch, UTC))
    files: dict[str, bytes] = {}
    for number, overlay in enumerate(lock.overlays, 1):
        message = [_harmless(line) for line in textwrap.wrap(overlay.why or "", 76)]
        message += [*([""] if message else ()), *(f"{key}: {value}" for key, value in _facts(lock, overlay, exact))]
        body = "\n".join([*message, "---", "", ""]).encode()
        body += _body(project, lock, overlay, whole, exact) + f"-- \nbuilder {__version__}\n".encode()
        # git takes the carriage returns off a mail's lines, but not off what was encoded.
        encoding = "quoted-printable" if b"\r" in body else "8bit"
        subject = Header(
            f"[PATCH {number}/{total}] {_title(overlay)}", "utf-8" if not _title(overlay).isascii() else None
        )
        lines = [
            _FROM_LINE.format(commit=overlay.head or "0" * 40),
            f"From: {_author(overlay)}",
            f"Date: {date}",
            f"Subject: {subject.encode(maxlinelen=998)}",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=UTF-8",
            f"Content-Transfer-Encoding: {encoding}",
            "",
            "",
        ]
        if encoding != "8bit":
            # Line by line: taken as a whole, a carriage return before a newline would stay as it is.
            body = b"\n".join(b2a_qp(line, istext=False) for line in body.split(b"\n"))
        files[_file_name(number, overlay)] = "\n".join(lines).encode() + body
    return files


def _harmless(line: str) -> str:
    """A line of a message as text: git, or an import, would take it for a header, for the message's end or for a mail."""
    return f" {line}" if _TAKEN.match(line) else line


def _facts(lock: Lock, overlay: LockedOverlay, exact: Exact) -> list[tuple[str, str]]:
    return metadata(overlay, refreshed=lock.base.reference if overlay.id in exact else None)


def without_content(project: Project, lock: Lock) -> dict[str, list[str]]:
    """Overlay -> the files outside the package that it changes in binary: its diff has nothing to hand over of them."""
    found = {}
    for locked in lock.overlays:
        paths = [change.path for change in read_overlay(project, locked).diff.changes if change.binary]
        if paths:
            found[locked.id] = paths
    return found


def _body(project: Project, lock: Lock, locked: LockedOverlay, whole: bool, exact: Exact) -> bytes:
    overlay = read_overlay(project, locked)
    changes = exact.get(overlay.id, overlay.diff.changes)
    overlay = replace(overlay, diff=replace(overlay.diff, changes=changes))
    chosen = changes if whole else select(overlay, lock.package).changes
    # A file that moves out of the package is moved: only a base has its content, which a deletion would need.
    moves = {change.diff_line: change for change in changes}
    return patch_input(
        [
            moves[change.diff_line] if change.carried_out else change
            for change in chosen
            if not change.outside and not change.binary
        ]
    )


def _title(overlay: LockedOverlay) -> str:
    return " ".join((overlay.title or overlay.id).split())


def _file_name(number: int, overlay: LockedOverlay) -> str:
    """`0001-vllm-project-vllm-41365.patch`."""
    stem = overlay.diff.rsplit("/", 1)[-1].removesuffix(".diff").removesuffix(".patch")
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]', '-', stem)}.patch"


def _plain_author(overlay: LockedOverlay) -> str:
    author = " ".join((overlay.author or "unknown").split())
    return author if _ADDRESS.fullmatch(author) else f"{author} <{_local(author)}@{_NO_REPLY}>"


def _author(overlay: LockedOverlay) -> str:
    """For a mail's `From:`; git takes no author without an address, and GitHub gives none but this one."""
    match = _ADDRESS.fullmatch(_plain_author(overlay))
    if match is None:
        return f"unknown <unknown@{_NO_REPLY}>"
    name = match["name"].strip()
    if len(name) > 2 and name[0] == name[-1] == '"':
        name = name[1:-1]
    shown = name if name.isascii() else Header(name, "utf-8").encode()
    return f"{shown} <{match['address']}>"


def known_author(written: str) -> str:
    """An author as an export wrote it, without the address that the export made up."""
    match = _ADDRESS.fullmatch(written)
    name = match["name"].strip() if match is not None else written
    made_up = match is not None and match["address"] == f"{_local(name)}@{_NO_REPLY}"
    return ("" if name == "unknown" else name) if made_up else written


def _local(author: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", author).strip("-") or "unknown"


def flat(parts: Sequence[tuple[str, Mapping[str, bytes]]]) -> dict[str, bytes]:
    """Several sets of files, each in a folder of its own."""
    return {f"{folder}/{name}": data for folder, files in parts for name, data in files.items()}
