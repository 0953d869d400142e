"""What the installed package has, told by the base's own file list: what a diff means, and what can be delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from builder.base.model import PackageTree
from builder.base.record import read_record
from builder.base.together import distributions
from builder.patch.model import FileChange

# Endings of sources for a compiler. A package that compiles at run time carries them as text.
NATIVE_ENDINGS = (
    ".c",
    ".cc",
    ".cpp",
    ".cu",
    ".cuh",
    ".cxx",
    ".h",
    ".hh",
    ".hip",
    ".hpp",
    ".inl",
    ".pyx",
    ".pxd",
    ".rs",
    ".cmake",
)
# What is never text.
COMPILED_ENDINGS = (".so", ".dll", ".dylib", ".a", ".o", ".pyc", ".pyd")
_EXTENSIONS = (".so", ".pyd", ".dylib", ".dll")
_COMPILED_FROM = (*NATIVE_ENDINGS, ".py")


@dataclass(frozen=True)
class Installed:
    """The files of the installed package (or packages), by path from where they are installed: `vllm/engine/arg_utils.py`."""

    files: frozenset[str]

    @classmethod
    def of(cls, tree: PackageTree, package: str, *further: str) -> Installed:
        """Read the lists from the distributions' RECORD (PyPA, "Recording installed projects"), else from the folders."""
        owners = distributions(tree, package)
        files: set[str] = set()
        for name in (package, *further):
            owner = owners.get(name)
            files |= (_listed(tree, owner.dist_info, name) if owner is not None else set()) or set(_walk(tree, name))
        return cls(frozenset(files))

    def within(self, packages: Collection[str]) -> Installed:
        """Only the files of these packages."""
        kept = frozenset(path for path in self.files if path.partition("/")[0] in packages)
        return self if kept == self.files else Installed(kept)

    def has_compiled(self, path: str) -> str | None:
        """The compiled module that is imported instead of the source at `path`, when the package has one beside it."""
        if not path.endswith(_COMPILED_FROM):
            return None
        folder, _, name = path.rpartition("/")
        return self._extensions.get((folder, name.split(".")[0]))

    def compiles_in(self, path: str) -> bool:
        """Whether the package carries sources for a compiler in the folder of `path`, or in one above it but its own."""
        parts = path.split("/")[:-1]
        return any("/".join(parts[:size]) in self._source_folders for size in range(2, len(parts) + 1))

    @cached_property
    def _extensions(self) -> dict[tuple[str, str], str]:
        found = {}
        for path in self.files:
            folder, _, name = path.rpartition("/")
            if name.endswith(_EXTENSIONS):
                found[folder, name.split(".")[0]] = path
        return found

    @cached_property
    def _source_folders(self) -> frozenset[str]:
        return frozenset(path.rpartition("/")[0] for path in self.files if path.endswith(NATIVE_ENDINGS))

    @cached_property
    def by_name(self) -> dict[str, list[tuple[str, ...]]]:
        """File name -> the paths of the files that have it, as parts."""
        found: dict[str, list[tuple[str, ...]]] = {}
        for path in sorted(self.files):
            parts = tuple(path.split("/"))
            found.setdefault(parts[-1], []).append(parts)
        return found


def _listed(tree: PackageTree, dist_info: str, package: str) -> set[str]:
    path = f"{dist_info}/RECORD"
    record = tree.read([path]).get(path)
    if record is None or record.kind != "file":
        return set()
    rows = read_record(record.data, f"/{path}", root=tree.root)
    return {row.path for row in rows if row.path.startswith(f"{package}/")}


def _walk(tree: PackageTree, folder: str) -> Iterator[str]:
    for name, kind in tree.children(folder).items():
        path = f"{folder}/{name}"
        if kind == "directory":
            yield from _walk(tree, path)
        elif kind == "file":
            yield path


@dataclass(frozen=True)
class Meant:
    """How a diff's names lead to files of the package: `strip` folders off the front (as `patch --strip`), then `under`."""

    strip: int
    under: str
    found: int
    """How many of the files that the diff changes exist then."""
    total: int
    """How many files the diff changes, new ones left out."""

    @property
    def keys(self) -> dict[str, str | int]:
        """The keys that the overlay needs in the recipe."""
        return {**({"strip": self.strip} if self.strip != 1 else {}), **({"under": self.under} if self.under else {})}

    @property
    def lines(self) -> list[str]:
        """The lines for the recipe, the number of folders in any case."""
        return [f"strip: {self.strip}", *([f"under: {self.under}"] if self.under else [])]


def existing_names(changes: Iterable[FileChange]) -> list[str]:
    """The names, as the diff has them, of the files that a base must have: of every file that is not new."""
    return list(dict.fromkeys(change.named for change in changes if change.old_path is not None))


def find_meant(names: Collection[str], installed: Installed) -> list[Meant]:
    """The ways to read a diff's names under which the most files exist, the one that strips the least first.

    Several results of the same strip are a tie.
    """
    counts: Counter[tuple[int, str]] = Counter()
    for name in names:
        # A slash in front is a folder without a name, as `patch --strip` counts.
        parts = tuple(name.split("/"))
        for path in installed.by_name.get(parts[-1], []):
            for same in range(1, _common_end(parts, path) + 1):
                counts[len(parts) - same, "/".join(path[: len(path) - same])] += 1
    if not counts:
        return []
    most = max(counts.values())
    best = [key for key, count in counts.items() if count == most]
    least = min(strip for strip, _ in best)
    return [Meant(strip, under, most, len(names)) for strip, under in sorted(best) if strip == least]


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    size = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        size += 1
    return size
