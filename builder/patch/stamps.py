"""The times behind the names of a plain diff: where one ends a name, and whether it says that there is no file.

GNU diff has a tab before a time, copies of its text have blanks. A file that does not exist has the time 0 (GNU diffutils,
"Creating and Deleting Files"); Subversion writes it out.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

_ISO = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)?(?: ([+-])(\d\d):?(\d\d))?")
_C = re.compile(rb"[A-Z][a-z]{2} ([A-Z][a-z]{2}) +(\d{1,2}) (\d\d:\d\d:\d\d) (\d{4})(?: ([+-]\d{4}))?")
# What older tools write: `2026/01/02 03:04:05`, and CVS `2 Jan 2026 03:04:05 -0000 1.4`.
_OLDER = rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?: [+-]\d{4})?|\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d(?: [+-]\d{4})?(?: +[\d.]+)?"
_NOT_THERE = (b"(nonexistent)", b"(revision 0)")
_THERE = re.compile(rb"\(revision [1-9]\d*\)")
_SUBVERSION = rb"\((?:nonexistent|working copy|revision \d+)\)"
# Blanks in place of the tab: only before what is a time without doubt.
_BLANKS = re.compile(
    rb"(.*?\S) +(" + _ISO.pattern + rb"|" + _C.pattern + rb"|" + _SUBVERSION + rb"|" + _OLDER + rb") *"
)


def split(text: bytes) -> tuple[bytes, bytes]:
    """The name and the time of a `---` or `+++` line, without its marker; the time is empty when there is none."""
    name, tab, stamp = text.partition(b"\t")
    if tab or b" " not in name:
        return name, stamp.strip()
    match = _BLANKS.fullmatch(text)
    # A name that ends in a blank has a tab behind it, or quotes around it.
    return (match[1], match[2]) if match is not None else (name.rstrip(b" "), b"")


def says(stamp: bytes) -> Literal["gone", "there", ""]:
    """Whether a time says that the file does not exist (`gone`), or that it does; empty when it says neither."""
    if stamp in _NOT_THERE:
        return "gone"
    if _THERE.fullmatch(stamp):
        return "there"
    time = _time(stamp)
    if time is None:
        return ""
    return "gone" if time == datetime.fromtimestamp(0, UTC) else "there"


def _time(stamp: bytes) -> datetime | None:
    try:
        if match := _ISO.fullmatch(stamp):
            time = datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC)
            if match[2] and match[2].strip(b".0"):
                time += timedelta(microseconds=1)
            if not match[3]:
                return _without_zone(time)
            offset = timedelta(hours=int(match[4]), minutes=int(match[5]))
            return time - offset if match[3] == b"+" else time + offset
        if match := _C.fullmatch(stamp):
            # Imported for the few diffs that have such a time: it takes as long as to parse a hundred files.
            from email.utils import parsedate_to_datetime

            month, day, clock, year, zone = (each.decode() if each is not None else "" for each in match.groups())
            time = parsedate_to_datetime(f"{day} {month} {year} {clock} {zone or '+0000'}").astimezone(UTC)
            return time if zone else _without_zone(time)
    except (ValueError, OverflowError):
        pass
    return None


def _without_zone(time: datetime) -> datetime | None:
    """A local time of nobody knows where; None when that could be the time 0."""
    return None if abs(time - datetime.fromtimestamp(0, UTC)) <= timedelta(hours=14) else time
