"""A recipe's `files:` -> what of a lock: text, of limited size, each at a place that nothing else has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from builder.base.model import PackageTree
from builder.documents.lock import MAX_FILE_BYTES, LockedAdded
from builder.documents.recipe import FileSpec, Recipe
from builder.pipeline.locking.base import OWN_FOLDER
from builder.util.errors import InputError, MismatchError
from builder.util.files import read_regular, sha256, unreadable
from builder.util.project import Project

FILES_FOLDER = f"{OWN_FOLDER}/files"
_MOST_TOGETHER = 16 << 20


def lock_files(
    project: Project, recipe: Recipe, tree: PackageTree, written: Collection[str]
) -> tuple[tuple[LockedAdded, ...], dict[str, tuple[bytes, int]]]:
    """Pin the recipe's files for one platform, and give their contents by path from `/`.

    `written` are paths that overlays and wheels write. Raises `InputError` for what is not text, too large, or in the way.
    """
    locked: list[LockedAdded] = []
    contents: dict[str, tuple[bytes, int]] = {}
    for spec in recipe.files:
        data = _read(project, spec.path)
        path = _place(recipe, spec, tree)
        if path in written:
            raise InputError(
                f"{spec.path} goes to /{path}, which an overlay or a wheel writes", hint="choose another `to:`"
            )
        locked.append(LockedAdded(source=spec.path, path=path, sha256=sha256(data), size=len(data)))
        contents[path] = (data, 0o644)
    if sum(len(data) for data, _ in contents.values()) > _MOST_TOGETHER:
        raise InputError(f"the recipe's files are larger than {_MOST_TOGETHER >> 20} MiB together")
    return tuple(locked), contents


def read_added(project: Project, locked: Sequence[LockedAdded]) -> dict[str, tuple[bytes, int]]:
    """The contents of locked files by path from `/`. Raises `MismatchError` when one is another one now."""
    found: dict[str, tuple[bytes, int]] = {}
    for each in locked:
        data = _read(project, each.source)
        if sha256(data) != each.sha256:
            raise MismatchError(
                f"{each.source} has changed since it was locked",
                details=[("wanted", each.sha256), ("found", sha256(data))],
                hint="run `builder lock` on the recipe and look at the difference",
            )
        found[each.path] = (data, 0o644)
    return found


def _read(project: Project, name: str) -> bytes:
    path = project.root / name
    if not path.is_file():
        raise InputError(
            f"there is no file {name}",
            details=[("looked", str(path))],
            hint="`files:` are relative to the project root",
        )
    try:
        data = read_regular(path, limit=MAX_FILE_BYTES, name=name)
        text = data.decode("utf-8")
    except OSError as error:
        raise unreadable(name, error) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not text: {error.reason} at byte {error.start}", hint="`files:` are UTF-8 text"
        ) from error
    if "\0" in text:
        raise InputError(f"{name} is not text: it has a null byte", hint="`files:` are UTF-8 text")
    return data


def _place(recipe: Recipe, spec: FileSpec, tree: PackageTree) -> str:
    """Where a file goes, from `/`. Raises `InputError` when the base has something there, or not the folder that it names."""
    if spec.package is None:
        return f"{FILES_FOLDER}/{spec.name}"
    if spec.package not in recipe.packages:
        raise InputError(
            f"{spec.path} goes into the package {spec.package}, which the recipe does not have",
            hint=f"the recipe's packages: {', '.join(recipe.packages)}",
        )
    inside = f"{spec.package}/{spec.name}"
    parts = inside.split("/")
    parents = ["/".join(parts[:at]) for at in range(1, len(parts))]
    found = tree.read([inside, *parents])
    if inside in found:
        raise InputError(
            f"{spec.path} goes to {inside}, which the base has",
            hint="change it with an overlay, or choose another `to:`",
        )
    for path in parents:
        if path in found and found[path].kind != "directory":
            raise InputError(f"{spec.path} goes below {path}, which is a {found[path].kind} in the base")
    return f"{tree.root}/{inside}"
