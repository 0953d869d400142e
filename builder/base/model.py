"""What the rest of this tool knows of a base: plain values, and the two protocols that every kind of base fulfils."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from builder.documents.reference import Platform
from builder.oci.types import Descriptor

EntryKind = Literal["file", "directory", "symlink", "other"]


@dataclass(frozen=True)
class BaseFile:
    """One entry of a base's file system. `data` is filled for regular files only, `target` for symlinks only."""

    path: str
    kind: EntryKind
    mode: int
    data: bytes = b""
    target: str = ""


@dataclass(frozen=True)
class Distribution:
    """The installed Python distribution that owns the package, as its `*.dist-info` says."""

    name: str
    version: str
    dist_info: str
    """Folder name beside the package, such as `vllm-0.20.0.dist-info`."""


class PackageTree(Protocol):
    """A package of one base for one platform, read entry by entry; of several packages, `distribution` is the first one's.

    All paths are relative to `root` with `/` between parts, such as `vllm/engine/arg_utils.py`.
    """

    @property
    def root(self) -> str:
        """The folder that holds the package, without a leading slash: `usr/local/lib/python3.12/dist-packages`."""

    @property
    def python(self) -> str:
        """The base's Python, `3.12`."""

    @property
    def distribution(self) -> Distribution:
        """The distribution that owns the package."""

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        """The entries among `paths` that exist, read in one go.

        When a parent of a path (below `root`) is a symlink, the result has that parent's path as a `symlink` entry,
        and not the path itself: nothing is ever read through a link.
        """

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        """Names directly inside `folder` and their kinds; empty when it does not exist. `""` is `root` itself."""

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        """Entries elsewhere in the image, by path from `/` without the leading slash (`opt`, `opt/builder`).

        Without data, but for `os-release` where it was kept.
        """


@dataclass(frozen=True)
class BaseImage:
    """A base image for one platform, pinned: the bytes of its manifest and config are at hand, its layers are not."""

    reference: str
    """As the recipe has it."""
    digest: str
    """The digest that the reference named: of the index when it is multi-arch, else of the manifest."""
    manifest: Descriptor
    manifest_bytes: bytes
    config_bytes: bytes
    platform: Platform
    wheels: tuple[tuple[str, str], ...] = ()
    """File name and SHA-256 of each wheel, for a `wheel:` base, which has no image: its manifest has no layers."""


@dataclass(frozen=True)
class Mirrors:
    """Repositories that have a pinned base too; `manifests` is platform -> manifest digest, for those without its index."""

    repositories: tuple[str, ...] = ()
    manifests: Mapping[str, str] = field(default_factory=dict)


class Base(Protocol):
    """A base, opened. Cheap to make; the network or disk is asked when a method needs it."""

    @property
    def reference(self) -> str:
        """As the recipe has it, with the digest when it is pinned."""

    def image(self, platform: Platform) -> BaseImage: ...

    def tree(self, platform: Platform, package: str, *further: str, listing: bool = False) -> PackageTree:
        """The tree of a package, or of several in one folder (`builder.base.together`). Raises `InputError` without one.

        With `listing`, METADATA, RECORD and WHEEL of every distribution in the folder can be read too.
        """

    def blob(self, image: BaseImage, descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one of the image's blobs, in chunks, as they are stored (compressed or not); digest checked at the end."""
