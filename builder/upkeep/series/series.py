"""Taking a quilt series in: its patches become local overlays of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder.patch.diff import parse
from builder.patch.model import Diff
from builder.upkeep.series.export import known_author
from builder.util.errors import InputError

_FIELD = re.compile(r"([A-Za-z][A-Za-z-]*): (.*)")
_PATCH_NUMBER = re.compile(r"^\[[^\]]*\bPATCH\b[^\]]*\]\s*", re.IGNORECASE)
_ENCODED = re.compile(rb"^content-transfer-encoding:\s*(?:quoted-printable|base64)\s*$", re.IGNORECASE | re.MULTILINE)


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
    for number, line in enumerate(_lines(path), 1):
        # quilt: a comment begins with `#`, also behind a patch's name.
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        name, options = words[0], words[1:]
        if options not in ([], ["-p1"], ["-pab"]):
            reverse = "-R" in options or "--reverse" in options
            raise InputError(
                f"{path.name}, line {number}: {name} is applied with {' '.join(options)}",
                hint="an overlay goes forward: turn the patch round, and take the option out of the series"
                if reverse
                else "refresh it with `quilt refresh -p1`: overlays have the prefixes a/ and b/",
            )
        if any(each.name == name for each in found):
            raise InputError(
                f"{path.name}, line {number}: {name} stands twice in the series", hint="a patch is applied once"
            )
        found.append(_read_patch(path.parent, name))
    if not found:
        raise InputError(f"{path} names no patch", hint="a series lists one patch file a line")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", hint="name the quilt series, or the folder it is in") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _find(where: Path) -> Path:
    for candidate in (where, where / "series", where / "patches" / "series"):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"there is no quilt series at {where}", hint="name the file `series`, or the folder that it stands in"
    )


def _read_patch(folder: Path, name: str) -> Imported:
    if "\\" in name and not (folder / name).exists():
        raise InputError(f"cannot read the patch {name}", hint="a series has slashes between folders, no backslashes")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"the series names {name}, which is outside its folder", hint="move the patch beside the series"
        )
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the patch {name}: {error.strerror}", hint="the series names it") from error
    data = _decoded_mail(data)
    diff = parse(data, name)
    return Imported(name, parse(diff.canonical, name), _meta(data))


def _decoded_mail(data: bytes) -> bytes:
    """A mail whose body is encoded, with its body as it was written."""
    head, _, _ = data.partition(b"\n\n")
    if not _ENCODED.search(head):
        return data
    from email import message_from_bytes

    body = message_from_bytes(data).get_payload(decode=True)
    return head + b"\n\n" + (body if isinstance(body, bytes) else b"")


def _meta(data: bytes) -> dict[str, str]:
    """Title, author and the rest from the text in front of the diff: mail or DEP-3 fields.

    DEP-3's `Description` has the title in its first line, and the reason in those after it.
    """
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
            # DEP-3 writes an empty line as a dot.
            key = "long" if last == "description" else last
            fields[key] = f"{fields.get(key, '')} {'' if line.strip() == '.' else line.strip()}".strip()
        else:
            last = ""
    title = _PATCH_NUMBER.sub("", _decoded(fields.get("subject") or fields.get("description") or ""))
    pairs = {
        "title": title,
        "author": known_author(_decoded(fields.get("from") or fields.get("author") or "")),
        "origin": fields.get("origin") or "",
        "why": fields.get("why") or " ".join(fields.get("long", "").split()),
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
