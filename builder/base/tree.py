"""The package tree of an image, put together from its layers: later layers win, whiteouts remove.

Layers are read from the top down and no further than needed: once a layer has brought the distribution's RECORD, what
lies below it matters only for files that RECORD lists and that were not seen yet. The bottom layer, the small one with
the root file system, is read as well, so that it is known which folders are there already.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from builder.base.layers import Filter, LayerEntry, Snapshot
from builder.base.model import BaseFile, Distribution, EntryKind
from builder.oci.types import Descriptor
from builder.util.errors import InputError

ReadLayer = Callable[[Descriptor, Filter], Snapshot]


class LayeredTree:
    """A `PackageTree` over an image's layers (bottom first, as the manifest has them)."""

    def __init__(
        self, layers: Sequence[Descriptor], config: Mapping[str, Any], package: str, read: ReadLayer, name: str
    ) -> None:
        self._layers = list(layers)
        self._package = package
        self._filter = Filter(package)
        self._read = read
        self._name = name
        self._snapshots: dict[int, Snapshot] = {}
        self._next = len(self._layers) - 1
        self.root, self.distribution = self._find(config)
        self.python = self._find_python()
        self._record = self._read_record()

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        found: dict[str, BaseFile] = {}
        for path in paths:
            full = f"{self.root}/{path}"
            self._look_for(full, listed=path in self._record)
            blocked = self._linked_parent(full)
            if blocked is not None:
                found[blocked.path] = blocked
                continue
            entry, contents = self._entry(full)
            if entry is not None:
                found[path] = self._base_file(path, entry, contents)
        return found

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        prefix = f"{self.root}/{folder}/" if folder else f"{self.root}/"
        names = {
            path.removeprefix(prefix).split("/")[0]
            for snapshot in self._snapshots.values()
            for path in snapshot.entries
            if path.startswith(prefix)
        }
        entries = {name: self._entry(prefix + name)[0] for name in names}
        return {name: entry.kind for name, entry in sorted(entries.items()) if entry is not None}

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        self._snapshot(0)
        found: dict[str, BaseFile] = {}
        for path in paths:
            entry, _ = self._entry(path)
            if entry is not None:
                found[path] = BaseFile(path, entry.kind, entry.mode, target=entry.target)
        return found

    # --- layers -----------------------------------------------------------------------------------------------------

    def _snapshot(self, index: int) -> Snapshot:
        if index not in self._snapshots:
            self._snapshots[index] = self._read(self._layers[index], self._filter)
        return self._snapshots[index]

    def _deeper(self) -> bool:
        """Read one more layer, from the top down. False when all are read."""
        if self._next < 0:
            return False
        self._snapshot(self._next)
        self._next -= 1
        return True

    def _look_for(self, full: str, *, listed: bool) -> None:
        """Read on until a path that RECORD lists is seen, or every layer is."""
        while listed and self._entry(full)[0] is None and not self._removed(full) and self._deeper():
            pass

    def _removed(self, full: str) -> bool:
        parents = {str(parent) for parent in PurePosixPath(full).parents} | {full}
        return any(parents & snapshot.removed for snapshot in self._snapshots.values())

    def _entry(self, full: str) -> tuple[LayerEntry | None, Mapping[str, bytes]]:
        """The entry at a path in the layers that were read, the topmost one that says something about it."""
        parents = [str(parent) for parent in PurePosixPath(full).parents if str(parent) != "."]
        for index in sorted(self._snapshots, reverse=True):
            snapshot = self._snapshots[index]
            if full in snapshot.entries:
                return snapshot.entries[full], snapshot.contents
            if full in snapshot.removed:
                return None, {}
            for parent in parents:
                if parent in snapshot.removed or parent in snapshot.opaque:
                    return None, {}
                above = snapshot.entries.get(parent)
                if above is not None and above.kind not in ("directory", "symlink"):
                    return None, {}
        return None, {}

    def _linked_parent(self, full: str) -> BaseFile | None:
        """The first parent below the package root that is a symlink."""
        below = PurePosixPath(full).relative_to(self.root).parents
        for parent in sorted((str(each) for each in below if str(each) != "."), key=len):
            entry, _ = self._entry(f"{self.root}/{parent}")
            if entry is not None and entry.kind == "symlink":
                return BaseFile(parent, "symlink", entry.mode, target=entry.target)
        return None

    def _base_file(self, path: str, entry: LayerEntry, contents: Mapping[str, bytes]) -> BaseFile:
        if entry.kind == "file" and not entry.digest:
            raise InputError(
                f"{path} in {self._name} is not a text file that an overlay can change",
                hint="it is larger than 8 MiB, or compiled",
            )
        return BaseFile(path, entry.kind, entry.mode, contents.get(entry.digest, b""), entry.target)

    # --- the package ------------------------------------------------------------------------------------------------

    def _find(self, config: Mapping[str, Any]) -> tuple[str, Distribution]:
        """Read from the top until the package and its dist-info are seen; choose among several places."""
        marker = re.compile(rf"(.*(?:site|dist)-packages)/{re.escape(self._package)}/__init__\.py")
        while True:
            roots = self._candidates(marker)
            if roots or not self._deeper():
                break
        if not roots:
            raise InputError(
                f"{self._name} has no Python package {self._package!r}",
                hint="check the recipe's 'base' and 'package'; editable installs cannot be patched",
            )
        root = _choose(sorted(roots), config, self._name)
        return root, roots[root]

    def _candidates(self, marker: re.Pattern[str]) -> dict[str, Distribution]:
        found: dict[str, Distribution] = {}
        for snapshot in self._snapshots.values():
            for path in snapshot.entries:
                match = marker.fullmatch(path)
                if match is None or self._entry(path)[0] is None:
                    continue
                distribution = self._dist_info(match[1])
                if distribution is not None:
                    found[match[1]] = distribution
        return found

    def _dist_info(self, root: str) -> Distribution | None:
        pattern = re.compile(rf"{re.escape(root)}/([^/]+)-([^/-]+)\.dist-info/RECORD")
        for snapshot in self._snapshots.values():
            for path in snapshot.entries:
                match = pattern.fullmatch(path)
                if match is not None and self._entry(path)[0] is not None:
                    return Distribution(match[1], match[2], f"{match[1]}-{match[2]}.dist-info")
        return None

    def _read_record(self) -> frozenset[str]:
        entry, contents = self._entry(f"{self.root}/{self.distribution.dist_info}/RECORD")
        data = contents.get(entry.digest, b"") if entry is not None else b""
        return frozenset(row[0] for row in csv.reader(io.StringIO(data.decode("utf-8", "replace"))) if row)

    def _find_python(self) -> str:
        match = re.search(r"python(3\.\d+)", self.root)
        if match is None:
            raise InputError(
                f"cannot tell the Python version of {self._name} from {self.root}",
                hint="the package is in an unusual place",
            )
        return match[1]


def _choose(roots: Sequence[str], config: Mapping[str, Any], name: str) -> str:
    """The root that the image's own Python imports from: PYTHONPATH, then the virtual environment, then the PATH's order."""
    if len(roots) == 1:
        return roots[0]
    settings = config.get("config") or {}
    environment = dict(each.split("=", 1) for each in settings.get("Env") or [] if "=" in each)
    places = [part.strip("/") for part in environment.get("PYTHONPATH", "").split(":") if part]
    for root in roots:
        if root in places:
            return root
    prefixes = [environment.get("VIRTUAL_ENV", "").strip("/")]
    prefixes += [str(PurePosixPath(part).parent).strip("/") for part in environment.get("PATH", "").split(":") if part]
    for prefix in filter(None, prefixes):
        inside = [root for root in roots if root.startswith(f"{prefix}/lib/")]
        if len(inside) == 1:
            return inside[0]
    raise InputError(
        f"{name} has the package in {len(roots)} places",
        details=[("place", f"/{root}") for root in roots],
        hint="use a base in which PATH, VIRTUAL_ENV or PYTHONPATH names one of them",
    )
