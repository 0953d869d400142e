"""GNU patch: finding it, running it, and reading what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from builder.util.errors import InputError
from builder.util.process import Finished, find, run, starting

MINIMUM = (2, 7, 6)
_HINT = "install GNU patch 2.7.6 or newer (Debian: apt-get install patch; macOS: brew install gpatch)"

_FILE = re.compile(r"(?:patching|checking) file (?P<name>.+?)(?: \((?:renamed|copied) from .*\))?$")
_HUNK = re.compile(
    r"Hunk #(?P<number>\d+) succeeded at (?P<line>\d+)"
    r"(?: with fuzz (?P<fuzz>\d+))?(?: \(offset (?P<offset>-?\d+) lines?\))?\."
)


@dataclass(frozen=True)
class Placed:
    """Where GNU patch put a hunk that did not go exactly where the diff says. `number` counts from 1 in its file section."""

    section: int
    number: int
    line: int
    offset: int
    fuzz: int


@cache
def program() -> str:
    """The path of GNU patch. Raises `InputError` when there is none, or only another or an older `patch`."""
    for name in ("gpatch", "patch"):
        try:
            path = find(name, hint=_HINT)
        except InputError:
            if name == "patch":
                raise
            continue
        said = run([path, "--version"]).output
        match = re.search(r"GNU patch (\d+)\.(\d+)(?:\.(\d+))?", said)
        if match is None:
            if name == "patch":
                first = said.splitlines()[0] if said else "nothing"
                raise InputError(f"{path} is not GNU patch", details=[("it says", first)], hint=_HINT)
            continue
        version = tuple(int(part or 0) for part in match.groups())
        if version < MINIMUM:
            raise InputError(f"{path} is GNU patch {'.'.join(map(str, version))}, which is too old", hint=_HINT)
        return path
    raise AssertionError("unreachable: find() raises for the last name")


def applying(diff: bytes, folder: str, *, fuzz: int) -> AbstractContextManager[Callable[[], Finished]]:
    """Apply a diff inside `folder` while something else is done; the value waits for the end. The caller judges the exit code and the tree."""
    return starting(
        [
            program(), "--forward", "--batch", "--strip=1", f"--fuzz={fuzz}",
            "--no-backup-if-mismatch", "--get=0", "--quoting-style=literal", f"--directory={folder}",
        ],
        cwd=Path(folder),
        stdin=diff,
        timeout=300,
    )  # fmt: skip


def read_placed(output: bytes) -> tuple[Placed, ...]:
    """The hunks that GNU patch put elsewhere, by the number of their file section (from 0) in the diff."""
    placed: list[Placed] = []
    section = -1
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        if _FILE.match(line):
            section += 1
        elif match := _HUNK.match(line):
            placed.append(
                Placed(
                    section,
                    int(match["number"]),
                    int(match["line"]),
                    int(match["offset"] or 0),
                    int(match["fuzz"] or 0),
                )
            )
    return tuple(placed)
