"""Locks: `images/NAME.lock.yaml`, everything that was looked up, with digests. A build reads nothing that it does not pin."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from builder.documents.profile import Profile
from builder.documents.recipe import MAX_STRIP, Folder, Requirements
from builder.documents.reference import BaseReference
from builder.documents.values import Commit, Frozen, Sha256
from builder.documents.yamlfile import validate
from builder.util.errors import InputError
from builder.util.files import sha256

HEADER = "# Made by `builder lock`. Do not edit: change the recipe and run `builder lock` again.\n"
SCHEMA = 1


ABOUT = ("title", "author", "state", "why", "drop_when")
"""What every report shows of an overlay beside its id."""


class Rendering(Frozen):
    """The bytes that a diff came as, which GitHub renders differently over time. Nothing that is built follows from it."""

    via: Literal["compare", "pull", "git"]
    sha256: Sha256


class LockedOverlay(Frozen):
    """An overlay at a fixed state. `digest` is the SHA-256 of the diff's canonical form."""

    id: str
    diff: str = Field(description="The vendored diff, relative to the project root.")
    digest: Sha256
    head: Commit | None = None
    merge_base: Commit | None = None
    strip: int = Field(default=1, ge=0, le=MAX_STRIP, strict=True)
    under: Folder | None = None
    fuzz: int = Field(default=0, ge=0, le=3, strict=True)
    accept_undelivered: dict[str, str] = Field(default={})
    headings: dict[str, dict[str, str]] = Field(
        default={},
        description="Path: hunk number: the heading behind `@@` that settled which of several places is meant.",
    )
    requires: Requirements | None = None
    url: str | None = None
    title: str | None = None
    author: str | None = None
    state: str | None = Field(default=None, description="The pull request's state when it was locked.")
    base_branch: str | None = None
    why: str | None = None
    drop_when: str | None = None
    origin: str | None = Field(default=None, description="Where a local diff comes from: OWNER/REPOSITORY#NUMBER@HEAD.")
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
    said = [(key, " ".join(str(facts[key]).split())) for key in ABOUT if facts.get(key)]
    return " · ".join(f"{key.replace('_', ' ')}: {value}" for key, value in said)


def overlay_lines(overlays: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each overlay of which more than its id is known. An overlay is a mapping with `id` and the facts."""
    lines = [(str(each["id"]), about_line(each)) for each in overlays]
    return [f"{name}  {line}" for name, line in lines if line]


class LockedFile(Frozen):
    """One file that the stack reads or writes. Digests are SHA-256; `before` is absent for a new file, `after` for a
    deleted one; equal ones mean that a later overlay took back what an earlier one did."""

    path: str
    before: Sha256 | None = None
    after: Sha256 | None = None
    executable: bool = Field(default=False, description="Whether the base's file is executable.")
    overlays: tuple[str, ...]


class LockedDistribution(Frozen):
    name: str
    version: str
    dist_info: str
    record: Sha256 | None = Field(default=None, description="SHA-256 of the base's RECORD.")


class LockedPlatform(Frozen):
    """The base for one platform, and what the stack makes of its package."""

    manifest: str
    manifest_size: int
    manifest_type: str
    config: str
    root: str
    python: str
    distribution: LockedDistribution
    directories: tuple[str, ...] = Field(
        description="Folders that the base has among the parents of the layer's files."
    )
    packages: tuple[str, ...] = Field(
        default=(), description="Python distributions beside the package (NAME==VERSION), in what of the base was read."
    )
    bytecode: tuple[str, ...] = Field(default=(), description="Stale __pycache__ entries of changed modules.")
    files: tuple[LockedFile, ...]


class LockedBase(Frozen):
    """The base; `digest` is that of its index where it has one, else of its manifest, or a wheel's SHA-256."""

    reference: str
    digest: str
    wheel: str | None = Field(default=None, description="File name of the wheel, whose SHA-256 is the digest.")
    trust_ranges: bool = Field(
        default=False,
        description="Whether parts of the wheel were taken without checking the whole against its digest.",
    )
    platforms: dict[str, LockedPlatform]

    @property
    def parsed(self) -> BaseReference:
        return BaseReference.parse(self.reference)

    @property
    def pinned(self) -> BaseReference:
        """The base with its digest, where it has a registry."""
        return self.parsed.pinned(self.digest)


class LockedCheckpointFile(Frozen):
    path: str
    size: int
    sha256: Sha256


class LockedCheckpoint(Frozen):
    """The checkpoint. `digest` as docs/checkpoint.md defines it; `files` when its parts were seen."""

    digest: Sha256
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    files: tuple[LockedCheckpointFile, ...] = ()


class Lock(Frozen):
    """Everything that a build needs."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    recipe: Sha256 = Field(description="SHA-256 of the recipe's content, to notice that it has changed since.")
    package: str
    base: LockedBase
    overlays: tuple[LockedOverlay, ...]
    checkpoint: LockedCheckpoint | None = None
    profiles: tuple[Profile, ...] = ()
    default_profile: str | None = None
    description: str = ""
    entrypoint: Sha256 = Field(description="SHA-256 of /opt/builder/serve.")
    epoch: int = Field(
        ge=1, description="The one time of all entries, in seconds since 1970: when the base was created."
    )

    def document(self) -> dict[str, object]:
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"schema": SCHEMA}

    @property
    def inputs(self) -> str:
        """SHA-256 over the lock's content, independent of YAML's spelling: the second part of immutable tags."""
        document = self.model_copy(
            update={"overlays": tuple(each.model_copy(update={"rendering": None}) for each in self.overlays)}
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
    if not path.is_file():
        raise InputError(f"there is no lock {path.name}", hint="run `builder lock` on the recipe first")
    return validate(Lock, path)
