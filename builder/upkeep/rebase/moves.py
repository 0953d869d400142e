"""Where files went between two bases: git's own rename detection, over the files that only one of the bases has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.base.model import PackageTree
from builder.base.record import read_record
from builder.base.together import distributions
from builder.util.errors import BuilderError, InputError
from builder.util.process import run

FindMoves = Callable[[Mapping[str, bytes]], Mapping[str, str] | None]


@dataclass(frozen=True)
class Moves:
    """Looks for files of an old base in a new one. `old_paths` are all files of its packages, as far as known.

    A file is looked for among those with the same ending: what is compiled is not read.

    `old` opens the old base for the contents of the others that are gone: git pairs each new file with the one that
    resembles it most. Without it (offline, deleted upstream) only the files asked for are paired.
    """

    old_paths: Collection[str]
    old: Callable[[], PackageTree]
    new: PackageTree
    packages: tuple[str, ...]

    def find(self, missing: Mapping[str, bytes]) -> dict[str, str] | None:
        """For files that the new base does not have, by path with their old content: the paths where they are now.

        None when it is not known which files are new there.
        """
        asked = set(missing)
        if not asked:
            return {}
        endings = {PurePosixPath(path).suffix for path in asked}
        try:
            there = set(self.old_paths) or package_paths(self.old(), self.packages)
        except BuilderError:
            return None
        here = package_paths(self.new, self.packages)
        there, here = ({path for path in paths if PurePosixPath(path).suffix in endings} for paths in (there, here))
        gone = there - here
        came = _contents(self.new, here - there)
        try:
            others = _contents(self.old(), gone - asked)
        except BuilderError:
            others = {}
        found = renames({**others, **{path: missing[path] for path in asked}}, came)
        return {path: found[path] for path in sorted(asked & found.keys())}


def package_paths(tree: PackageTree, packages: tuple[str, ...]) -> set[str]:
    """All files of packages: as their distributions' RECORD lists them, else as their folders have them."""
    found: set[str] = set()
    for package, owner in distributions(tree, packages[0]).items():
        record = f"{owner.dist_info}/RECORD"
        entry = tree.read([record]).get(record)
        known = entry is not None and entry.kind == "file"
        found |= listed(entry.data, package) if entry is not None and known else _walked(tree, package)
    return found


def listed(record: bytes, *packages: str) -> set[str]:
    """The files of packages in a RECORD."""
    paths = (row.path for row in read_record(record, "the base's RECORD"))
    return {path for path in paths if path.partition("/")[0] in packages}


def _walked(tree: PackageTree, folder: str) -> set[str]:
    found: set[str] = set()
    for name, kind in tree.children(folder).items():
        if kind == "directory":
            found |= _walked(tree, f"{folder}/{name}")
        elif kind == "file":
            found.add(f"{folder}/{name}")
    return found


def _contents(tree: PackageTree, paths: Collection[str]) -> dict[str, bytes]:
    return {path: entry.data for path, entry in tree.read(sorted(paths)).items() if entry.kind == "file"}


def renames(gone: Mapping[str, bytes], came: Mapping[str, bytes]) -> dict[str, str]:
    """Old path -> new path of what `git diff` calls a rename: half of the file is the same, as in its merges.

    Raises `InputError` when git is missing or refuses.
    """
    if not gone or not came:
        return {}
    with tempfile.TemporaryDirectory(prefix="builder-moves-") as name:
        folder = Path(name)
        for side, files in (("old", gone), ("new", came)):
            for path, data in files.items():
                target = folder / side / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        done = run(
            ["git", "-c", "core.quotePath=false", "diff", "--no-index", "--find-renames", "-l0", "--raw", "-z", "--no-ext-diff", "old", "new"],
            cwd=folder, extra_env={"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_DIR": "/dev/null"},
        )  # fmt: skip
    if done.returncode not in (0, 1):
        raise InputError(
            "git cannot compare the two bases", details=[("output", done.output[-300:])],
            hint="install git (Debian: apt-get install git)",
        )  # fmt: skip
    found: dict[str, str] = {}
    fields = iter(done.stdout.decode("utf-8", "surrogateescape").split("\0"))
    for entry in fields:
        # `:100644 100644 SHA SHA R097`, then one path, or two of a rename.
        status = entry.rsplit(" ", 1)[-1][:1]
        old = next(fields, "")
        if status == "R":
            found[old.removeprefix("old/")] = next(fields, "").removeprefix("new/")
    return found
