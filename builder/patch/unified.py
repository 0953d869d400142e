"""A stack that applied, as tables and text."""

from __future__ import annotations

import difflib

from builder.patch.hunks import Text
from builder.patch.model import AppliedOverlay, StackResult
from builder.patch.paths import quote
from builder.patch.select import package_line

COLUMNS = ("overlay", "files", "hunks", "offsets", "fuzz", "dropped")


def rows(result: StackResult) -> list[list[str]]:
    """One row per overlay, in the order of the stack, with `COLUMNS`."""
    return [
        [
            overlay.id,
            str(len(overlay.files)),
            str(len(overlay.hunks)),
            _offsets(overlay),
            str(sum(1 for hunk in overlay.hunks if hunk.fuzz)) if any(hunk.fuzz for hunk in overlay.hunks) else "-",
            ", ".join(dropped.path for dropped in overlay.dropped) or "-",
        ]
        for overlay in result.overlays
    ]


def notes(result: StackResult) -> list[str]:
    """What people should know of a stack that applied: places that were settled, headers put right, what was not judged."""
    found = [
        f"{overlay.id}: hunk {hunk.number} of {hunk.path} fits at more than one place; "
        + ("the order of the hunks leaves one" if hunk.chosen == "order" else "the heading behind @@ names one")
        + f", line {hunk.line}"
        for overlay in result.overlays
        for hunk in overlay.hunks
        if hunk.chosen
    ]
    found += [
        f"{overlay.id}: its change of {name} is left out, a package of the base that the overlay does not name; to take it, "
        f"write `{package_line([*overlay.packages, name])}`"
        for overlay in result.overlays
        for name in overlay.unnamed
    ]
    return [*found, *([result.not_judged] if result.not_judged else [])]


def _offsets(overlay: AppliedOverlay) -> str:
    """How many hunks went elsewhere, and how far at the most: `3 (up to 27 lines)`."""
    offsets = [abs(hunk.offset) for hunk in overlay.hunks if hunk.offset]
    return f"{len(offsets)} (up to {max(offsets)} lines)" if offsets else "-"


def unified_diff(result: StackResult) -> str:
    """The change of the whole stack, as git would print it, without index lines."""
    parts: list[str] = []
    for file in result.files:
        old, new = quote(f"a/{file.path}").decode(), quote(f"b/{file.path}").decode()
        parts.append(f"diff --git {old} {new}\n")
        if file.before is None:
            parts.append(f"new file mode 100{file.mode:o}\n")
        elif file.after is None:
            parts.append(f"deleted file mode 100{file.old_mode:o}\n")
        elif file.old_mode != file.mode:
            parts.append(f"old mode 100{file.old_mode:o}\nnew mode 100{file.mode:o}\n")
        lines = difflib.unified_diff(
            _lines(file.before),
            _lines(file.after),
            "/dev/null" if file.before is None else old,
            "/dev/null" if file.after is None else new,
        )
        for line in lines:
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)


def _lines(data: bytes | None) -> list[str]:
    text = Text.of(data or b"")
    lines = [line.decode("utf-8", "surrogateescape") + "\n" for line in text.lines]
    if lines and not text.ends:
        lines[-1] = lines[-1][:-1]
    return lines
