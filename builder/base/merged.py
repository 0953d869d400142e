"""The file system of an image, put together from its layers: later layers win, whiteouts and replaced folders hide.

Layers are read when they are needed. The topmost layer that mentions a path, or a folder above it, decides what is there;
links are entries like others, and what lies below a link or a file is hidden by it, as in overlayfs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from builder.base.filter import Filter
from builder.base.snapshot import LayerEntry, Snapshot
from builder.oci.types import Descriptor
from builder.util.errors import InputError

ReadLayer = Callable[[int, Descriptor, Filter], Snapshot]
"""Reads a layer by its place (from the bottom, from 0) and descriptor."""


@dataclass(frozen=True)
class Finding:
    """What the layers that were read have at a path.

    `entry` is None when the path is hidden, or when no layer mentions it; `layer` is the place of the layer that decides,
    or -1 when none does.
    """

    entry: LayerEntry | None
    layer: int


_NOTHING = Finding(None, -1)
_UNKNOWN_FILE = LayerEntry("file", 0o644, -1)
_FOLDER = LayerEntry("directory", 0o755)


class MergedLayers:
    """The layers of an image (bottom first), as far as they were read."""

    def __init__(self, layers: Sequence[Descriptor], wanted: Filter, read: ReadLayer, name: str) -> None:
        self._layers = list(layers)
        self._wanted = wanted
        self._read = read
        self._name = name
        self._snapshots: dict[int, Snapshot] = {}
        self._extra: dict[int, frozenset[str]] = {}
        self._next = len(self._layers) - 1
        self._paths: set[str] | None = None
        self._names: dict[str, set[str]] = {}

    # --- reading ----------------------------------------------------------------------------------------------------

    def deeper(self) -> bool:
        """Read one more layer, from the top down. False when all are read."""
        if self._next < 0:
            return False
        self._take(self._next)
        self._next -= 1
        return True

    def read_all(self) -> None:
        while self.deeper():
            pass

    def read_bottom(self) -> None:
        """Read the lowest layer, which has the root file system's folders."""
        if self._layers:
            self._take(0)

    @property
    def paths(self) -> set[str]:
        """Every path that some layer has an entry for; whether it is still there is for `entry` to say."""
        if self._paths is None:
            self._paths = {path for snapshot in self._snapshots.values() for path in snapshot.entries}
        return self._paths

    def _listed(self, folder: str) -> Collection[str]:
        """The names directly inside a folder, of all entries. All folders are listed at once: many are asked for."""
        if not self._names:
            self._names = {"": set()}
            for path in self.paths:
                rest = path
                while rest:
                    above, _, name = rest.rpartition("/")
                    known = self._names.setdefault(above, set())
                    if name in known:
                        break
                    known.add(name)
                    rest = above
        return self._names.get(folder, ())

    def _take(self, index: int) -> None:
        if index in self._snapshots:
            return
        self._load(index, self._extra.get(index, frozenset()))

    def _load(self, index: int, extra: frozenset[str]) -> None:
        wanted = self._wanted.with_extra(extra) if extra else self._wanted
        found = self._read(index, self._layers[index], wanted)
        self._snapshots[index] = found
        self._paths, self._names = None, {}
        targets = frozenset(entry.target for entry in found.entries.values() if entry.kind == "hardlink")
        if targets:
            self._ask_below(index, targets)

    def _ask_below(self, index: int, targets: frozenset[str]) -> None:
        """The files that hard links name in the layers below are wanted of all of these."""
        for below in range(index):
            had = self._extra.get(below, frozenset())
            self._extra[below] = had | targets
            if below in self._snapshots and not targets <= had:
                self._load(below, self._extra[below])

    # --- asking -----------------------------------------------------------------------------------------------------

    def find(self, path: str, *, below: int | None = None) -> Finding:
        """What the layers have at a path: those below the place `below`, or all. Raises as `entry` does."""
        folders = parents(path)
        for index in sorted(self._snapshots, reverse=True):
            if below is not None and index >= below:
                continue
            found = self._in_layer(index, path, folders)
            if found is not None:
                return found
        return _NOTHING

    def is_decided(self, finding: Finding) -> bool:
        """Whether no layer that was not read yet can say otherwise. The bottom layer may be read before those above it."""
        return finding.layer > self._next

    def _in_layer(self, index: int, path: str, folders: Sequence[str]) -> Finding | None:
        """What one layer has at a path, or None when the layers below decide."""
        snapshot = self._snapshots[index]
        entry = snapshot.entries.get(path)
        if entry is None and path in snapshot.files:
            entry = _UNKNOWN_FILE
        if entry is None and path in snapshot.folders:
            entry = _FOLDER
        if entry is not None:
            self._refuse_through_link(snapshot, path, folders)
            return Finding(entry, index)
        if path in snapshot.removed:
            return Finding(None, index)
        for parent in folders:
            if parent in snapshot.removed or parent in snapshot.opaque:
                return Finding(None, index)
            above = snapshot.entries.get(parent)
            if (above is not None and above.kind != "directory") or (above is None and parent in snapshot.files):
                return Finding(None, index)
        return Finding(None, index) if "." in snapshot.opaque else None

    def _refuse_through_link(self, snapshot: Snapshot, path: str, folders: Iterable[str]) -> None:
        for parent in folders:
            above = snapshot.entries.get(parent)
            if (above is not None and above.kind not in ("directory",)) or (above is None and parent in snapshot.files):
                raise InputError(
                    f"a layer of {self._name} has /{path} below /{parent}, which is a {_word(above)} in the same layer",
                    hint="clients unpack such a layer in different ways: do not use this base",
                )

    def entry(self, path: str) -> LayerEntry | None:
        """The entry at a path, all layers together, hard links into lower layers followed; links are not.

        Raises `InputError` for what a layer writes below a link of its own: where that goes depends on who unpacks it.
        """
        return self._resolved(self.find(path))

    def _resolved(self, finding: Finding, depth: int = 0) -> LayerEntry | None:
        if finding.entry is None or finding.entry.kind != "hardlink":
            return finding.entry
        target = self.find(finding.entry.target, below=finding.layer)
        while not self.is_decided(target) and self.deeper():
            target = self.find(finding.entry.target, below=finding.layer)
        found = self._resolved(target, depth + 1) if depth < len(self._layers) else None
        if found is None or found.kind not in ("file", "symlink") or found is _UNKNOWN_FILE:
            return replace(finding.entry, kind="other")
        return found

    def content(self, entry: LayerEntry) -> bytes:
        """The kept content of a file; empty when it was not kept."""
        for snapshot in self._snapshots.values():
            if entry.digest in snapshot.contents:
                return snapshot.contents[entry.digest]
        return b""

    def text(self, path: str) -> str:
        """The content of a small file; empty when it is unknown."""
        found = self.entry(path)
        return self.content(found).decode("utf-8", "replace") if found is not None else ""

    def link_above(self, path: str) -> str | None:
        """The first folder above a path that is a link, or another entry that is not a folder."""
        for parent in reversed(parents(path)):
            found = self.find(parent).entry
            if found is not None and found.kind != "directory":
                return parent
        return None

    def names(self, folder: str) -> Mapping[str, LayerEntry]:
        """What is directly inside a folder, by name; a folder that no layer has an entry for is known by what is in it."""
        prefix = f"{folder}/" if folder else ""
        entries = {name: self.entry(prefix + name) for name in sorted(self._listed(folder))}
        for name in [name for name, entry in entries.items() if entry is None and self._listed(prefix + name)]:
            entries[name] = _FOLDER if self.names(prefix + name) else None
        return {name: entry for name, entry in entries.items() if entry is not None}


def _word(entry: LayerEntry | None) -> str:
    return "link" if entry is not None and entry.kind == "symlink" else "file"


def parents(path: str) -> list[str]:
    """The folders above a path, the nearest first."""
    found = []
    while path := path.rpartition("/")[0]:
        found.append(path)
    return found
