"""Taking a quilt series in: its patches become local overlays of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from builder.patch.diff import canonical, parse
from builder.patch.model import Diff, FileChange
from builder.upkeep.series.export import known_author
from builder.util.errors import InputError
from builder.util.files import read_regular
from builder.util.limits import Limits

_FIELD = re.compile(r"([A-Za-z][A-Za-z-]*): (.*)")
_PATCH_NUMBER = re.compile(r"^\[[^\]]*\bPATCH\b[^\]]*\]\s*", re.IGNORECASE)
_ENCODED = re.compile(rb"^content-transfer-encoding:\s*(?:quoted-printable|base64)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Imported:
    """One patch of a series: its name in the series, the diff, and what its header says."""

    name: str
    diff: Diff
    """Its names are as the patch has them, without a/ and b/: a name from the root begins with its first folder."""
    meta: Mapping[str, str] = field(default_factory=dict)
    strip: int = 1
    """How many folders come off the names of `diff.canonical`, as `patch --strip` counts them."""
    packages: tuple[str, ...] = ()
    """The packages that it may change, when its header says so."""

    def enters(self, package: str) -> bool:
        """Whether a file of the patch is one of the package by its name as it is."""
        return package in self.tops

    @property
    def tops(self) -> list[str]:
        """The first folders of the names, in their order."""
        paths = (path for change in self.diff.changes for path in (change.old_path, change.new_path))
        return list(dict.fromkeys(path.partition("/")[0] for path in paths if path is not None and "/" in path))


def read_series(where: Path, *, strip: int | None = None) -> list[Imported]:
    """Read a `series` file, or the folder that has one (itself, or as `patches/`), and its patches in order.

    `strip` is for patches for which the series gives no `-pN`. Raises `InputError` when a patch is missing, is applied in
    reverse or with other options, or is not a sound diff.
    """
    path = _find(where)
    found: list[Imported] = []
    for number, line in enumerate(_lines(path), 1):
        # quilt: a comment begins with `#`, also behind a patch's name.
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        name = words[0]
        own = _strip_option(words[1:], f"{path.name}, line {number}: {name}")
        if any(each.name == name for each in found):
            raise InputError(
                f"{path.name}, line {number}: {name} is repeated in the series", hint="a patch is applied once"
            )
        found.append(_read_patch(path.parent, name, own if own is not None else 1 if strip is None else strip))
    if not found:
        raise InputError(f"{path} names no patch", hint="a series lists one patch file a line")
    return found


def _strip_option(options: Sequence[str], where: str) -> int | None:
    """The N of `-pN`, or None without options. Raises `InputError` for any other option."""
    if not options:
        return None
    # -pab is quilt's own: the names begin with a/ and b/.
    match = re.fullmatch(r"-p(?:(\d{1,2})|ab)", options[0])
    if match is None or len(options) > 1:
        reverse = "-R" in options or "--reverse" in options
        raise InputError(
            f"{where} is applied with {' '.join(options)}",
            hint="an overlay goes forward: turn the patch round, and take the option out of the series"
            if reverse
            else "refresh it with `quilt refresh -p1`: of the options, only -pN is taken",
        )
    return int(match[1]) if match[1] is not None else 1


def _lines(path: Path) -> list[str]:
    try:
        data = read_regular(path, limit=Limits.size)
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(
                f"{path} is UTF-16 text, as PowerShell's `>` writes it",
                hint="convert it: iconv -f UTF-16 -t UTF-8 FILE",
            )
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", hint="name the quilt series, or the folder it is in") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _find(where: Path) -> Path:
    for candidate in (where, where / "series", where / "patches" / "series"):
        if candidate.is_file():
            return candidate
    raise InputError(f"there is no quilt series at {where}", hint="name the file `series`, or the folder that it is in")


def _read_patch(folder: Path, name: str, strip: int) -> Imported:
    if "\\" in name and not (folder / name).exists():
        raise InputError(f"cannot read the patch {name}", hint="a series has slashes between folders, no backslashes")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"the series names {name}, which is outside its folder", hint="move the patch beside the series"
        )
    try:
        data = read_regular(folder / name, limit=Limits.size, name=f"the patch {name}")
    except OSError as error:
        raise InputError(f"cannot read the patch {name}: {error.strerror}", hint="the series names it") from error
    data = _decoded_mail(data)
    # What is written has a/ and b/ before each name, whatever the patch has.
    changes = [_from_a_folder(change) for change in parse(data, name, strip=min(strip, 1)).changes]
    meta = _meta(data)
    packages = tuple(each.strip() for each in meta.pop("packages", "").split(","))
    named = packages if all(each.isascii() and each.isidentifier() for each in packages) else ()
    return Imported(name, parse(canonical(changes), name, fetched=True), meta, max(strip, 1), named)


def _from_a_folder(change: FileChange) -> FileChange:
    """A change whose names are below the folders a/ and b/, as all are in the canonical form."""
    if not change.outside:
        return change
    old, new = ((path.lstrip("/") if path is not None else None) for path in (change.old_path, change.new_path))
    return replace(change, old_path=old, new_path=new, outside=False)


def _decoded_mail(data: bytes) -> bytes:
    """A mail whose body is encoded, with its body as it was written."""
    head, _, _ = data.partition(b"\n\n")
    if not _ENCODED.search(head):
        return data
    from email import message_from_bytes

    body = message_from_bytes(data).get_payload(decode=True)
    # The diff's reader refuses what is encoded still.
    head = _ENCODED.sub(b"Content-Transfer-Encoding: 8bit", head)
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
        "packages": fields.get("packages") or "",
    }
    return {key: value for key, value in pairs.items() if value}


def _decoded(value: str) -> str:
    from email.errors import HeaderParseError
    from email.header import decode_header, make_header

    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return value
