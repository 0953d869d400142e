"""The base of a recipe, and what the stack makes of it -> the base of a lock."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath

from builder.base.model import BaseImage, Distribution, PackageTree
from builder.base.together import distributions
from builder.documents.lock import (
    LockedAdded,
    LockedDistribution,
    LockedFile,
    LockedInstall,
    LockedPackage,
    LockedPlatform,
)
from builder.oci.document import read_config
from builder.patch.model import StackResult
from builder.util.errors import InputError
from builder.util.files import ContentCache, sha256

# Where the entrypoint and the record are in the image.
OWN_FOLDER = "opt/builder"

# The earliest time that a zip member can have. A wheel base has no creation time, and 0 would let Python believe a
# stale .pyc (facts of CPython's importlib: source mtime and size are all that it compares).
_WHEEL_EPOCH = 315532800
_LAST_EPOCH = (1 << 33) - 1
"""The latest time of a USTAR header, of 11 octal digits: in the year 2242."""
_OFFSET = re.compile(r"(?:Z|[-+][0-9]{2}:[0-9]{2})$")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[-+][0-9]{2}:[0-9]{2})"
)


_DIST_INFO = re.compile(r"([A-Za-z0-9._-]+)-([A-Za-z0-9._+!]+)\.dist-info")


def epoch_of(image: BaseImage) -> int:
    """The one time of everything that is added: when the base was created, in seconds since 1970.

    A base without that time gets the earliest that is used. Raises `InputError` for one that no client would read.
    """
    created = read_config(image.config_bytes, f"the config of {image.reference}").created
    if created is None:
        return _WHEEL_EPOCH
    try:
        if not _RFC3339.fullmatch(created):
            raise ValueError("it is not RFC 3339 text")
        moment = datetime.fromisoformat(f"{created[:19]}{_OFFSET.findall(created)[0]}".replace("Z", "+00:00"))
        seconds = int((moment - datetime.fromtimestamp(0, UTC)).total_seconds())
        if seconds > _LAST_EPOCH:
            raise ValueError("it is later than a tar can say")
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"the config of {image.reference}: created: {created[:60]!r} is not a usable time: {error}",
            hint="use a base whose time of creation is a date such as 2026-04-20T10:00:00Z",
        ) from error
    return max(seconds, _WHEEL_EPOCH)


def lock_platform(
    image: BaseImage,
    tree: PackageTree,
    result: StackResult,
    cache: ContentCache,
    packages: tuple[str, ...],
    *,
    installed: Sequence[LockedInstall] = (),
    added: Sequence[LockedAdded] = (),
    unmet: Sequence[str] = (),
    more: Collection[str] = (),
) -> LockedPlatform:
    """Pin one platform: the image, the packages' place, and every file that a build will read or write.

    The content of what a build will read goes into the cache, so that a build on this machine reads nothing twice.
    `more` are the paths, from `/`, of what wheels and `files:` write.
    """
    cache.put(image.manifest_bytes)
    files = _locked_files(tree, result, cache)
    _refuse_hidden(tree, [file for file in files if file.before != file.after])
    own, *others = distributions(tree, packages[0]).items()
    records = dict.fromkeys(f"{each.dist_info}/RECORD" for _, each in (own, *others))
    written = [file.path for file in files if file.after is not None]
    return LockedPlatform(
        manifest=image.manifest.digest,
        manifest_size=image.manifest.size,
        manifest_type=image.manifest.media_type,
        config=f"sha256:{cache.put(image.config_bytes)}",
        root=tree.root,
        python=tree.python,
        distribution=_locked_distribution(tree, own[1], cache),
        further=tuple(
            LockedPackage(package=package, distribution=_locked_distribution(tree, each, cache))
            for package, each in others
        ),
        directories=() if image.wheels else _existing_directories(tree, [*written, *records], more),
        packages=_packages(tree),
        bytecode=_stale_bytecode(tree, [file.path for file in files if file.before != file.after]),
        installed=tuple(installed),
        added=tuple(added),
        unmet=tuple(unmet),
        files=files,
    )


def _locked_distribution(tree: PackageTree, found: Distribution, cache: ContentCache) -> LockedDistribution:
    path = f"{found.dist_info}/RECORD"
    record = tree.read([path]).get(path)
    return LockedDistribution(
        name=found.name,
        version=found.version,
        dist_info=found.dist_info,
        record=cache.put(record.data) if record is not None else None,
    )


def _locked_files(tree: PackageTree, result: StackResult, cache: ContentCache) -> tuple[LockedFile, ...]:
    changed = {file.path: file for file in result.files}
    owners: dict[str, list[str]] = {}
    for overlay in result.overlays:
        for path in overlay.files:
            owners.setdefault(path, []).append(overlay.id)
    # Files that a later overlay put back are read by a build too, though it does not write them.
    found = tree.read(sorted(owners))
    locked = []
    for path, ids in sorted(owners.items()):
        entry = found.get(path)
        before = cache.put(entry.data) if entry is not None else None
        after = before
        if path in changed:
            data = changed[path].after
            after = sha256(data) if data is not None else None
        if before is None and after is None:
            continue
        locked.append(
            LockedFile(
                path=path,
                before=before,
                after=after,
                executable=entry is not None and bool(entry.mode & 0o100),
                overlays=tuple(ids),
            )
        )
    return tuple(locked)


def _existing_directories(tree: PackageTree, paths: Collection[str], more: Collection[str] = ()) -> tuple[str, ...]:
    below = f"{tree.root}/"
    paths = [*paths, *(path.removeprefix(below) for path in more if path.startswith(below))]
    inside = {str(parent) for path in paths for parent in PurePosixPath(path).parents if str(parent) != "."}
    found = [f"{tree.root}/{path}" for path, entry in tree.read(sorted(inside)).items() if entry.kind == "directory"]
    above = [str(parent) for parent in PurePosixPath(tree.root).parents if str(parent) != "."]
    own = [OWN_FOLDER, *(str(parent) for parent in PurePosixPath(OWN_FOLDER).parents if str(parent) != ".")]
    elsewhere = {str(parent) for path in more if not path.startswith(below) for parent in PurePosixPath(path).parents}
    outside = tree.outside(sorted({*own, *(elsewhere - {"."})}))
    for path, entry in outside.items():
        if entry.kind != "directory":
            raise InputError(
                f"the base has a {entry.kind} at /{path}, where the layer needs a folder",
                hint=f"what the recipe adds and the entrypoint in /{OWN_FOLDER} need it; use a base without this entry",
            )
    return tuple(sorted({*found, *above, tree.root, *outside}))


def _packages(tree: PackageTree) -> tuple[str, ...]:
    """The distributions whose metadata is beside the package's, the package's own among them."""
    names = (_DIST_INFO.fullmatch(name) for name in tree.children(""))
    return tuple(sorted(f"{match[1]}=={match[2]}" for match in names if match is not None))


def _refuse_hidden(tree: PackageTree, changed: Sequence[LockedFile]) -> None:
    """Refuse a changed module that Python would not import: a package or a compiled module of its name comes first.

    Source: CPython's `FileFinder.find_spec` and `_get_supported_file_loaders`. Compiled modules that RECORD lists are refused
    where a diff is read; these were built in place.
    """
    version = tree.python.replace(".", "")
    first = re.compile(rf"(?:\.abi3|\.cpython-{version}-[^.]+)?\.so")
    children = lru_cache(maxsize=None)(tree.children)
    removed = {file.path for file in changed if file.after is None}
    for module in [
        PurePosixPath(file.path) for file in changed if file.after is not None and file.path.endswith(".py")
    ]:
        beside = children(str(module.parent))
        hiding = [name for name in beside if name.startswith(module.stem) and first.fullmatch(name[len(module.stem) :])]
        if beside.get(module.stem) == "directory" and "__init__.py" in children(str(module.with_suffix(""))):
            hiding.append(f"{module.stem}/__init__.py")
        hiding = [name for name in hiding if f"{module.parent}/{name}" not in removed]
        if hiding:
            raise InputError(
                f"a change of {module} would do nothing: Python imports {module.parent}/{hiding[0]} instead",
                hint="use a base without it, or change what is imported",
            )


def _stale_bytecode(tree: PackageTree, paths: Sequence[str]) -> tuple[str, ...]:
    stale: list[str] = []
    for path in paths:
        module = PurePosixPath(path)
        if module.suffix != ".py":
            continue
        folder = str(module.parent / "__pycache__")
        stale += [
            f"{folder}/{name}"
            for name in tree.children(folder)
            if name.startswith(f"{module.stem}.") and name.endswith(".pyc")
        ]
    return tuple(sorted(stale))
