"""Taking a quilt series in: its patches become local overlays of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder.errors import InputError
from builder.overlay.diff import parse
from builder.overlay.model import Diff

_FIELD = re.compile(r"([A-Za-z][A-Za-z-]*): (.*)")
_PATCH_NUMBER = re.compile(r"^\[[^\]]*\]\s*")


@dataclass(frozen=True)
class Imported:
    """One patch of a series: its name in the series, the diff, and what its header says."""

    name: str
    diff: Diff
    meta: Mapping[str, str] = field(default_factory=dict)


def read_series(where: Path) -> list[Imported]:
    """Read a `series` file, or the folder that has one (itself, or as `patches/`), and its patches in order.

    Raises `InputError` when a patch is missing, is applied with other options than `-p1`, or is no sound diff.
    """
    path = _find(where)
    found: list[Imported] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        # quilt: a comment begins with `#`, also behind a patch's name.
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        name, options = words[0], words[1:]
        if options not in ([], ["-p1"], ["-pab"]):
            raise InputError(
                f"{path.name}, line {number}: {name} is applied with {' '.join(options)}",
                hint="refresh it with `quilt refresh -p1`: overlays have the prefixes a/ and b/",
            )
        found.append(_read_patch(path.parent, name))
    if not found:
        raise InputError(f"{path} names no patch", hint="a series lists one patch file a line")
    return found


def _find(where: Path) -> Path:
    for candidate in (where, where / "series", where / "patches" / "series"):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"there is no quilt series at {where}", hint="name the file `series`, or the folder that it stands in"
    )


def _read_patch(folder: Path, name: str) -> Imported:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"the series names {name}, which is outside its folder", hint="move the patch beside the series"
        )
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the patch {name}: {error.strerror}", hint="the series names it") from error
    diff = parse(data, name)
    return Imported(name, parse(diff.canonical, name), _meta(data))


def _meta(data: bytes) -> dict[str, str]:
    """Title, author and the rest from the text in front of the diff: mail or DEP-3 fields."""
    fields: dict[str, str] = {}
    last = ""
    for line in data.decode("utf-8", "replace").splitlines():
        if line.startswith(("diff --git ", "--- ", "Index: ", "---")):
            break
        match = _FIELD.fullmatch(line)
        if match:
            last = match[1].lower()
            fields.setdefault(last, match[2].strip())
        elif line.startswith((" ", "\t")) and last:
            fields[last] = f"{fields[last]} {line.strip()}"
        else:
            last = ""
    title = _PATCH_NUMBER.sub("", _decoded(fields.get("subject") or fields.get("description") or ""))
    pairs = {
        "title": title,
        "author": _decoded(fields.get("from") or fields.get("author") or ""),
        "origin": fields.get("origin") or "",
        "why": fields.get("why") or "",
        "drop_when": fields.get("drop-when") or "",
    }
    return {key: value for key, value in pairs.items() if value}


def _decoded(value: str) -> str:
    from email.errors import HeaderParseError
    from email.header import decode_header, make_header

    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return value
