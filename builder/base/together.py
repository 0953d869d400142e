"""Several packages of one base as one tree: each in its own distribution, all of them in one folder.

A path belongs to the package that its first folder names, or to the distribution whose `*.dist-info` it is in. Packages in
different folders (of the system's Python and of a virtual environment) are refused: one Python imports them all, and the
lock, the record and the entrypoint know one folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, runtime_checkable

from builder.base.model import BaseFile, Distribution, EntryKind, PackageTree
from builder.util.errors import InputError


@runtime_checkable
class Several(Protocol):
    """What a tree of several packages has beside what a `PackageTree` has."""

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """The distribution of each package."""


class Together:
    """A `PackageTree` of the trees of several packages, by package; the first one is the recipe's.

    Raises `InputError` when they are not in one folder.
    """

    def __init__(self, trees: Mapping[str, PackageTree], name: str) -> None:
        (package, first), *others = trees.items()
        self.root = first.root
        self.python = first.python
        self.distribution = first.distribution
        self.distributions: dict[str, Distribution] = {package: first.distribution}
        self._first = first
        self._trees: dict[str, PackageTree] = {package: first, first.distribution.dist_info: first}
        for other, tree in others:
            if tree.root != first.root or tree.python != first.python:
                raise InputError(
                    f"{name} has its packages in different folders",
                    details=[
                        ("place", f"/{each.root} has {which} (Python {each.python})")
                        for which, each in ((package, first), (other, tree))
                    ],
                    hint=f"use a base in which {other} is installed beside {package}, or patch it in a recipe of its own "
                    f"with 'package: {other}'",
                )
            self.distributions[other] = tree.distribution
            self._trees[other] = tree
            self._trees.setdefault(tree.distribution.dist_info, tree)

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        found: dict[str, BaseFile] = {}
        for tree, own in self._by_tree(paths):
            found |= tree.read(own)
        return found

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        if folder:
            return self._tree(folder).children(folder)
        return {name: kind for tree in self._each() for name, kind in tree.children("").items()}

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        return {path: entry for tree in self._each() for path, entry in tree.outside(paths).items()}

    def _tree(self, path: str) -> PackageTree:
        return self._trees.get(path.partition("/")[0], self._first)

    def _each(self) -> list[PackageTree]:
        return list({id(tree): tree for tree in self._trees.values()}.values())

    def _by_tree(self, paths: Collection[str]) -> list[tuple[PackageTree, list[str]]]:
        found: dict[int, tuple[PackageTree, list[str]]] = {}
        for path in paths:
            tree = self._tree(path)
            found.setdefault(id(tree), (tree, []))[1].append(path)
        return list(found.values())


def together(trees: Mapping[str, PackageTree], name: str) -> PackageTree:
    """One tree of the trees of one package or several; `name` is the base's, for messages. Raises as `Together` does."""
    return next(iter(trees.values())) if len(trees) == 1 else Together(trees, name)


def distributions(tree: PackageTree, package: str) -> dict[str, Distribution]:
    """The distribution of each package of a tree; `package` is the name of the first one."""
    return dict(tree.distributions) if isinstance(tree, Several) else {package: tree.distribution}


def packages_beside(tree: PackageTree, names: Iterable[str]) -> list[str]:
    """Those of `names` that are packages in the folder of a tree, as far as the base was read."""
    paths = {name: f"{tree.root}/{name}/__init__.py" for name in names if name.isidentifier()}
    found = tree.outside(list(paths.values())) if paths else {}
    return [name for name, path in paths.items() if path in found]
