"""Which wheel of a release an installer would take for a base's Python, C library and processor, and whether one fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.base.installed import Libc
from builder.base.project_page import project_page
from builder.base.wheel import local_link
from builder.base.wheel_archive import WheelLink
from builder.documents.reference import Platform
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from builder.util.files import cache_dir, file_sha256
from builder.util.redact import without_secrets

if TYPE_CHECKING:
    from packaging.tags import Tag
    from packaging.version import Version

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_OLD = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_NEWEST_GLIBC = 60
_OLDEST_GLIBC = 5


def supported_tags(python: str, platform: Platform, libc: Libc) -> list[Tag]:
    """The tags that fit, the best first. Where nothing tells the C library's version, every one counts as fitting."""
    from packaging.tags import compatible_tags, cpython_tags

    major, minor = (int(part) for part in python.split("."))
    platforms = list(_platforms(_MACHINES.get(platform.architecture, platform.architecture), libc))
    return [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), interpreter=f"cp{major}{minor}", platforms=platforms),
    ]


def _platforms(machine: str, libc: Libc) -> Iterator[str]:
    if libc.kind == "musl":
        for minor in range(libc.version[1] if libc.version else 2, -1, -1):
            yield f"musllinux_1_{minor}_{machine}"
    else:
        for minor in range(libc.version[1] if libc.version else _NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _OLD:
                yield f"{_OLD[minor]}_{machine}"
    yield f"linux_{machine}"


def check_tags(
    filename: str, tags: Sequence[Tag] | frozenset[Tag], python: str, platform: Platform, libc: Libc
) -> None:
    """Raise `InputError` when a wheel's tags do not fit the base."""
    if not set(tags) & set(supported_tags(python, platform, libc)):
        version = f"{libc.kind} {libc.version[0]}.{libc.version[1]} ({libc.source})" if libc.version else libc.kind
        raise InputError(
            f"{filename} does not fit the base",
            details=[
                ("wheel", ", ".join(sorted(map(str, tags))[:4])),
                ("base", f"Python {python}, {platform}, {version}"),
            ],
            hint="name a wheel that is built for this Python, processor and C library, or one with the tags py3-none-any",
        )


def find_installable(
    what: str, python: str, platform: Platform, libc: Libc, *, root: Path, context: Context
) -> WheelLink:
    """The wheel that `NAME==VERSION` or a file below `root` names, as the index or the folder has it now.

    Raises `InputError` when there is none that fits the base.
    """
    if what.endswith(".whl"):
        return local_link(root / what)
    name, _, version = what.partition("==")
    if context.offline:
        raise InputError(
            f"--offline: {what} has to be asked for at the package index", hint="run once with the network"
        )
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    order = {tag: place for place, tag in enumerate(supported_tags(python, platform, libc))}
    versions: list[Version] = []
    fitting: list[tuple[int, tuple[int, str] | tuple[()], WheelLink]] = []
    others: list[str] = []
    for package in project_page(name).packages:
        if package.package_type != "wheel" or not package.digests.get("sha256"):
            continue
        try:
            _, found, build, tags = parse_wheel_filename(package.filename)
            versions.append(found)
            wanted = Version(version)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if found != wanted:
            continue
        places = [order[tag] for tag in tags if tag in order]
        if places:
            link = WheelLink(without_secrets(package.url), package.filename, package.digests["sha256"])
            fitting.append((-min(places), build, link))
        else:
            others.append(package.filename)
    if fitting:
        return max(fitting, key=lambda each: (each[0], each[1]))[2]
    if others:
        raise InputError(
            f"no wheel of {name} {version} fits Python {python} on {platform}",
            details=[("wheel", each) for each in others[:5]],
            hint="name another version, or a wheel that you have built: wheels/NAME.whl",
        )
    near = sorted(set(versions), reverse=True)[:5]
    raise InputError(
        f"the package index has no wheel of {name} {version}",
        hint=f"the newest that it has: {', '.join(map(str, near)) or 'none'}",
    )


def locked_wheel(what: str, filename: str, digest: str, *, root: Path, context: Context) -> WheelLink:
    """The wheel of a lock: by its digest from the cache, else from its folder or the index, by its file name.

    Raises `MismatchError` when what is there now is another one.
    """
    if what.endswith(".whl"):
        link = local_link(root / what)
        if link.sha256 != digest:
            raise MismatchError(
                f"{what} is not the wheel that was locked",
                details=[("wanted", digest), ("found", link.sha256)],
                hint="run `builder lock` and look at the difference",
            )
        return link
    kept = cache_dir("wheels") / filename
    if kept.is_file() and file_sha256(kept) == digest:
        return WheelLink(kept.as_uri(), filename, digest)
    if context.offline:
        raise InputError(f"--offline: {filename} is not in the cache", hint="run once with the network")
    for package in project_page(what.partition("==")[0]).packages:
        if package.filename == filename:
            found = package.digests.get("sha256")
            if found != digest:
                raise MismatchError(
                    f"the package index has another {filename} than was locked",
                    details=[("wanted", digest), ("found", str(found))],
                    hint="a file of an index never changes: find out which one is right before you lock again",
                )
            return WheelLink(without_secrets(package.url), filename, digest)
    raise MismatchError(
        f"the package index no longer has {filename}", hint="keep the wheel in the project: `wheels: [wheels/NAME.whl]`"
    )
