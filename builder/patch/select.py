"""Which files of a diff enter the image: those of the installed package, and nothing else."""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import dataclass

from builder.patch.model import Dropped, FileChange, Overlay
from builder.util.errors import InputError

# Changes that matter to the installed package and that a text overlay cannot deliver: they need a compiler, or pip.
_UNDELIVERABLE_FOLDERS = ("csrc", "cmake", "requirements", "rust")
_UNDELIVERABLE_NAMES = (
    "CMakeLists.txt",
    "setup.py",
    "setup.cfg",
    "pyproject.toml",
    "MANIFEST.in",
    "use_existing_torch.py",
)
_UNDELIVERABLE_ENDINGS = (
    ".c", ".cc", ".cpp", ".cu", ".cuh", ".cxx", ".h", ".hpp", ".pyx", ".pxd", ".rs", ".so", ".dll", ".dylib", ".a", ".o", ".pyc",
    ".cmake",
)  # fmt: skip
_TEST_FOLDERS = ("tests", "benchmarks", "docs", "examples", "tools", ".github", ".buildkite")


@dataclass(frozen=True)
class Selection:
    """The changes of one overlay that are applied, and the files that are left out, each with its reason."""

    changes: tuple[FileChange, ...]
    dropped: tuple[Dropped, ...]


def select(overlay: Overlay, package: str) -> Selection:
    """Split an overlay's changes. Raises `InputError` for what cannot be delivered and for an overlay of which nothing is left."""
    changes: list[FileChange] = []
    dropped: list[Dropped] = []
    used: set[str] = set()
    refused: list[str] = []
    for change in overlay.diff.changes:
        inside = [_inside(path, package) for path in (change.old_path, change.new_path) if path is not None]
        pattern = _accepted(change.path, overlay)
        if _undeliverable(change.path):
            if pattern is None:
                refused.append(change.path)
            else:
                used.add(pattern)
                dropped.append(Dropped(change.path, f"accepted: {overlay.accept_undelivered[pattern]}"))
        elif not any(inside):
            dropped.append(Dropped(change.path, _why_outside(change.path, package)))
        else:
            changes.append(_deliverable(overlay, change, package, all(inside)))
    if refused:
        raise InputError(
            f"overlay {overlay.id} changes what a text overlay cannot deliver",
            details=[("where", overlay.where), *(("file", path) for path in refused)],
            hint="it needs an image that is built from source; if the overlay works without these files, list them under\n"
            f"accept_undelivered of {overlay.id} in the recipe, each with the reason",
            data={"overlay": overlay.id, "undeliverable": refused},
        )
    _check_unused(overlay, used)
    if not changes:
        raise InputError(
            f"nothing of overlay {overlay.id} enters the image: no file of it is below {package}/",
            details=[("dropped", f"{each.path} ({each.reason})") for each in dropped],
            hint="remove it from the recipe, or check the recipe's 'package'",
        )
    return Selection(tuple(changes), tuple(dropped))


def _inside(path: str, package: str) -> bool:
    return path.startswith(f"{package}/")


def _undeliverable(path: str) -> bool:
    parts = path.split("/")
    if parts[0] in _TEST_FOLDERS:
        return False
    return (
        parts[0] in _UNDELIVERABLE_FOLDERS
        or (len(parts) == 1 and parts[0] in _UNDELIVERABLE_NAMES)
        or parts[-1] == "CMakeLists.txt"
        or path.endswith(_UNDELIVERABLE_ENDINGS)
        or ".so." in parts[-1]
    )


def _accepted(path: str, overlay: Overlay) -> str | None:
    return next((pattern for pattern in overlay.accept_undelivered if fnmatch.fnmatchcase(path, pattern)), None)


def _check_unused(overlay: Overlay, used: set[str]) -> None:
    paths = [change.path for change in overlay.diff.changes]
    for pattern in overlay.accept_undelivered:
        if pattern not in used:
            near = difflib.get_close_matches(pattern, paths, n=1)
            raise InputError(
                f"overlay {overlay.id} has no undeliverable file that matches {pattern!r}",
                hint=(f"did you mean {near[0]!r}? " if near else "")
                + "accept_undelivered lists only files that would be refused without it",
            )


def _why_outside(path: str, package: str) -> str:
    return f"not part of the installed package {package}" if "/" in path else f"beside the package {package}"


def _deliverable(overlay: Overlay, change: FileChange, package: str, all_inside: bool) -> FileChange:
    where = f"{overlay.where}, line {change.diff_line}"
    if change.binary:
        raise InputError(
            f"overlay {overlay.id} has a binary change of {change.path}",
            details=[("where", where)],
            hint="a text overlay cannot carry it; build from source instead",
        )
    if change.special:
        raise InputError(
            f"overlay {overlay.id} makes or changes {change.special}: {change.path}",
            details=[("where", where)],
            hint="only regular files can be delivered into the package",
        )
    if all_inside:
        return change
    if change.new_path is not None and _inside(change.new_path, package):
        raise InputError(
            f"overlay {overlay.id} moves {change.old_path} into the package, where the base does not have it",
            details=[("where", where)],
            hint="make the diff without renames: git diff --no-renames",
        )
    raise InputError(
        f"overlay {overlay.id} takes {change.old_path} out of the package, to {change.new_path}",
        details=[("where", where)],
        hint="make the diff without renames, so that it says what the file was: git diff --no-renames",
    )
