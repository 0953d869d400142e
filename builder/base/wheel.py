"""A wheel as a base: the package's files, read member by member over HTTP ranges. There is no image behind it.

A range proves nothing about the wheel that it comes from. So a wheel is read whole once and checked against the
index's SHA-256, and what binds its members is remembered: the list of them, and RECORD with the digest of each.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from builder.base.model import BaseFile, BaseImage, Distribution, EntryKind, PackageTree
from builder.base.project_page import project_page
from builder.base.together import together
from builder.base.wheel_archive import (
    WheelLink,
    download,
    in_order,
    local_path,
    open_wheel,
    other_wheel,
)
from builder.base.wheel_index import MEMBER_LIMIT, WheelIndex, index_of, read_index, write_index
from builder.documents.lock import wheels_digest
from builder.documents.reference import BaseReference, Platform
from builder.oci.types import OCI_CONFIG, OCI_MANIFEST, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from builder.util.files import ContentCache, cache_dir, file_sha256, sha256, write_file
from builder.util.redact import without_secrets

if TYPE_CHECKING:
    from packaging.version import Version

# Where the official vLLM image has its packages, and its Python (read from that image's config and history).
OFFICIAL_ROOT = "usr/local/lib/python3.12/dist-packages"
OFFICIAL_PYTHON = "3.12"

# What was read of an open wheel by range, for the next reader of the same one.
_INDEXES: WeakKeyDictionary[zipfile.ZipFile, WheelIndex] = WeakKeyDictionary()
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class WheelBase:
    """`wheel:NAME==VERSION` from the package index, or `wheel:PATH` for a local file; or several of them."""

    def __init__(self, reference: BaseReference, *, root: Path, context: Context) -> None:
        self.reference = reference.text
        self._names = reference.wheels
        self._root = root
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        """An image without layers that represents the wheel; its digest is the wheel's, or that of the list of wheels."""
        wheels = tuple((link.filename, link.sha256) for link in self._links(platform))
        config = json.dumps(
            {
                "architecture": platform.architecture,
                "os": platform.os,
                **({"variant": platform.variant} if platform.variant else {}),
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": []},
            },
            separators=(",", ":"),
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": Descriptor(OCI_CONFIG, f"sha256:{sha256(config)}", len(config)).as_json(),
                "layers": [],
            },
            separators=(",", ":"),
        ).encode()
        return BaseImage(
            reference=self.reference,
            digest=f"sha256:{wheels[0][1] if len(wheels) == 1 else wheels_digest(wheels)}",
            manifest=Descriptor(OCI_MANIFEST, f"sha256:{sha256(manifest)}", len(manifest)),
            manifest_bytes=manifest,
            config_bytes=config,
            platform=platform,
            wheels=wheels,
        )

    def tree(self, platform: Platform, package: str, *further: str, listing: bool = False) -> PackageTree:  # noqa: ARG002
        links = self._links(platform)
        if len(links) == 1 and not further:
            return WheelTree(links[0], package, context=self._context)
        return together({each: self._tree_of(each, links) for each in (package, *further)}, self.reference)

    def every(self, platform: Platform) -> list[WheelTree]:
        """The tree of each wheel, to read what its distribution says of itself."""
        return [WheelTree(link, "", context=self._context) for link in self._links(platform)]

    def check(self, platform: Platform) -> None:
        """Read every wheel whole, once per wheel, and check it; its tree then takes nothing that is not bound to it.

        Raises `MismatchError` when it is not the wheel that the index names, `UnreachableError` when it cannot be read.
        """
        for link in self._links(platform):
            check_wheel(link, context=self._context)

    def _tree_of(self, package: str, links: Sequence[WheelLink]) -> WheelTree:
        """The tree of the one wheel that has a package. Raises `InputError` when none has it, or several do."""
        trees = [WheelTree(link, package, context=self._context) for link in links]
        found = [(link, tree) for link, tree in zip(links, trees, strict=True) if tree.has(package)]
        if len(found) != 1:
            raise InputError(
                f"{self.reference} has "
                + (f"no package {package!r}" if not found else f"the package {package!r} in {len(found)} wheels"),
                details=[("wheel", link.filename) for link in ([each for each, _ in found] or links)],
                hint=f"add its wheel to the recipe's base: {self.reference}+NAME==VERSION"
                if not found
                else "name one of these wheels in the recipe's base",
            )
        (_, chosen), *_ = found
        return WheelTree(
            chosen.link, package, context=self._context, beside=[tree for tree in trees if tree is not chosen]
        )

    def checked(self, platform: Platform) -> bool:
        """Whether every wheel was read whole and checked before."""
        return all(read_index(link.sha256) is not None for link in self._links(platform))

    def blob(self, image: BaseImage, descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]:
        raise InputError(f"{image.reference} has no blob {descriptor.digest}", hint="a wheel base has no layers")

    def _links(self, platform: Platform) -> tuple[WheelLink, ...]:
        return tuple(self._link(name, platform) for name in self._names)

    def _link(self, what: str, platform: Platform) -> WheelLink:
        if what.endswith(".whl"):
            return local_link(self._root / what)
        name, _, version = what.partition("==")
        return find_wheel(name, version, platform, context=self._context)


def local_link(path: Path) -> WheelLink:
    if not path.is_file():
        raise InputError(f"there is no wheel {path}", hint="a wheel base is wheel:NAME==VERSION or wheel:PATH.whl")
    return WheelLink(path.resolve().as_uri(), path.name, file_sha256(path))


def find_wheel(name: str, version: str, platform: Platform, *, context: Context) -> WheelLink:
    """The wheel of a release for a platform: found in the cache (a release never changes), else in the package index.

    Raises `InputError` when there is none, `UnreachableError` when the index does not respond.
    """
    remembered = cache_dir("wheels") / f"{name}-{version}-{platform.os}-{platform.architecture}.json"
    if remembered.is_file():
        try:
            return WheelLink(**json.loads(remembered.read_text()))
        except (ValueError, TypeError):
            remembered.unlink(missing_ok=True)
    if context.offline:
        raise InputError(
            f"--offline: where the wheel of {name} {version} is, is not in the cache", hint="run once with the network"
        )
    context.console.detail(f"looking for the wheel of {name} {version}")
    link = choose_wheel(name, version, platform)

    write_file(remembered, json.dumps(link.__dict__).encode())
    return link


def choose_wheel(name: str, version: str, platform: Platform) -> WheelLink:
    """The wheel that the package index has now. Raises as `find_wheel` does."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    page = project_page(name)
    machine = _MACHINES.get(platform.architecture, platform.architecture)
    found = []
    for package in page.packages:
        if package.package_type != "wheel" or package.version != version:
            continue
        try:
            _, _, build, tags = parse_wheel_filename(package.filename)
        except InvalidWheelFilename:
            continue
        platforms = {tag.platform for tag in tags}
        fits = "any" in platforms or any(re.search(rf"linux.*_{machine}$", each) for each in platforms)
        if fits and package.digests.get("sha256"):
            found.append((build, package.filename, package))
    if not found:
        raise InputError(
            f"there is no wheel of {name} {version} for {platform}",
            hint=_offer(version, {package.version for package in page.packages if package.version}),
        )
    _, filename, package = max(found, key=lambda each: (each[0], each[1]))
    return WheelLink(without_secrets(package.url), filename, package.digests["sha256"])


def _version(text: str) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


def _offer(wanted: str, known: Collection[str]) -> str:
    """Which versions there are, for one that is not: the nearest of the same release line first, then the newest."""
    versions = sorted((each for each in map(_version, known) if each is not None), reverse=True)
    finals = [each for each in versions if not each.is_prerelease] or versions
    if not finals:
        return "the index has none: check the name"
    asked = _version(wanted)
    near = [each for each in finals if asked is not None and each.release[:2] == asked.release[:2]][:2]
    shown = list(dict.fromkeys([*near, *finals[:3]]))
    return f"the index has {', '.join(map(str, shown))}"


def check_wheel(link: WheelLink, *, context: Context) -> WheelIndex:
    """What binds the members of a wheel to its digest: remembered, else found by reading the whole wheel once.

    Raises `MismatchError` when the wheel is not the one that the index names.
    """
    known = read_index(link.sha256)
    if known is not None:
        return known
    if link.url.startswith("file:"):
        if file_sha256(local_path(link)) != link.sha256:
            raise other_wheel(link, "another digest")
        with open_wheel(link, context=context) as archive:
            found = index_of(archive, link.filename)
    else:
        if context.offline:
            raise InputError(
                f"--offline: {link.filename} was not checked against its digest yet",
                hint="run `builder lock` once with the network",
            )
        with tempfile.TemporaryFile(dir=cache_dir("wheels")) as stream:
            download(link, stream, context)
            with zipfile.ZipFile(stream) as archive:
                found = index_of(archive, link.filename)
    write_index(link.sha256, found)
    return found


class WheelTree:
    """The package of a wheel. Every member that is read is checked against the wheel's RECORD.

    The RECORD is that of the checked wheel (`check_wheel`) when it was checked, else the one that a range gives.
    """

    root = OFFICIAL_ROOT
    python = OFFICIAL_PYTHON

    def __init__(
        self,
        link: WheelLink,
        package: str,
        *,
        context: Context | None = None,
        beside: Sequence[WheelTree] = (),
        by_range: bool = False,
    ) -> None:
        """With `by_range`, reading raises `RangesRefusedError` where the whole wheel would have to be downloaded."""
        self.link = link
        self._beside = beside
        self._package = package
        self._context = context or Context()
        self._by_range = by_range
        self._index: WheelIndex | None = None
        self._known: dict[str, bytes] = {}

    def _archive(self) -> AbstractContextManager[zipfile.ZipFile]:
        return open_wheel(self.link, context=self._context, by_range=self._by_range)

    @property
    def distribution(self) -> Distribution:
        info = self._opened().dist_info
        name, version = info.removesuffix(".dist-info").split("-", 1)
        return Distribution(name, version, info)

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        index = self._opened()
        folders = self._folders
        wanted = [path for path in paths if path in index.members and path not in self._known]
        cache = ContentCache()
        for path in list(wanted):
            kept = cache.get(index.digests.get(path, "-" * 64))
            if kept is not None:
                self._known[path] = kept
                wanted.remove(path)
        if wanted:
            if self._context.offline and not self.link.url.startswith("file:"):
                raise InputError(
                    f"--offline: {len(wanted)} files of {self.link.filename} are not in the cache",
                    details=[("missing", ", ".join(sorted(wanted)[:5]))],
                    hint="run once with the network",
                )
            with self._archive() as archive:
                for path in in_order(archive, wanted):
                    self._known[path] = self._read_member(archive, path, index)
        found = {
            path: BaseFile(path, "file", 0o755 if index.members[path] else 0o644, self._known[path])
            for path in paths
            if path in index.members
        }
        return found | {path: BaseFile(path, "directory", 0o755) for path in paths if path in folders}

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, EntryKind] = {}
        for path in self._opened().members:
            if path.startswith(prefix):
                head, slash, _ = path.removeprefix(prefix).partition("/")
                found[head] = "directory" if slash else "file"
        return found

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        """What the base's wheels have: there is nothing around them."""
        below = {path: path.removeprefix(f"{self.root}/") for path in paths if path.startswith(f"{self.root}/")}
        members = self._members().members
        found: dict[str, BaseFile] = {}
        for other in self._beside:
            found |= other.outside(paths)
        return found | {
            path: BaseFile(path, "file", 0o755 if members[name] else 0o644)
            for path, name in below.items()
            if name in members
        }

    def own(self, name: str) -> bytes:
        """A file of the wheel's own `*.dist-info`, such as METADATA; empty when it has none of that name."""
        index = self._members()
        path = f"{index.dist_info}/{name}"
        if path in index.members and path not in self._known:
            with self._archive() as archive:
                self._known[path] = self._read_member(archive, path, index)
        return self._known.get(path, b"")

    @property
    def dist_info(self) -> str:
        return self._members().dist_info

    def has(self, package: str) -> bool:
        """Whether the wheel has a package."""
        return f"{package}/__init__.py" in self._members().members

    @cached_property
    def _folders(self) -> set[str]:
        return {path[:at] for path in self._opened().members for at, letter in enumerate(path) if letter == "/"}

    def _opened(self) -> WheelIndex:
        """What binds the members. Raises `InputError` when the package is not among them."""
        if not self.has(self._package):
            raise InputError(
                f"{self.link.filename} has no package {self._package!r}", hint="check the recipe's 'package'"
            )
        return self._members()

    def _members(self) -> WheelIndex:
        """What binds the members, remembered or read by range."""
        if self._index is None:
            index = read_index(self.link.sha256)
            if index is None:
                with self._archive() as archive:
                    index = _INDEXES.get(archive) or index_of(archive, self.link.filename)
                    _INDEXES[archive] = index
            self._known[f"{index.dist_info}/RECORD"] = index.record
            self._index = index
        return self._index

    def _read_member(self, archive: zipfile.ZipFile, path: str, index: WheelIndex) -> bytes:
        """A member, checked against RECORD. Raises `MismatchError` when it is another, or when RECORD has no digest of it."""
        try:
            info = archive.getinfo(path)
            if info.file_size > MEMBER_LIMIT:
                raise InputError(f"{path} in {self.link.filename} is larger than {MEMBER_LIMIT >> 20} MiB")
            data = archive.read(info)
        except KeyError as error:
            raise other_wheel(self.link, f"one without {path}") from error
        wanted, found = index.digests.get(path), sha256(data)
        if wanted != found:
            raise MismatchError(
                f"{path} in {self.link.filename} is not what the wheel's RECORD says",
                details=[("wanted", wanted or "RECORD has no SHA-256 of it"), ("found", found)],
                hint="try again; if it stays, the index or a proxy changes files",
            )
        return data
