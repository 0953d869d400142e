"""Files whose digest is known, from the cheapest source that has them: cache, wheel by range, the base itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from builder.base.model import PackageTree
from builder.base.wheel import WheelTree, find_wheel
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
    context: Context,
) -> dict[str, bytes]:
    """The content of `wanted` (path in the package tree -> SHA-256), every byte of it checked.

    `release` is the distribution's name and version, whose wheel has most files of most images, and the package that it is
    for (None when the base is a wheel itself); `tree` opens the base
    and is called only for what neither the cache nor the wheel has. Raises `MismatchError` when no source has a file.
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
    sources: list[tuple[str, Callable[[], PackageTree]]] = [("the base", tree)]
    if release is not None:
        sources.insert(0, ("the wheel", lambda: _wheel_tree(release, platform, context)))
    for name, source in sources:
        missing = sorted(wanted.keys() - found.keys())
        if not missing:
            break
        try:
            entries = source().read(missing)
        except BuilderError as error:
            if name == "the base":
                raise
            context.console.detail(f"not from {name}: {error.message}")
            continue
        for path, entry in entries.items():
            if entry.kind == "file" and sha256(entry.data) == wanted.get(path):
                found[path] = entry.data
                cache.put(entry.data)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise MismatchError(
            f"the base does not have {len(missing)} files as they were locked",
            details=[("file", path) for path in missing[:10]],
            hint="the base has changed under its name: run `builder lock` and look at the difference",
        )
    return found


def _wheel_tree(release: tuple[str, str, str], platform: Platform, context: Context) -> PackageTree:
    name, version, package = release
    return WheelTree(find_wheel(name, version, platform, context=context), package)
