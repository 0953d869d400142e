"""Files whose digest is known, from the cheapest source that has them: cache, wheel by range, the base itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from builder.base.model import BaseFile, PackageTree
from builder.base.streamed import LockedLayers
from builder.base.wheel import WheelTree, find_wheel
from builder.base.wheel_archive import RangesRefusedError
from builder.documents.reference import Platform
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, MismatchError
from builder.util.files import ContentCache, sha256


def read_locked(
    wanted: Mapping[str, str],
    *,
    cache: ContentCache,
    release: tuple[str, str, str] | None,
    platform: Platform,
    tree: Callable[[], PackageTree],
    layers: Callable[[], LockedLayers] | None = None,
    context: Context,
) -> dict[str, bytes]:
    """The content of `wanted` (path in the package tree -> SHA-256), every byte of it checked.

    `release` is the distribution's name and version, whose wheel has most files of most images, and the package that it is
    for (None when the base is a wheel itself); `layers` are those of a
    base in a registry, and `tree` opens the base: both are called only for what neither the cache nor the wheel has. Raises `MismatchError` when no source has a file.
    """
    found: dict[str, bytes] = {}
    for path, digest in wanted.items():
        data = cache.get(digest)
        if data is not None:
            found[path] = data
    if len(found) == len(wanted):
        return found
    if context.offline:
        missing = sorted(wanted.keys() - found.keys())
        raise InputError(
            f"--offline: {len(missing)} files of the base are not in the cache",
            details=[("missing", ", ".join(missing[:5]) + (" …" if len(missing) > 5 else ""))],
            hint="run once with the network",
        )

    def keep(entries: Mapping[str, bytes]) -> None:
        for path, data in entries.items():
            if sha256(data) == wanted.get(path):
                found[path] = data
                cache.put(data)

    why = "the base is the wheel" if release is None else ""
    if release is not None:
        try:
            keep(_from_wheel(release, platform, wanted.keys() - found.keys(), layers, context))
            why = "the wheel has other files than the base"
        except BuilderError as error:
            why = error.message
            context.console.detail(f"not from the wheel: {why}")
    left = {path: digest for path, digest in wanted.items() if path not in found}
    if left and layers is not None and not layers().kept:
        context.console.say(f"reading {len(left)} files out of the base's layers: {why}")
        keep(layers().read(left))
    if len(found) < len(wanted):
        keep(_contents(tree().read(sorted(wanted.keys() - found.keys()))))
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise MismatchError(
            f"the base does not have {len(missing)} files as they were locked",
            details=[("file", path) for path in missing[:10]],
            hint="the base has changed under its name: run `builder lock` and look at the difference",
        )
    return found


def _from_wheel(
    release: tuple[str, str, str],
    platform: Platform,
    paths: Collection[str],
    layers: Callable[[], LockedLayers] | None,
    context: Context,
) -> Mapping[str, bytes]:
    """Files out of a release's wheel: by range, or out of the whole wheel where that is less to read than the base's layers.

    Raises `RangesRefusedError` when the layers are less, and as reading a wheel does.
    """
    name, version, package = release
    link = find_wheel(name, version, platform, context=context)
    try:
        return _contents(WheelTree(link, package, context=context, by_range=True).read(sorted(paths)))
    except RangesRefusedError as refused:
        if layers is not None and layers().cost(refused.size) < refused.size:
            raise
    return _contents(WheelTree(link, package, context=context).read(sorted(paths)))


def _contents(entries: Mapping[str, BaseFile]) -> dict[str, bytes]:
    return {path: entry.data for path, entry in entries.items() if entry.kind == "file"}
