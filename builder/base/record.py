"""RECORD, the list of an installed distribution's files: the one place that reads it.

Source: the PyPA specification "Recording installed projects": CSV that Python's `csv` module reads with its defaults, of
path, `sha256=` and unpadded urlsafe base64, size. A path may hold any character, a line ending too, when it is quoted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from builder.util.errors import InputError

_FIELD_LIMIT = 8 << 20
"""Characters of a field: as many as the largest RECORD that is read."""


@dataclass(frozen=True)
class RecordRow:
    """A row: the fields, and the text that they were written as, with its line ending."""

    path: str
    digest: str
    size: str
    text: str


def read_record(data: bytes, what: str, *, root: str = "") -> tuple[RecordRow, ...]:
    """The rows of a RECORD; `what` names it in errors. Raises `InputError` with the line of what cannot be read.

    Paths are as they are written, but for a leading `./`, and for the folder `root` (without the leading slash) of absolute
    ones: the specification allows both, and both mean the file that other tools write as `vllm/a.py`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    taken: list[str] = []

    def lines() -> Iterator[str]:
        # Only LF ends a line: str.splitlines knows eight more, which a path may hold.
        for line in _split(text):
            taken.append(line)
            yield line

    rows: list[RecordRow] = []
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        reader = csv.reader(lines())
        for fields in reader:
            written = "".join(taken)
            taken.clear()
            if fields:
                path, digest, size, *_ = [*fields, "", "", ""]
                rows.append(RecordRow(_relative(path, root), digest, size, written))
    except csv.Error as error:
        raise InputError(
            f"{what}, line {reader.line_num}: {error}",
            hint="the distribution's RECORD is damaged: do not use this base",
        ) from error
    finally:
        csv.field_size_limit(before)
    return tuple(rows)


def _relative(path: str, root: str) -> str:
    if root and path.startswith(f"/{root}/"):
        path = path.removeprefix(f"/{root}/")
    while path.startswith("./"):
        path = path.removeprefix("./").lstrip("/")
    return path


def _split(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end
