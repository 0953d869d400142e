"""Which files of a diff enter the image: those of the installed package, and nothing else."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from builder.patch.installed import COMPILED_ENDINGS, NATIVE_ENDINGS, Installed
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
    "Cargo.toml",
    "Cargo.lock",
)
_REQUIREMENTS = re.compile(r"requirements[\w.-]*\.txt")
TEST_FOLDERS = ("tests", "benchmarks", "docs", "examples", "tools", ".github", ".buildkite")


@dataclass(frozen=True)
class Selection:
    """The changes of one overlay that are applied, and the files that are left out, each with its reason."""

    changes: tuple[FileChange, ...]
    dropped: tuple[Dropped, ...]

    def next_of(self, path: str, position: int) -> tuple[int, FileChange] | None:
        """The next change behind `position` (from 0; -1 for the first) that changes, moves or deletes the file `path`."""
        for each in self._by_source.get(path, ()):
            if each[0] > position:
                return each
        return None

    @property
    def sources(self) -> Collection[str]:
        """The paths that exist before and are changed, moved or deleted."""
        return self._by_source.keys()

    @cached_property
    def _by_source(self) -> dict[str, list[tuple[int, FileChange]]]:
        found: dict[str, list[tuple[int, FileChange]]] = {}
        for position, change in enumerate(self.changes):
            if change.old_path is not None and change.kind != "copy":
                found.setdefault(change.old_path, []).append((position, change))
        return found


class NothingEntersError(InputError):
    """No file of an overlay is one of the installed package."""


def select(
    overlay: Overlay, package: str, installed: Installed | None = None, others: Collection[str] = ()
) -> Selection:
    """Split an overlay's changes. `installed` is what the base has; without it, sources inside the package count as text.

    `package` is the stack's, for an overlay that names none; `others` are further packages that the base has.
    Raises `InputError` for what cannot be delivered, `NothingEntersError` for an overlay of which nothing is left.
    """
    sides = _Sides(overlay, overlay.packages or (package,), installed, others)
    if not any(sides.inside(path) for change in overlay.diff.changes for path in _paths(change)):
        sides.anything = False
    changes = [kept for change in overlay.diff.changes if (kept := sides.take(change)) is not None]
    if sides.refused:
        raise _undelivered(overlay, sides.refused, anything=sides.anything)
    _check_unused(overlay, sides.used)
    missing = "in one of the diff's two trees only, and not in the diff: `diff -N` has what is new or deleted"
    sides.dropped += [Dropped(path, missing) for path in overlay.diff.absent if sides.inside(path)]
    if not changes:
        raise _nothing(overlay, sides.packages, sides.dropped)
    return Selection(tuple(changes), tuple(sides.dropped))


def _paths(change: FileChange) -> tuple[str, ...]:
    if change.outside:
        return ()
    return tuple(dict.fromkeys(path for path in (change.old_path, change.new_path) if path is not None))


@dataclass
class _Sides:
    """One overlay's changes while they are judged."""

    overlay: Overlay
    packages: Collection[str]
    installed: Installed | None
    others: Collection[str] = ()
    dropped: list[Dropped] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    anything: bool = True

    def inside(self, path: str) -> bool:
        head, slash, _ = path.partition("/")
        return bool(slash) and head in self.packages

    def take(self, change: FileChange) -> FileChange | None:
        """The change as it enters the package, or None when it does not."""
        if change.outside:
            reason = (
                "an absolute path" if change.path.startswith("/") else "its name has fewer folders than are stripped"
            )
            self.dropped.append(Dropped(change.path, reason))
            return None
        # A copy leaves its source as it is.
        touched = [path for path in _paths(change) if change.kind != "copy" or path == change.new_path]
        delivered = [path for path in touched if self._delivered(path)]
        if not any(self.inside(path) for path in delivered):
            left = delivered[-1:] if len(delivered) == len(touched) else []
            self.dropped += [self._outside(path) for path in left]
            return None
        return self._entering(change, delivered)

    def _outside(self, path: str) -> Dropped:
        head, slash, _ = path.partition("/")
        names = " and ".join(self.packages)
        if not slash:
            return Dropped(path, f"beside the package {names}")
        if head in self.others:
            return Dropped(path, f"in the package {head}, which the overlay does not name", head)
        return Dropped(path, f"not part of the installed package {names}")

    def _delivered(self, path: str) -> bool:
        """Whether a text overlay can deliver a change of `path`; what the recipe accepts to lose is noted."""
        why = self._undeliverable(path)
        if not why:
            return True
        pattern = next((each for each in self.overlay.accept_undelivered if fnmatch.fnmatchcase(path, each)), None)
        if pattern is None and self.installed is None and self.inside(path) and not path.endswith(COMPILED_ENDINGS):
            return True
        if pattern is None:
            self.refused[path] = why
        else:
            self.used.add(pattern)
            self.dropped.append(Dropped(path, f"accepted: {self.overlay.accept_undelivered[pattern]}"))
        return False

    def _undeliverable(self, path: str) -> str:
        """Why a change of `path` cannot be delivered as text; empty when it can, or when it does not matter."""
        parts = path.split("/")
        if parts[0] in TEST_FOLDERS:
            return ""
        if path.endswith(COMPILED_ENDINGS) or ".so." in parts[-1]:
            return "compiled"
        if self.inside(path):
            compiled = self.installed.has_compiled(path) if self.installed is not None else None
            if compiled is not None:
                return f"{compiled} was compiled from it, and is what Python imports"
            if not path.endswith(NATIVE_ENDINGS) and parts[-1] != "CMakeLists.txt":
                return ""
            known = self.installed is not None and (path in self.installed.files or self.installed.compiles_in(path))
            return "" if known else "the installed package does not have it as text"
        if (
            parts[0] in _UNDELIVERABLE_FOLDERS
            or (len(parts) == 1 and (parts[0] in _UNDELIVERABLE_NAMES or _REQUIREMENTS.fullmatch(parts[0])))
            or parts[-1] == "CMakeLists.txt"
            or path.endswith(NATIVE_ENDINGS)
        ):
            return "it is compiled, or read by pip, before the package is installed"
        return ""

    def _entering(self, change: FileChange, delivered: Sequence[str]) -> FileChange:
        """A change of which a file is in the package. A move out of it is a deletion there, a move into it an addition."""
        _check_kind(self.overlay, change)
        old, new = change.old_path, change.new_path
        if old is None or new is None or old == new:
            return change
        if not self.inside(old):
            # The file outside stays where it is: only the package is changed.
            return replace(change, kind="copy")
        if not self.inside(new):
            why = f"{old} moves there: a deletion for the package {old.partition('/')[0]}"
            self.dropped.append(Dropped(new, why, self._outside(new).package))
        if not self.inside(new) or (new not in delivered and change.kind == "rename"):
            return replace(change, kind="delete", new_path=None, new_mode=None, carried_out=new)
        return change


def _undelivered(overlay: Overlay, refused: dict[str, str], *, anything: bool) -> InputError:
    return (InputError if anything else NothingEntersError)(
        f"overlay {overlay.id} changes what a text overlay cannot deliver",
        details=[("where", overlay.where), *(("file", f"{path} ({why})") for path, why in refused.items())],
        hint="it needs an image that is built from source; if the overlay works without these files, list them under\n"
        f"accept_undelivered of {overlay.id} in the recipe, each with the reason",
        data={"overlay": overlay.id, "undeliverable": list(refused)},
    )


def package_line(packages: Collection[str]) -> str:
    """The key of an overlay that names packages, as a line of YAML."""
    names = list(dict.fromkeys(packages))
    return f"package: {names[0]}" if len(names) == 1 else f"package: [{', '.join(names)}]"


def below(packages: Collection[str]) -> str:
    """Folders of packages, for messages: `vllm/ or flashinfer/`."""
    return " or ".join(f"{each}/" for each in packages)


def _nothing(overlay: Overlay, packages: Collection[str], dropped: Sequence[Dropped]) -> InputError:
    message = f"nothing of overlay {overlay.id} enters the image: no file of it is below {below(packages)}"
    details = [("dropped", f"{each.path} ({each.reason})") for each in dropped]
    package = " or ".join(packages)
    if named := [each.package for each in dropped if each.package]:
        return InputError(
            message,
            details=details,
            hint=f"it is for another package of the base: give {overlay.id} this line in the recipe\n"
            f"  {package_line(named)}",
            data={"overlay": overlay.id, "package": list(dict.fromkeys(named))},
        )
    return NothingEntersError(
        message,
        details=details,
        hint=f"it changes nothing that is installed as {package}: check the recipe's 'package', or give the part of the\n"
        f"change that is for files below {below(packages)}",
        data={"overlay": overlay.id},
    )


def _check_unused(overlay: Overlay, used: set[str]) -> None:
    paths = [change.path for change in overlay.diff.changes]
    for pattern in overlay.accept_undelivered:
        if pattern not in used:
            near = difflib.get_close_matches(pattern, paths, n=1)
            raise InputError(
                f"overlay {overlay.id} has no undeliverable file that matches {pattern!r}",
                hint=(f"did you mean {near[0]!r}? " if near and near[0] != pattern else "")
                + "accept_undelivered lists only files that would be refused without it",
            )


def _check_kind(overlay: Overlay, change: FileChange) -> None:
    where = f"{overlay.where}, line {change.diff_line}"
    if change.unsaid:
        raise InputError(
            f"overlay {overlay.id} names {change.path} as changed, and does not have the change",
            details=[("where", where), ("why", change.unsaid)],
            hint="make the diff with `git diff`, or with `diff -Naur`; if the change of this file does not matter, remove the line",
        )
    if any(b"+<<<<<<< " in hunk.body and b"+>>>>>>> " in hunk.body for hunk in change.hunks):
        raise InputError(
            f"overlay {overlay.id} adds the marks of a merge conflict to {change.path}",
            details=[("where", where)],
            hint="resolve the conflict where the diff was made, and make the diff again",
        )
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
