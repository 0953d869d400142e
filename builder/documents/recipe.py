"""Recipes: `images/NAME.yaml`, what a person writes and everything else follows from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StringConstraints, model_validator

from builder.documents.model_shape import ModelShape
from builder.documents.reference import BaseReference, Platform, Reference, join_wheels
from builder.documents.values import Commit, Envelope, Frozen, Name, PackageName, RelativePath, Sha256
from builder.documents.yamlfile import validate
from builder.util.errors import InputError
from builder.util.files import sha256

MAX_STRIP = 50
MAX_PACKAGES = 32


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
TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
_PULL = re.compile(r"(?P<owner>[A-Za-z0-9][A-Za-z0-9-]*)/(?P<repo>[A-Za-z0-9._-]+)#(?P<number>[1-9][0-9]{0,9})")


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

    pull: str | None = Field(default=None, description="OWNER/REPOSITORY#NUMBER")
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
    after: dict[str, Sha256] = Field(
        default={}, description="Path: SHA-256 that the file must have once this overlay is applied."
    )
    requires: Requirements | None = Field(default=None, description="What the overlay needs of the checkpoint.")
    title: str | None = Field(default=None, description="For a local file; a pull request brings its own.")
    author: str | None = Field(default=None, description="For a local file; a pull request brings its own.")
    origin: str | None = Field(
        default=None, description="Where a local diff comes from: OWNER/REPOSITORY#NUMBER@HEAD, or free text."
    )
    why: str | None = Field(default=None, description="Why the overlay is in the stack.")
    drop_when: str | None = Field(default=None, description="When it can leave the stack.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.pull is None) == (self.file is None):
            raise ValueError("an overlay has either 'pull' or 'file'")
        if self.pull is not None and not _PULL.fullmatch(self.pull):
            raise ValueError(f"{self.pull!r} is not a pull request; write it as OWNER/REPOSITORY#NUMBER")
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


class CheckpointSpec(Frozen):
    """The checkpoint that the image serves, whose digest names the image."""

    repo: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$", description="OWNER/NAME on the Hub."
    )
    revision: str | None = Field(default=None, description="Commit, branch or tag; the lock pins the commit.")
    path: RelativePath | None = Field(default=None, description="A local folder, relative to the project root.")
    digest: Sha256 | None = Field(default=None, description="The checkpoint digest, when it is known.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.repo is not None and self.path is not None:
            raise ValueError("a checkpoint has either 'repo' or 'path'")
        if self.repo is None and self.path is None and self.digest is None:
            raise ValueError("a checkpoint has a 'repo', a 'path' or a 'digest'")
        if self.revision is not None and self.repo is None:
            raise ValueError("'revision' belongs to a 'repo'")
        return self


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
    overlays: tuple[OverlaySpec, ...] = ()
    checkpoint: CheckpointSpec | None = None
    model: ModelShape | None = Field(
        default=None,
        description="The model's shape, for `builder profile fit` and the linter; a build does not read it.",
    )
    envelope: Envelope | None = Field(default=None, description="What at least one profile must be able to serve.")
    profiles: tuple[Name, ...] = ()
    default_profile: Name | None = None
    platforms: tuple[str, ...] = ("linux/amd64",)
    publish: str | None = Field(default=None, description="REGISTRY/REPOSITORY that `builder publish` pushes to.")
    policies: dict[TagName, RelativePath] = Field(
        default={},
        description="Tags that only `builder promote` moves, each with its policy: `production: gates/production.yaml`.",
    )
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [overlay.id for overlay in self.overlays]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"overlay {', '.join(twice)} is listed twice")
        if len(set(self.profiles)) != len(self.profiles):
            raise ValueError("a profile is listed twice")
        if self.default_profile is not None and self.default_profile not in self.profiles:
            raise ValueError(f"default_profile {self.default_profile!r} is not among the profiles")
        try:
            BaseReference.parse(self.base)
            for platform in self.platforms:
                Platform.parse(platform)
            if self.publish is not None and not Reference.is_repository(self.publish):
                Reference.parse(self.publish)
                raise ValueError("'publish' names a repository, without tag and digest")
        except InputError as error:
            raise ValueError(error.message) from error
        if len(self.packages) > MAX_PACKAGES:
            raise ValueError(f"the overlays name more than {MAX_PACKAGES} packages")
        if not self.platforms or len(set(self.platforms)) != len(self.platforms):
            raise ValueError("'platforms' lists each platform once, and at least one")
        return self

    @property
    def packages(self) -> tuple[str, ...]:
        """The recipe's package, then the others that its overlays name, in their order."""
        return tuple(dict.fromkeys([self.package, *(name for each in self.overlays for name in each.packages)]))

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
