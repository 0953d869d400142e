"""Recipes: `images/NAME.yaml`, what a person writes and everything else follows from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StringConstraints, model_validator

from builder.documents.model_shape import ModelShape
from builder.documents.problems import PlacedError
from builder.documents.pull import pull_name
from builder.documents.reference import BaseReference, Platform, Reference, join_wheels
from builder.documents.values import (
    Commit,
    Envelope,
    Frozen,
    Licenses,
    Name,
    PackageName,
    RelativePath,
    SourceAddress,
    WrittenSha256,
)
from builder.documents.yamlfile import validate
from builder.util.errors import InputError
from builder.util.files import sha256

MAX_STRIP = 50
MAX_PACKAGES = 32
MAX_WHEELS = 64
MAX_FILES = 100


def _base(value: object) -> object:
    """A list of wheels as the one reference that it is short for."""
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        return value
    try:
        return join_wheels(value)
    except InputError as error:
        raise ValueError(error.message) from error


Base = Annotated[str, BeforeValidator(_base, json_schema_input_type=str | list[str])]


def _folder(text: str) -> str:
    """A folder below another one, without a slash at its end. Raises `ValueError` for what leaves it."""
    parts = text.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in text:
        raise ValueError("a folder is written as `vllm` or `vllm/v1`, without `..`, and not from the root")
    return "/".join(parts)


Folder = Annotated[
    str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_folder)
]


def _pull(value: object) -> object:
    """A pull request as its canonical name, so that every spelling gives the same recipe and the same lock."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    return pull_name(str(value))


def _origin(value: object) -> object:
    """A pull request's address as its canonical name, with what follows `@`; other text as it is."""
    if not isinstance(value, str) or "/pull/" not in value:
        return value
    address, at, head = value.partition("@")
    try:
        return f"{pull_name(address)}{at}{head}"
    except ValueError:
        return value


Pull = Annotated[str, BeforeValidator(_pull, json_schema_input_type=str | int)]


def _platform(text: str) -> str:
    try:
        Platform.parse(text)
    except InputError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error
    return text


# Names of one and the same platform.
_PLAIN = {
    "linux/amd64/v1": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/arm64/v8": "linux/arm64", "linux/aarch64": "linux/arm64",
}  # fmt: skip
PlatformName = Annotated[str, AfterValidator(_platform)]


TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]


class TensorRule(Frozen):
    """A tensor that the patched vLLM expects in the checkpoint. Types as safetensors names them: `BF16`, `F8_E4M3`."""

    dtype: str
    shape: tuple[Annotated[StrictInt, Field(ge=0)], ...]


class Requirements(Frozen):
    """What an overlay needs of the checkpoint that is served."""

    opt_ins: tuple[str, ...] = Field(default=(), description="Keys of quantization_config that must be true.")
    tensors: dict[str, TensorRule] = Field(default={}, description="Tensors that must be there, with type and shape.")


class OverlaySpec(Frozen):
    """One overlay: a pull request, or a diff in a local file."""

    pull: Pull | None = Field(
        default=None,
        description="OWNER/REPOSITORY#NUMBER, the pull request's address, or a number of vllm-project/vllm.",
    )
    file: RelativePath | None = Field(default=None, description="A diff, relative to the project root.")
    head: Commit | None = Field(
        default=None, description="The pull request's head commit. Pinned by the lock when left out."
    )
    merge_base: Commit | None = Field(default=None, description="Where the pull request leaves its base branch.")
    strip: StrictInt = Field(
        default=1,
        ge=0,
        le=MAX_STRIP,
        strict=True,
        description="Folders that come off the front of every name in the diff, as `patch --strip`. 1 takes off a/ and b/.",
    )
    under: Folder | None = Field(
        default=None,
        description="The folder that goes before what is left of a name: `vllm` for a diff made inside that package.",
    )
    package: PackageName | tuple[PackageName, ...] | None = Field(
        default=None,
        description="The package, or the packages, that the overlay may change. The recipe's `package` when left out.",
    )
    fuzz: StrictInt = Field(
        default=0,
        ge=0,
        le=3,
        description="Context lines that GNU patch may ignore. 0 unless you have looked.",
    )
    accept_undelivered: dict[str, str] = Field(
        default={},
        description="Path or glob of a change that a text overlay cannot deliver: why the overlay works without it.",
    )
    after: dict[str, WrittenSha256] = Field(
        default={}, description="Path: SHA-256 that the file must have once this overlay is applied."
    )
    requires: Requirements | None = Field(default=None, description="What the overlay needs of the checkpoint.")
    title: str | None = Field(default=None, description="For a local file; a pull request brings its own.")
    author: str | None = Field(default=None, description="For a local file; a pull request brings its own.")
    origin: Annotated[str, BeforeValidator(_origin)] | None = Field(
        default=None,
        description="Where a local diff comes from: OWNER/REPOSITORY#NUMBER@HEAD or an address with @HEAD, or free text.",
    )
    why: str | None = Field(default=None, description="Why the overlay is in the stack.")
    drop_when: str | None = Field(default=None, description="When it can leave the stack.")

    @model_validator(mode="before")
    @classmethod
    def _a_mapping(cls, value: object) -> object:
        """Say what is likely meant where YAML reads something else."""
        if isinstance(value, str):
            kind = "pull" if _names_a_pull(value) else "file"
            raise ValueError(f"an overlay has keys; write it as `- {kind}: {value}`")  # noqa: TRY004  pydantic collects ValueErrors
        if isinstance(value, Mapping) and "pull" in value and value["pull"] is None and "file" not in value:
            raise ValueError(
                "'pull' has no value; in YAML, `#` begins a comment: write the number alone, or OWNER/REPOSITORY#NUMBER"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.pull is None) == (self.file is None):
            raise ValueError("an overlay has either 'pull' or 'file'")
        if self.file is not None and (self.head or self.merge_base):
            raise ValueError("'head' and 'merge_base' belong to a pull request")
        if self.pull is not None and self.origin is not None:
            raise ValueError("'origin' belongs to a local file; a pull request is its own")
        if self.merge_base and not self.head:
            raise ValueError("'merge_base' is pinned together with 'head'")
        if self.package is not None and (not self.packages or len(set(self.packages)) != len(self.packages)):
            raise ValueError("'package' names one package, or a list with each package once")
        return self

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that the overlay names; empty when it is for the recipe's."""
        return (self.package,) if isinstance(self.package, str) else self.package or ()

    @property
    def id(self) -> str:
        """What names the overlay everywhere: `vllm-project/vllm#39931`, or the file's path."""
        name = self.pull or self.file
        assert name is not None  # noqa: S101  _one_source
        return name

    @property
    def repository(self) -> str:
        """OWNER/REPOSITORY of a pull request."""
        return self.id.split("#")[0]

    @property
    def number(self) -> int:
        """The number of a pull request."""
        return int(self.id.split("#")[1])


class FileSpec(Frozen):
    """A text file that the image gets: a chat template, a parser plugin, a config."""

    path: RelativePath = Field(description="The file, relative to the project root.")
    to: Folder | None = Field(
        default=None,
        description="Where it goes: below /opt/builder/files, or below `package`. The file's own name when left out.",
    )
    package: PackageName | None = Field(default=None, description="Put it into this package's folder, as a new file.")

    @property
    def name(self) -> str:
        return self.to or self.path.rpartition("/")[2]


class WheelSpec(Frozen):
    """A Python distribution that the image gets, beside or instead of the base's; or one of the base's that goes."""

    wheel: str | None = Field(
        default=None,
        max_length=300,
        description="NAME==VERSION of the package index, or a file relative to the project root: wheels/NAME.whl",
    )
    remove: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200, description="A distribution of the base."
    )
    sha256: WrittenSha256 | None = Field(
        default=None, description="The wheel's SHA-256. Pinned by the lock when left out."
    )
    accept_unmet: dict[str, str] = Field(
        default={},
        description="Distribution whose requirement is not met with this change: why the image works all the same.",
    )

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.wheel is None) == (self.remove is None):
            raise ValueError("an entry has either 'wheel' or 'remove'")
        if self.wheel is not None:
            _checked_wheel(self.wheel)
        if self.remove is not None and self.sha256 is not None:
            raise ValueError("'sha256' belongs to a 'wheel'")
        return self

    @property
    def id(self) -> str:
        """What names the entry: `transformers==5.6.0`, `wheels/x.whl` or `remove NAME`."""
        return self.wheel if self.wheel is not None else f"remove {self.remove}"


_PINNED = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9._!+]*")


def _checked_wheel(text: str) -> None:
    if text.endswith(".whl"):
        if text.startswith("/") or any(part in ("", ".", "..") for part in text.split("/")):
            raise ValueError(f"{text!r} is not a file in the project")
    elif not _PINNED.fullmatch(text):
        raise ValueError(f"{text!r} pins no wheel; write NAME==VERSION, or a file that ends in .whl")


def _file_entry(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _wheel_entry(value: object) -> object:
    return {"wheel": value} if isinstance(value, str) else value


FileEntry = Annotated[FileSpec, BeforeValidator(_file_entry, json_schema_input_type=str | FileSpec)]
WheelEntry = Annotated[WheelSpec, BeforeValidator(_wheel_entry, json_schema_input_type=str | WheelSpec)]


class CheckpointSpec(Frozen):
    """The checkpoint that the image serves, whose digest names the image."""

    repo: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$", description="OWNER/NAME on the Hub."
    )
    revision: str | None = Field(default=None, description="Commit, branch or tag; the lock pins the commit.")
    path: RelativePath | None = Field(default=None, description="A local folder, relative to the project root.")
    oci: str | None = Field(
        default=None,
        pattern=r"^\S+@sha256:[0-9a-f]{64}$",
        description="REGISTRY/REPOSITORY@DIGEST of an OCI artifact with one blob for each file, or of an image with `digest`.",
    )
    folder: Folder | None = Field(
        default=None, description="Where the files are in an image of `oci`. Absent: at its root."
    )
    digest: WrittenSha256 | None = Field(default=None, description="The checkpoint digest, when it is known.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(each is not None for each in (self.repo, self.path, self.oci)) > 1:
            raise ValueError("a checkpoint has one of 'repo', 'path' and 'oci'")
        if self.repo is None and self.path is None and self.oci is None and self.digest is None:
            raise ValueError("a checkpoint has a 'repo', a 'path', an 'oci' or a 'digest'")
        if self.revision is not None and self.repo is None:
            raise ValueError("'revision' belongs to a 'repo'")
        if self.folder is not None and self.oci is None:
            raise ValueError("'folder' belongs to an 'oci' image")
        if "," in (self.folder or ""):
            raise ValueError("'folder' has a comma, at which an engine's option for a mount ends")
        return self


def _names_a_pull(text: str) -> bool:
    try:
        pull_name(text)
    except ValueError:
        return False
    return True


def _a_list(value: object) -> object:
    """Say how a list is written where one text is in its place."""
    if isinstance(value, str):
        kind = "pull" if _names_a_pull(value) else "file"
        raise ValueError(f"is a list; write `overlays:`, and below it `  - {kind}: {value}`")  # noqa: TRY004  pydantic collects ValueErrors
    return value


def _listed_once(key: str, what: str, names: Sequence[str]) -> None:
    """Raise `PlacedError` at the second place of a name that is repeated."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise PlacedError(f"{what} {name} is repeated; it is number {names.index(name) + 1} already", (key, index))


class Recipe(Frozen):
    """One image: what it is made from and how it serves."""

    name: Name
    base: Base = Field(
        description="REGISTRY/REPOSITORY:TAG, oci:DIR, docker:REF, wheel:vllm==VERSION, or a list of wheels."
    )
    package: str = Field(
        default="vllm",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The package that serves, which profiles are judged by and which overlays may change.",
    )
    overlays: Annotated[tuple[OverlaySpec, ...], BeforeValidator(_a_list)] = ()
    wheels: tuple[WheelEntry, ...] = Field(
        default=(),
        max_length=MAX_WHEELS,
        description="Python distributions to add, replace or remove: NAME==VERSION, wheels/NAME.whl, {remove: NAME}.",
    )
    files: tuple[FileEntry, ...] = Field(
        default=(), max_length=MAX_FILES, description="Text files for /opt/builder/files, or for a package's folder."
    )
    checkpoint: CheckpointSpec | None = None
    model: ModelShape | None = Field(
        default=None,
        description="The model's shape, for `builder profile fit` and the linter; a build does not read it.",
    )
    envelope: Envelope | None = Field(default=None, description="What at least one profile must be able to serve.")
    profiles: tuple[Name, ...] = ()
    default_profile: Name | None = Field(
        default=None, description="What the image serves when no profile is named. One profile alone is the default."
    )
    platforms: tuple[PlatformName, ...] = ("linux/amd64",)
    publish: str | None = Field(default=None, description="REGISTRY/REPOSITORY that `builder publish` pushes to.")
    policies: dict[TagName, RelativePath] = Field(
        default={},
        description="Tags that only `builder promote` moves, each with its policy: `production: gates/production.yaml`.",
    )
    description: str = ""
    source: SourceAddress = Field(
        default="",
        description="The web address of the repository that has this recipe; becomes the label with which GHCR links the package.",
    )
    licenses: Licenses = Field(default="", description="SPDX expression for the image's label.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [overlay.id for overlay in self.overlays]
        _listed_once("overlays", "overlay", ids)
        _listed_once("wheels", "wheel", [wheel.id for wheel in self.wheels])
        _listed_once("profiles", "profile", self.profiles)
        _listed_once("platforms", "platform", [_PLAIN.get(each, each) for each in self.platforms])
        places = [(file.package, file.name) for file in self.files]
        if shared := sorted({str(name) for (package, name) in places if places.count((package, name)) > 1}):
            raise ValueError(f"files: two of them go to {', '.join(shared)}")
        if self.default_profile is not None and self.default_profile not in self.profiles:
            raise PlacedError(
                f"default_profile {self.default_profile!r} is not among the profiles", ("default_profile",)
            )
        key = "base"
        try:
            BaseReference.parse(self.base)
            key = "publish"
            if self.publish is not None and not Reference.is_repository(self.publish):
                Reference.parse(self.publish)
                raise ValueError("'publish' names a repository, without tag and digest")
        except InputError as error:
            raise PlacedError("; ".join(filter(None, (error.message, error.hint))), (key,)) from error
        except ValueError as error:
            raise PlacedError(str(error), (key,)) from error
        if len(self.packages) > MAX_PACKAGES:
            raise ValueError(f"the overlays name more than {MAX_PACKAGES} packages")
        if not self.platforms:
            raise PlacedError("'platforms' lists at least one platform", ("platforms",))
        return self

    @property
    def packages(self) -> tuple[str, ...]:
        """The recipe's package, then the others that its overlays name, in their order."""
        return tuple(dict.fromkeys([self.package, *(name for each in self.overlays for name in each.packages)]))

    @property
    def default(self) -> str | None:
        """The profile that the image serves when none is named: the one that is chosen, or the only one."""
        if self.default_profile is None and len(self.profiles) == 1:
            return self.profiles[0]
        return self.default_profile

    @property
    def base_reference(self) -> BaseReference:
        return BaseReference.parse(self.base)

    @property
    def digest(self) -> str:
        """SHA-256 of what the recipe says, independent of YAML's spelling, of where the image is pushed and of its tags."""
        document = self.model_dump(
            mode="json", exclude={"publish", "model", "envelope", "policies"}, exclude_defaults=True
        )
        return sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises `InputError` with the place of each error."""
    if path.name.endswith((".lock.yaml", ".lock.yml")):
        recipe = path.name.replace(".lock.", ".")
        raise InputError(f"{path.name} is a lock, not a recipe", hint=f"name the recipe that it belongs to: {recipe}")
    return validate(Recipe, path)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
