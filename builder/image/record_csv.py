"""The distribution's RECORD after the stack."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Collection

from builder.base.record import read_record
from builder.patch.model import StackResult


def record_digest(data: bytes) -> str:
    """The digest column of a file."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def update_record(
    record: bytes, result: StackResult, bytecode: Collection[str], *, root: str = "", not_of: Collection[str] = ()
) -> bytes:
    """RECORD after the stack: new digests and sizes, new files at the end, deleted files and stale bytecode gone.

    `root` is the folder that the paths are relative to. New files of the packages `not_of` belong to another distribution's RECORD. Rows of other files keep their bytes, so
    that the change is as small as it can be.
    """
    newline = "\r\n" if b"\r\n" in record else "\n"
    changed = {file.path: file for file in result.files}
    stale = set(bytecode)
    kept: list[str] = []
    seen: set[str] = set()
    for row in read_record(record, "the base's RECORD", root=root):
        if row.path in stale:
            continue
        if row.path not in changed:
            kept.append(row.text if row.text.endswith("\n") else row.text + newline)
            continue
        seen.add(row.path)
        after = changed[row.path].after
        if after is not None:
            kept.append(_row(row.path, after) + newline)
    kept += [
        _row(path, file.after) + newline
        for path, file in sorted(changed.items())
        if path not in seen and file.after is not None and path.partition("/")[0] not in not_of
    ]
    return "".join(kept).encode()


def _row(path: str, data: bytes) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([path, record_digest(data), len(data)])
    return buffer.getvalue()
