"""Locks: `images/NAME.lock.yaml`, everything that was resolved, with digests. A build reads nothing that the lock does not pin."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StringConstraints, model_validator

from builder.documents.profile import Profile
from builder.documents.recipe import (
    MAX_FILES,
    MAX_PACKAGES,
    MAX_STRIP,
    MAX_WHEELS,
    Folder,
    Requirements,
)
from builder.documents.reference import BaseReference, Platform, Reference
from builder.documents.values import Commit, Frozen, Licenses, Name, PackageName, Sha256, SourceAddress
from builder.documents.yamlfile import Document, parse_yaml, validate_document
from builder.util.errors import InputError
from builder.util.files import sha256

MAX_FILE_BYTES = 1 << 20
"""Bytes of a text file that a recipe adds."""
HEADER = "# Made by `builder lock`. Do not edit: change the recipe and run `builder lock` again.\n"
SCHEMA = 1

_LIMIT = 16 << 20
_LAST_SECOND = (1 << 33) - 1
"""The latest time that a tar header has room for: 11 octal digits."""
_MANIFEST_LIMIT = 8 << 20

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(max_length=10_000)]
"""Free text of a person or of GitHub."""
Short = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name on one line."""
DistributionName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Version = Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._!+]*$")]
WheelFile = Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9_.!+-]+\.whl$")]
DistInfo = Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._!+-]*\.dist-info$")]


def _plain(path: str) -> str:
    """A path below some folder: relative, without `.` and `..`, and short enough for any file system."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a relative path without '.' and '..'")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError(f"{path!r} has a control character")
    if len(path.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise ValueError("the path is longer than a file system takes")
    return path


PlainPath = Annotated[str, AfterValidator(_plain)]


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} is listed more than once")
        seen.add(name)


ABOUT = ("title", "author", "state", "why", "drop_when")
"""What every report shows of an overlay beside its id."""


class Rendering(Frozen):
    """The bytes that a diff came as, which GitHub renders differently over time. Nothing that is built follows from it."""

    via: Literal["compare", "pull", "git"]
    sha256: Sha256


class LockedOverlay(Frozen):
    """An overlay at a fixed state. `digest` is the SHA-256 of the diff's canonical form."""

    id: Short
    diff: PlainPath = Field(description="The vendored diff, relative to the project root.")
    digest: Sha256
    head: Commit | None = None
    merge_base: Commit | None = None
    strip: StrictInt = Field(default=1, ge=0, le=MAX_STRIP)
    under: Folder | None = None
    package: tuple[PackageName, ...] = Field(
        default=(),
        max_length=MAX_PACKAGES,
        description="The packages that it may change; the lock's `package` when absent.",
    )
    fuzz: StrictInt = Field(default=0, ge=0, le=3)
    accept_undelivered: dict[Short, Text] = Field(default={})
    headings: dict[Short, dict[Short, Text]] = Field(
        default={},
        description="Path: hunk number: the heading behind `@@` that settled which of several places is meant.",
    )
    unnamed: tuple[PackageName, ...] = Field(
        default=(), description="Packages of the base that the diff changes and the overlay does not name: left out."
    )
    requires: Requirements | None = None
    url: Short | None = None
    title: Text | None = None
    author: Text | None = None
    state: Text | None = Field(default=None, description="The pull request's state when it was locked.")
    base_branch: Text | None = None
    why: Text | None = None
    drop_when: Text | None = None
    origin: Text | None = Field(
        default=None, description="Where a local diff comes from: OWNER/REPOSITORY#NUMBER@HEAD."
    )
    rendering: Rendering | None = Field(
        default=None, description="The diff's bytes when it was locked, for `builder drift`."
    )

    def about(self) -> dict[str, str | None]:
        """What every report shows of an overlay beside its id."""
        return {key: getattr(self, key) for key in ABOUT}

    def summary(self) -> dict[str, str | None]:
        """The overlay in a command's JSON document."""
        return {"id": self.id, "digest": self.digest, **self.about()}


def about_line(facts: Mapping[str, Any]) -> str:
    """What is known of an overlay beside its id, in one line; empty when nothing is."""
    known = [(key, " ".join(str(facts[key]).split())) for key in ABOUT if facts.get(key)]
    return " · ".join(f"{key.replace('_', ' ')}: {value}" for key, value in known)


def overlay_lines(overlays: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each overlay of which more than its id is known. An overlay is a mapping with `id` and the facts."""
    lines = [(str(each["id"]), about_line(each)) for each in overlays]
    return [f"{name}  {line}" for name, line in lines if line]


class LockedFile(Frozen):
    """One file that the stack reads or writes. Digests are SHA-256; `before` is absent for a new file, `after` for a
    deleted one; equal ones mean that a later overlay took back what an earlier one did."""

    path: PlainPath
    before: Sha256 | None = None
    after: Sha256 | None = None
    executable: StrictBool = Field(default=False, description="Whether the base's file is executable.")
    overlays: tuple[Short, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.before is None and self.after is None:
            raise ValueError("a file has 'before', 'after' or both")
        return self


class LockedDistribution(Frozen):
    name: DistributionName
    version: Version
    dist_info: DistInfo
    record: Sha256 | None = Field(default=None, description="SHA-256 of the base's RECORD.")


class LockedInstall(Frozen):
    """A distribution that the layer brings, or takes away: all its files follow from the wheel, and are bound by RECORD."""

    id: Short = Field(description="As the recipe has it: NAME==VERSION, wheels/NAME.whl, or `remove NAME`.")
    name: DistributionName
    version: Version | None = Field(default=None, description="Absent for one that is removed.")
    file: WheelFile | None = None
    sha256: Sha256 | None = Field(default=None, description="Of the wheel.")
    dist_info: DistInfo | None = None
    record: Sha256 | None = Field(default=None, description="SHA-256 of RECORD as it is installed.")
    native: StrictBool = Field(default=False, description="Whether it has compiled parts, which nobody reads.")
    replaces: Short | None = Field(default=None, description="NAME==VERSION of what the base has instead.")
    executable: tuple[PlainPath, ...] = Field(default=(), description="Executable files, from `/`.")
    removed: tuple[PlainPath, ...] = Field(default=(), description="What of the base goes, from `/`; folders whole.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        parts = (self.version, self.file, self.sha256, self.dist_info, self.record)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("a distribution that is installed has version, file, sha256, dist_info and record")
        _unique("removed path", self.removed)
        return self


class LockedAdded(Frozen):
    """A text file of the recipe. `path` is where it goes, from `/`."""

    source: PlainPath
    path: PlainPath
    sha256: Sha256
    size: StrictInt = Field(ge=0, le=MAX_FILE_BYTES)


class LockedPackage(Frozen):
    """A package beside the lock's own that an overlay names. It is in the same folder: the platform's `root`."""

    package: PackageName
    distribution: LockedDistribution


class LockedPlatform(Frozen):
    """The base for one platform, and what the stack makes of its packages, whose paths are all relative to `root`."""

    manifest: Digest
    manifest_size: StrictInt = Field(ge=2, le=_MANIFEST_LIMIT)
    manifest_type: Literal[
        "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"
    ]
    config: Digest
    root: PlainPath
    python: str = Field(pattern=r"^3\.[0-9]{1,2}$")
    distribution: LockedDistribution
    further: tuple[LockedPackage, ...] = Field(
        default=(),
        max_length=MAX_PACKAGES,
        description="The other packages that overlays name, with their distributions.",
    )
    directories: tuple[PlainPath, ...] = Field(
        description="Folders that the base has among the parents of the layer's files."
    )
    packages: tuple[Annotated[Short, StringConstraints(pattern=r"^[^=]+==[^=]+$")], ...] = Field(
        default=(), description="Python distributions beside the package (NAME==VERSION), in what of the base was read."
    )
    bytecode: tuple[PlainPath, ...] = Field(default=(), description="Stale __pycache__ entries of changed modules.")
    installed: tuple[LockedInstall, ...] = Field(
        default=(), max_length=MAX_WHEELS, description="Distributions of the recipe's `wheels:`."
    )
    added: tuple[LockedAdded, ...] = Field(default=(), max_length=MAX_FILES, description="The recipe's `files:`.")
    unmet: tuple[Text, ...] = Field(
        default=(),
        max_length=1000,
        description="What the base's distributions require and do not have, before or after.",
    )
    files: tuple[LockedFile, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("file", (file.path for file in self.files))
        _unique("folder", self.directories)
        _unique("bytecode", self.bytecode)
        _unique("distribution", (each.name for each in self.installed))
        _unique("added file", (each.path for each in self.added))
        _unique("package", (each.package for each in self.further))
        owners = [self.distribution, *(each.distribution for each in self.further)]
        _unique("dist_info", (each.dist_info for each in dict.fromkeys(owners)))
        for path in self.bytecode:
            if not path.endswith(".pyc") or "__pycache__" not in path.split("/"):
                raise ValueError(f"{path!r} is not bytecode in a folder __pycache__")
        return self

    def distributions(self, package: str) -> dict[str, LockedDistribution]:
        """The distribution of each package; `package` is the lock's own, which comes first."""
        return {package: self.distribution, **{each.package: each.distribution for each in self.further}}


class LockedWheel(Frozen):
    """One of several wheels of a base."""

    file: WheelFile
    sha256: Sha256


def wheels_digest(wheels: Iterable[tuple[str, str]]) -> str:
    """What stands for several wheels, each a file name and a SHA-256: the SHA-256 of the list that `sha256sum` prints."""
    return sha256("".join(f"{digest}  {file}\n" for file, digest in wheels).encode())


class LockedBase(Frozen):
    """The base; `digest` is that of its index where it has one, else of its manifest, or a wheel's SHA-256.

    Of several wheels it is the SHA-256 of their list (`wheels_digest`).
    """

    reference: Short
    digest: Digest
    wheel: WheelFile | None = Field(default=None, description="File name of the wheel, whose SHA-256 is the digest.")
    wheels: tuple[LockedWheel, ...] = Field(
        default=(), max_length=MAX_PACKAGES, description="All wheels, when there are several; the first one is `wheel`."
    )
    trust_ranges: StrictBool = Field(
        default=False,
        description="Whether parts of the wheel were taken without checking the whole against its digest.",
    )
    mirrors: tuple[Short, ...] = Field(
        default=(),
        max_length=32,
        description="Repositories that have the base under the same digests: `builder mirror`.",
    )
    platforms: dict[str, LockedPlatform] = Field(min_length=1, max_length=32)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            kind = BaseReference.parse(self.reference).kind
            for name in self.platforms:
                Platform.parse(name)
            for name in self.mirrors:
                if kind != "registry" or not Reference.is_repository(name):
                    raise ValueError(f"{name!r} is not a repository that can mirror this base")
        except InputError as error:
            raise ValueError(error.message) from error
        if (kind == "wheel") != (self.wheel is not None):
            raise ValueError("'wheel' belongs to a wheel base, and to no other")
        if (len(self.parsed.wheels) if len(self.parsed.wheels) > 1 else 0) != len(self.wheels):
            raise ValueError("'wheels' has every wheel of a base that has several")
        listed = [(each.file, each.sha256) for each in self.wheels]
        if listed and (listed[0][0] != self.wheel or self.digest != f"sha256:{wheels_digest(listed)}"):
            raise ValueError("'digest' and 'wheel' are not those of the list of wheels")
        return self

    @property
    def parsed(self) -> BaseReference:
        return BaseReference.parse(self.reference)

    @property
    def pinned(self) -> BaseReference:
        """The base with its digest, where it has a registry."""
        return self.parsed.pinned(self.digest)


class LockedCheckpointFile(Frozen):
    path: PlainPath
    size: StrictInt = Field(ge=0, lt=1 << 53)
    sha256: Sha256


class LockedCheckpoint(Frozen):
    """The checkpoint. `digest` as docs/checkpoint.md defines it; `files` when its parts were seen."""

    digest: Sha256
    repo: Annotated[Short, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+$")] | None = None
    revision: Short | None = None
    path: Short | None = None
    oci: Annotated[Short, StringConstraints(pattern=r"^\S+@sha256:[0-9a-f]{64}$")] | None = None
    folder: PlainPath | None = None
    files: tuple[LockedCheckpointFile, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("checkpoint file", (file.path for file in self.files))
        return self


class Lock(Frozen):
    """Everything that a build needs."""

    schema_version: Annotated[StrictInt, Field(ge=1, le=1)] = Field(default=1, alias="schema")
    name: Name
    recipe: Sha256 = Field(description="SHA-256 of the recipe's content, to notice that it has changed since.")
    package: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    base: LockedBase
    overlays: tuple[LockedOverlay, ...]
    checkpoint: LockedCheckpoint | None = None
    profiles: tuple[Profile, ...] = ()
    default_profile: Name | None = None
    description: Text = ""
    source: SourceAddress = ""
    licenses: Licenses = ""
    entrypoint: Sha256 = Field(description="SHA-256 of /opt/builder/serve.")
    layer: Literal["tar", "tar+gzip"] = Field(
        default="tar", description="How the layer is stored. Locks of earlier versions do not name it: a plain tar."
    )
    epoch: StrictInt = Field(
        ge=1,
        le=_LAST_SECOND,
        description="The one time of all entries, in seconds since 1970: when the base was created.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("overlay", (overlay.id for overlay in self.overlays))
        _unique("profile", (profile.name for profile in self.profiles))
        if self.default_profile is not None and self.default_profile not in {each.name for each in self.profiles}:
            raise ValueError(f"default_profile {self.default_profile!r} is not among the profiles")
        known = {overlay.id for overlay in self.overlays}
        for overlay in self.overlays:
            _unique(f"package of overlay {overlay.id}", overlay.package)
        for platform in self.base.platforms.values():
            if {self.package, *(each.package for each in platform.further)} != set(self.packages):
                raise ValueError("'further' does not have the packages that the overlays name")
            for file in platform.files:
                if unknown := [name for name in file.overlays if name not in known]:
                    raise ValueError(f"{file.path} is changed by {unknown[0]!r}, which is not an overlay of this lock")
        return self

    @property
    def packages(self) -> tuple[str, ...]:
        """The lock's package, then the others that its overlays name, in their order."""
        return tuple(dict.fromkeys([self.package, *(name for each in self.overlays for name in each.package)]))

    def document(self) -> dict[str, object]:
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"schema": SCHEMA}

    @property
    def inputs(self) -> str:
        """SHA-256 over the lock's content, independent of YAML's spelling: the second part of immutable tags."""
        document = self.model_copy(
            update={
                "overlays": tuple(each.model_copy(update={"rendering": None}) for each in self.overlays),
                # Where the same bytes are kept as well decides nothing.
                "base": self.base.model_copy(update={"mirrors": ()}),
            }
        ).document()
        return sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())

    def dump(self) -> bytes:
        """The lock as YAML, always the same bytes for the same content."""
        import yaml

        ordered = {"schema": SCHEMA, **self.document()}
        text = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
        return (HEADER + str(text)).encode()


def read_lock(path: Path) -> Lock:
    """Read a lock. Raises `InputError` when it is missing or was edited into something else."""
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= _LIMIT else None
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", hint="check its permissions") from error
    if data is None:
        if path.exists():
            raise InputError(f"{path.name} is not a lock", hint="a lock is a file of at most 16 MiB")
        raise InputError(
            f"there is no lock {path.name}", details=[("looked", str(path.absolute()))], hint="run `builder lock` first"
        )
    return parse_lock(data, path.name)


def parse_lock(data: bytes, name: str) -> Lock:
    """A lock from its bytes. `name` is what messages call the file."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise InputError(f"{name} is empty", hint="delete it and run `builder lock`")
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")) or line == "=======":
            raise InputError(
                f"{name}:{number}: a merge left its markers in the lock",
                hint="take either side whole (`git checkout --ours` or `--theirs`), then run `builder lock`",
            )
    document = parse_yaml(text, name)
    _not_a_recipe(document)
    return validate_document(Lock, document)


def _not_a_recipe(document: Document) -> None:
    value = document.value
    if isinstance(value, Mapping) and isinstance(value.get("base"), str) and "epoch" not in value:
        raise InputError(
            f"{document.name} is a recipe, not a lock",
            hint=f"move {document.name} away, then run `builder lock`",
        )
