"""What wheels and `files:` bring into an image, taken from the image itself by the digests in the lock.

The lock has the digest of each distribution's RECORD, and RECORD those of its files: nothing else of the wheel is needed to
tell what the layer must hold. The lock also has which of them are executable.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from collections.abc import Mapping

from builder.base.record import read_record
from builder.documents.lock import LockedInstall, LockedPlatform
from builder.release.verify.problem import MISSING, Problem
from builder.release.verify.tars import TarEntry
from builder.util.errors import InputError
from builder.util.files import sha256


def brought_by(
    locked: LockedPlatform, entries: Mapping[str, TarEntry], problems: list[Problem]
) -> dict[str, tuple[bytes, int]]:
    """Contents and modes by path from `/`. What the image does not hold is added to `problems`."""
    held = (
        {sha256(entry.data): entry.data for entry in entries.values() if entry.is_file}
        if locked.installed or locked.added
        else {}
    )
    found: dict[str, tuple[bytes, int]] = {}
    for each in locked.installed:
        if each.dist_info is not None:
            found |= _distribution(each, locked.root, entries, held, problems)
    for file in locked.added:
        data = held.get(file.sha256)
        if data is None:
            problems.append(_other(file.path, file.sha256, entries))
        else:
            found[file.path] = (data, 0o644)
    return found


def _distribution(
    each: LockedInstall,
    root: str,
    entries: Mapping[str, TarEntry],
    held: Mapping[str, bytes],
    problems: list[Problem],
) -> dict[str, tuple[bytes, int]]:
    listed = f"{root}/{each.dist_info}/RECORD"
    record = held.get(str(each.record))
    if record is None:
        problems.append(_other(listed, str(each.record), entries))
        return {}
    try:
        rows = read_record(record, listed)
    except InputError as error:
        problems.append(Problem(f"layer entry {listed}", "a RECORD", error.message))
        return {}
    found = {listed: (record, 0o644)}
    for row in rows:
        digest = _hexadecimal(row.digest)
        path = posixpath.normpath(posixpath.join("/", root, row.path)).lstrip("/")
        if path == listed:
            continue
        data = held.get(digest)
        if data is None:
            problems.append(_other(path, digest, entries))
        else:
            found[path] = (data, 0o755 if path in each.executable else 0o644)
    return found


def _other(path: str, wanted: str, entries: Mapping[str, TarEntry]) -> Problem:
    entry = entries.get(path)
    return Problem(
        f"layer entry {path}, content",
        f"sha256:{wanted}",
        f"sha256:{sha256(entry.data)}" if entry is not None else MISSING,
    )


def _hexadecimal(digest: str) -> str:
    _, _, text = digest.partition("=")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    except (ValueError, binascii.Error):
        return ""
