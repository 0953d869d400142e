"""The installed distribution's RECORD: which files it has, with their digests.

Source: the PyPA specification "Recording installed projects": CSV of path, `sha256=` and unpadded urlsafe base64, size.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Collection

from builder.patch.model import StackResult
from builder.util.errors import InputError


def record_digest(data: bytes) -> str:
    """The digest column of a file."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def update_record(record: bytes, result: StackResult, bytecode: Collection[str]) -> bytes:
    """RECORD after the stack: new digests and sizes, new files at the end, deleted files and stale bytecode gone.

    Lines of other files keep their bytes, so that the change is as small as it can be.
    """
    newline = "\r\n" if b"\r\n" in record else "\n"
    changed = {file.path: file for file in result.files}
    stale = set(bytecode)
    lines: list[str] = []
    seen: set[str] = set()
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("the base's RECORD is not UTF-8 text") from error
    for line in text.splitlines():
        if not line:
            continue
        path = next(csv.reader([line]))[0]
        if path in stale:
            continue
        if path in changed:
            seen.add(path)
            after = changed[path].after
            if after is not None:
                lines.append(_line(path, after))
        else:
            lines.append(line)
    lines += [
        _line(path, file.after) for path, file in sorted(changed.items()) if path not in seen and file.after is not None
    ]
    return (newline.join(lines) + newline).encode()


def _line(path: str, data: bytes) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([path, record_digest(data), len(data)])
    return buffer.getvalue()
