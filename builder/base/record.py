"""RECORD, the list of an installed distribution's files: the one place that reads it.

Source: the PyPA specification "Recording installed projects": CSV that Python's `csv` module reads with its defaults, of
path, `sha256=` and unpadded urlsafe base64, size. A path may hold any character, a line ending too, when it is quoted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

from builder.util.errors import InputError

_FIELD_LIMIT = 8 << 20
"""Characters of a field: as many as the largest RECORD that is read."""


class RecordRow(NamedTuple):
    """A row: the fields, and the text that they were written as, with its line ending."""

    path: str
    digest: str
    size: str
    text: str


class _DamagedError(ValueError):
    """What cannot be read of a RECORD, as the end of a message that begins with its name."""


def read_record(data: bytes, what: str, *, root: str = "") -> tuple[RecordRow, ...]:
    """The rows of a RECORD; `what` names it in errors. Raises `InputError` with the line of what cannot be read.

    Paths are as they are written, but for a leading `./`, and for the folder `root` (without the leading slash) of absolute
    ones: the specification allows both, and both mean the file that other tools write as `vllm/a.py`.
    """
    try:
        return _rows(data, root)
    except _DamagedError as error:
        raise InputError(f"{what}{error}", hint="the distribution's RECORD is damaged: do not use this base") from error


@lru_cache(maxsize=4)
def _rows(data: bytes, root: str) -> tuple[RecordRow, ...]:
    """A stack asks for the list of files, the layer for the rows that change: the last few are kept."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _DamagedError(f" is not UTF-8 text: {error.reason} at byte {error.start}") from error
    lines = _split(text)
    before = csv.field_size_limit(_FIELD_LIMIT)
    taken: list[str] = []
    quoted = '"' in text
    reader = csv.reader(_noting(lines, taken) if quoted else lines)
    try:
        # Only a quoted field can have a line ending in it: without quotes, a row is a line.
        written = (_emptied(taken) for _ in repeat(None)) if quoted else lines
        return tuple(_row(fields, line, root) for fields, line in zip(reader, written) if fields)  # noqa: B905
    except csv.Error as error:
        raise _DamagedError(f", line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)


def _row(fields: list[str], line: str, root: str) -> RecordRow:
    path, digest, size, *_ = fields if len(fields) > 2 else [*fields, "", ""]
    return RecordRow(_relative(path, root) if path[:1] in ("/", ".") else path, digest, size, line)


def _relative(path: str, root: str) -> str:
    if root and path.startswith(f"/{root}/"):
        path = path.removeprefix(f"/{root}/")
    while path.startswith("./"):
        path = path.removeprefix("./").lstrip("/")
    return path


def _noting(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _emptied(taken: list[str]) -> str:
    text = "".join(taken)
    taken.clear()
    return text


def _split(text: str) -> list[str]:
    """The lines with their endings. Only LF ends one: str.splitlines knows eight more, which a path may hold."""
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])
