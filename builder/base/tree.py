"""The package tree of an image, put together from its layers.

An image on disk is read whole: it is checked anyhow. Of an image in a registry, layers are read from the top down and no
further than needed: once a layer has brought the distribution's RECORD, what lies below it matters only for files that
RECORD lists and that were not seen yet. That holds where nothing in the environment points Python to other places; where
something does, every layer is read. The bottom layer, the small one with the root file system, is read as well, so that
its folders are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from builder.base.filter import Filter
from builder.base.interpreter import Interpreter, find_interpreter, first_places, is_plain, path_files, resolve
from builder.base.merged import MergedLayers, parents
from builder.base.model import BaseFile, Distribution, EntryKind
from builder.base.record import read_record
from builder.base.snapshot import LayerEntry, Snapshot
from builder.oci.document import ImageConfig
from builder.oci.types import Descriptor
from builder.util.errors import InputError

ReadLayer = Callable[[Descriptor, Filter, str | None], Snapshot]
"""Reads a layer; the last argument is its diff id, to be checked."""


@dataclass(frozen=True)
class _Place:
    """A folder that a Python may import the package from. `why_not` says why it cannot be patched, or is empty."""

    root: str
    distribution: Distribution | None
    why_not: str = ""


class LayeredTree:
    """A `PackageTree` over an image's layers (bottom first, as the manifest has them).

    `further` are other packages that `beside` is asked for: the layers are read once for all of them.
    Raises `InputError` when the package that the image's Python imports is not one that can be patched.
    """

    def __init__(
        self,
        layers: Sequence[Descriptor],
        config: ImageConfig,
        package: str,
        read: ReadLayer,
        name: str,
        *,
        whole: bool = False,
        further: Sequence[str] = (),
        listing: bool = False,
    ) -> None:
        self._package = package
        self._name = name
        self._environment = config.environment
        self._user = str(config.settings.get("User") or "")
        self._first = first_places(config.settings, self._environment)
        self._filter = Filter(package, self._first)
        self._further = tuple(further)
        self._listing = listing
        diff_ids = config.diff_ids

        def read_layer(index: int, descriptor: Descriptor, wanted: Filter) -> Snapshot:
            return read(descriptor, wanted, diff_ids[index] if index < len(diff_ids) else None)

        self._layers, self._read_layer = layers, read_layer
        self._merged = MergedLayers(layers, self._kept(self._first), read_layer, name)
        if whole or listing or self._first or not is_plain(self._environment):
            self._merged.read_all()
        self.root, self.distribution, self.python = self._find()
        self._record = self._read_record()

    def beside(self, package: str) -> LayeredTree:
        """The tree of another package of the same image, one of `further`. Raises as making a tree does."""
        other = copy(self)
        other._package = package
        other._filter = Filter(package, self._filter.places)
        other.root, other.distribution, other.python = other._find()
        other._record = other._read_record()
        return other

    def _kept(self, places: Collection[str]) -> Filter:
        """What is kept of each layer: this package and those that `beside` is asked for."""
        return Filter(self._package, places, further=self._further, listing=self._listing)

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        found: dict[str, BaseFile] = {}
        for path in paths:
            full = f"{self.root}/{path}"
            self._look_for(full, listed=path in self._record)
            blocked = self._linked_parent(path)
            if blocked is not None:
                found[blocked.path] = blocked
                continue
            entry = self._merged.entry(full)
            if entry is not None:
                found[path] = self._base_file(path, entry)
        return found

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        full = f"{self.root}/{folder}" if folder else self.root
        return {name: _kind(entry) for name, entry in self._merged.names(full).items()}

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        self._merged.read_bottom()
        found: dict[str, BaseFile] = {}
        for path in paths:
            entry = self._merged.entry(path)
            if entry is not None:
                found[path] = BaseFile(path, _kind(entry), entry.mode, self._merged.content(entry), entry.target)
        return found

    def _look_for(self, full: str, *, listed: bool) -> None:
        """Read on until a layer decides what a path is that RECORD lists or the bottom layer has, or every layer is read."""
        found = self._merged.find(full)
        while (listed or found.layer >= 0) and not self._merged.is_decided(found) and self._merged.deeper():
            found = self._merged.find(full)

    def _linked_parent(self, path: str) -> BaseFile | None:
        """The first parent below the package root that is not a folder."""
        for parent in reversed(parents(path)):
            entry = self._merged.entry(f"{self.root}/{parent}")
            if entry is not None and entry.kind == "symlink":
                return BaseFile(parent, "symlink", entry.mode, target=entry.target)
        return None

    def _base_file(self, path: str, entry: LayerEntry) -> BaseFile:
        if entry.kind == "file" and not entry.digest:
            raise InputError(
                f"{path} in {self._name} is not a text file that an overlay can change",
                hint="it is larger than 8 MiB, or compiled",
            )
        return BaseFile(path, _kind(entry), entry.mode, self._merged.content(entry), entry.target)

    # --- the package ------------------------------------------------------------------------------------------------

    def _find(self) -> tuple[str, Distribution, str]:
        """Read from the top until a place with the package is seen; then choose the one that Python imports."""
        while not any(place.distribution for place in self._places()) and self._merged.deeper():
            pass
        places = self._places()
        if len(places) != 1 or places[0].distribution is None or not places[0].root.startswith("usr/"):
            # What decides, or what is imported instead, may be in the layers below.
            self._merged.read_all()
            places = self._places()
        self._merged.read_bottom()
        python = self._interpreter(places)
        # Behind a link, a site folder may have any name.
        moved = [place for place in python.places if not self._filter.is_place(place)]
        if moved:
            self._read_again(moved)
            places = self._places()
            python = self._interpreter(places)
        added = path_files(self._merged, python.places, self._merged.names)
        if added:
            more = [path for paths in added.values() for path in paths]
            if not set(more) <= set(self._filter.places):
                self._read_again(more)
            places = self._places(more)
            order = [each for place in python.places for each in (place, *added.get(place, ()))]
            python = replace(python, places=tuple(dict.fromkeys(order)))
        if not places:
            self._refuse_namespace()
        chosen = choose(places, python, self._environment.get("VIRTUAL_ENV", "").strip("/"), self._name, self._package)
        assert chosen.distribution is not None  # noqa: S101  `choose` takes no other
        self._check_way(chosen.root)
        version = _version(chosen.root) or python.version
        if not version:
            raise InputError(
                f"cannot tell the Python version of {self._name} from {chosen.root}",
                hint="the package is in an unusual place, and python3 does not say which Python it is",
            )
        return chosen.root, chosen.distribution, version

    def _read_again(self, more: Sequence[str]) -> None:
        """Read every layer once more, for further places that the package may be imported from."""
        self._filter = Filter(self._package, [*self._filter.places, *more])
        self._merged = MergedLayers(self._layers, self._kept(self._filter.places), self._read_layer, self._name)
        self._merged.read_all()

    def _interpreter(self, places: Sequence[_Place]) -> Interpreter:
        versions = [found for each in places if (found := _version(each.root))]
        return find_interpreter(self._merged, self._environment, self._first, self._user, versions)

    def _refuse_namespace(self) -> None:
        """Say that what would be the package has no `__init__.py`, rather than that there is none."""
        part = re.compile(rf"(.+)/{re.escape(self._package)}/[^/]+\.py")
        for path in sorted(self._merged.paths):
            match = part.fullmatch(path) if self._filter.inside(path) else None
            if match is not None and self._merged.entry(path) is not None:
                raise InputError(
                    f"{self._name} has /{match[1]}/{self._package} without an __init__.py: that cannot be patched",
                    hint=f"use a base in which {self._package} is installed whole, from a wheel",
                )

    def _check_way(self, root: str) -> None:
        """The path that is written must be the one that a container resolves: no link may be on the way to it."""
        link = self._merged.link_above(f"{root}/{self._package}/__init__.py")
        if link is not None:
            raise InputError(
                f"{self._name} has the package in /{root}, below the link /{link} of another layer",
                hint="where a layer's files below a link go depends on who unpacks it: do not use this base",
            )

    def _places(self, added: Sequence[str] = ()) -> list[_Place]:
        """Every folder that has the package, or what a Python could import instead of it; sorted by folder.

        `added` are what `.pth` files name. Of zip files among them, and in PYTHONPATH, nothing is known.
        """
        roots: dict[str, str] = {}
        for each in (*self._first, *added):
            found = resolve(self._merged, each)
            entry = self._merged.entry(found) if found else None
            if found and entry is not None and entry.kind in ("file", "hardlink"):
                roots[found] = "as a zip file, or what may be one"
        for path in self._merged.paths:
            if not self._filter.wants(path):
                continue
            folder, _, name = path.rpartition("/")
            if name == "__init__.py" and folder.endswith(f"/{self._package}"):
                folder, why = folder.removesuffix(f"/{self._package}"), ""
                if folder.endswith(".egg"):
                    folder, why = folder.rpartition("/")[0], "installed as an egg"
            else:
                why = self._odd(path, name)
                if not why:
                    continue
                if folder.endswith(".dist-info"):
                    folder = folder.rpartition("/")[0]
            if self._merged.entry(path) is not None and (folder not in roots or not why):
                roots[folder] = why
        return [self._place(root, why) for root, why in sorted(roots.items())]

    def _odd(self, path: str, name: str) -> str:
        """Why an entry beside the package replaces it in a form that cannot be patched; empty when it does not."""
        low, package = name.lower().replace("-", "_"), self._package.lower().replace("-", "_")
        if name == self._package and self._filter.inside(path):
            entry = self._merged.entry(path)
            if entry is not None and entry.kind == "symlink":
                return f"a link to {entry.target}"
            return ""
        if low.startswith((f"__editable__.{package}", f"__editable___{package}")) or low in (
            f"{package}.egg_link", f"_{package}.pth", f"{package}.pth",
        ):  # fmt: skip
            return "installed in editable form"
        if re.fullmatch(rf"{re.escape(package)}_.*\.egg", low):
            return "installed as an egg (a zip file or a folder of its own)"
        if name == "direct_url.json" and re.search(r'"editable"\s*:\s*true', self._merged.text(path)):
            return "installed in editable form"
        return ""

    def _place(self, root: str, why_not: str) -> _Place:
        try:
            found = self._distributions(root)
        except InputError as error:
            return _Place(root, None, error.message)
        present = self._merged.entry(f"{root}/{self._package}/__init__.py") is not None
        if present and len(found) == 1:
            return _Place(root, found[0])
        if present and not found:
            return _Place(root, None, why_not or "without a distribution that has a RECORD")
        if present:
            names = ", ".join(each.dist_info for each in found)
            return _Place(root, None, f"with {len(found)} distributions that list it: {names}")
        return _Place(root, None, why_not or "without the package itself")

    def _distributions(self, root: str) -> list[Distribution]:
        """The distributions in `root` whose RECORD lists the package; the only one there is, when none lists it."""
        pattern = re.compile(rf"{re.escape(root)}/([^/]+)-([^/-]+)\.dist-info/RECORD")
        found: list[Distribution] = []
        owners: list[Distribution] = []
        for path in sorted(self._merged.paths):
            match = pattern.fullmatch(path)
            entry = self._merged.entry(path) if match is not None else None
            if match is None or entry is None:
                continue
            distribution = Distribution(match[1], match[2], f"{match[1]}-{match[2]}.dist-info")
            if self._filter.inside(path):
                found.append(distribution)
            data = self._merged.content(entry)
            if not self._filter.inside(path) and not self._filter.is_listed(data):
                continue
            rows = read_record(data, f"/{path}", root=root)
            if any(row.path == f"{self._package}/__init__.py" for row in rows):
                owners.append(distribution)
        return owners or found

    def _read_record(self) -> frozenset[str]:
        path = f"{self.root}/{self.distribution.dist_info}/RECORD"
        entry = self._merged.entry(path)
        if entry is None or entry.kind != "file" or not entry.digest:
            raise InputError(
                f"/{path} in {self._name} is not a file that can be read", hint="it is larger than 8 MiB, or a link"
            )
        return frozenset(row.path for row in read_record(self._merged.content(entry), f"/{path}", root=self.root))


def choose(places: Sequence[_Place], python: Interpreter, environment: str, name: str, package: str) -> _Place:
    """The place that the image's own Python imports from; `environment` is VIRTUAL_ENV.

    Raises `InputError` when it cannot be patched, or when it cannot be told which one that is, with all of them named.
    """
    whole = [place for place in places if place.distribution is not None]
    by_root = {place.root: place for place in places}
    first = next((by_root[place] for place in python.places if place in by_root), None)
    if first is not None:
        inside = [place for place in whole if environment and place.root.startswith(f"{environment}/")]
        if first.distribution is None:
            raise _refused(first, places, name, package)
        if not inside or first in inside:
            return first
        raise _undecided(places, python, name, "VIRTUAL_ENV names another one than python3 imports")
    if len(whole) == 1 and (len(places) == 1 or not python.places):
        return whole[0]
    if python.program is None and environment:
        inside = [place for place in places if place.root.startswith(f"{environment}/lib")]
        if len(inside) == 1 and inside[0].distribution is not None:
            return inside[0]
    if not whole and places:
        raise _refused(places[0], places, name, package)
    if places:
        raise _undecided(places, python, name, "python3 imports from none of them")
    raise InputError(
        f"{name} has no Python package {package!r}",
        hint="check the recipe's 'base' and 'package'; editable installs cannot be patched",
    )


def _refused(place: _Place, places: Sequence[_Place], name: str, package: str) -> InputError:
    return InputError(
        f"{name} has {package} in /{place.root} {place.why_not}: that cannot be patched",
        details=_named(places),
        hint=f"use a base in which {package} is installed from a wheel, in the environment that python3 uses",
    )


def _undecided(places: Sequence[_Place], python: Interpreter, name: str, why: str) -> InputError:
    return InputError(
        f"{name} has the package in {len(places)} places",
        details=[
            ("why", why),
            ("python3", f"/{python.program}" if python.program is not None else "none in PATH"),
            *_named(places),
        ],
        hint="use a base in which PATH or PYTHONPATH leads python3 to one of them",
    )


def _named(places: Sequence[_Place]) -> list[tuple[str, str]]:
    return [("place", f"/{place.root}" + (f" ({place.why_not})" if place.why_not else "")) for place in places]


def _version(root: str) -> str:
    match = re.search(r"python(3\.\d+)(?:/|$)", root)
    return match[1] if match is not None else ""


def _kind(entry: LayerEntry) -> EntryKind:
    return "other" if entry.kind == "hardlink" else entry.kind
