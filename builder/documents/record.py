"""The record: `/opt/builder/record.json`, what an image says about itself. The entrypoint reads it with the standard library.

A public format: `builder schema record` prints its JSON Schema. A key that has no value is left out, so that the same lock
gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StrictInt, ValidationError

from builder.documents.lock import (
    Digest,
    Lock,
    LockedCheckpointFile,
    LockedDistribution,
    LockedInstall,
    LockedPlatform,
    PlainPath,
)
from builder.documents.profile import Hardware, Profile
from builder.documents.recipe import Requirements
from builder.documents.values import Commit, Envelope, Frozen, PackageName, Sha256
from builder.util.errors import InputError

RECORD_SCHEMA: Final = 1
MODEL_FOLDER: Final = "/model"
SCHEMA_ID: Final = "urn:overlay-image-builder:schema:record:v1"


class RecordBase(Frozen):
    """The base that was patched. `entrypoint` and `cmd` are its own, which run when no profile is chosen."""

    reference: str
    digest: Digest
    manifest: Digest
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: dict[str, str] = Field(
        default={},
        description="What the base's config sets of the variables that profiles set: it is not the caller's.",
    )


class RecordPackage(Frozen):
    """A package that the overlays change. `root` is its folder, from `/` without the leading slash."""

    name: str
    root: PlainPath
    python: str
    distribution: str
    version: str


class RecordOverlay(Frozen):
    """An overlay, with the keys of the lock's entry that have a value."""

    id: str
    diff: PlainPath
    digest: Sha256
    head: Commit | None = None
    merge_base: Commit | None = None
    strip: StrictInt = 1
    under: str | None = None
    package: tuple[PackageName, ...] = ()
    fuzz: StrictInt = 0
    accept_undelivered: dict[str, str] = Field(default={})
    headings: dict[str, dict[str, str]] = Field(default={})
    requires: Requirements | None = None
    url: str | None = None
    title: str | None = None
    author: str | None = None
    state: str | None = None
    base_branch: str | None = None
    why: str | None = None
    drop_when: str | None = None
    origin: str | None = None


class RecordFile(Frozen):
    """One patched file, relative to the package's root, which all packages share. `before` is null for a new file, `after` for a deleted one."""

    path: PlainPath
    before: Sha256 | None
    after: Sha256 | None
    overlays: tuple[str, ...]


class RecordInstalled(Frozen):
    """A distribution that the layer brings, whose files its RECORD lists; or, without `dist_info`, one that it takes away."""

    name: str
    version: str | None
    wheel: str | None = None
    sha256: Sha256 | None = None
    dist_info: str | None
    record: Sha256 | None = None
    replaces: str | None = None
    removed: tuple[PlainPath, ...] = Field(description="What of the base goes, from `/`.")


class RecordAdded(Frozen):
    """A text file of the recipe, by its path from `/` without the leading slash."""

    path: PlainPath
    sha256: Sha256


class RecordProfile(Frozen):
    """A serving profile: the arguments of `vllm serve` without the model."""

    description: str
    argv: tuple[str, ...]
    env: dict[str, str] = Field(default={}, description="Variables of the server that the caller has not set.")
    hardware: Hardware | None = None
    envelope: Envelope | None = None


class RecordCheckpoint(Frozen):
    """What is served: digest and files as they were locked, and what the overlays need of it."""

    requires: Requirements
    digest: Sha256 | None = None
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    files: tuple[LockedCheckpointFile, ...] = ()


class Record(Frozen):
    """What an image says about itself."""

    schema_version: Annotated[StrictInt, Field(ge=RECORD_SCHEMA, le=RECORD_SCHEMA)] = Field(alias="schema")
    name: str
    description: str
    inputs: Sha256 = Field(description="SHA-256 over the lock that the image was built from.")
    platform: str
    base: RecordBase
    package: RecordPackage
    further: tuple[RecordPackage, ...] = Field(default=(), description="The other packages that overlays name.")
    overlays: tuple[RecordOverlay, ...]
    files: tuple[RecordFile, ...]
    removed: tuple[PlainPath, ...] = Field(description="Stale bytecode that the layer removes.")
    installed: tuple[RecordInstalled, ...] = Field(default=(), description="Distributions of the recipe's `wheels:`.")
    added: tuple[RecordAdded, ...] = Field(default=(), description="Text files of the recipe's `files:`.")
    entrypoint: Sha256 = Field(description="SHA-256 of /opt/builder/serve.")
    model: Literal["/model"]
    profiles: dict[str, RecordProfile]
    default_profile: str | None
    checkpoint: RecordCheckpoint

    def dump(self) -> bytes:
        """The record's bytes. Only keys that were given are written."""
        document = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def make_record(lock: Lock, platform: str, *, base_config: Mapping[str, Any]) -> bytes:
    """The record of one platform's image. `base_config` is the `config` object of the base's image config.

    Raises `InputError` when the base's entrypoint or command is not a list of words.
    """
    locked = lock.base.platforms[platform]
    document = {
        "schema": RECORD_SCHEMA,
        "name": lock.name,
        "description": lock.description,
        "inputs": lock.inputs,
        "platform": platform,
        "base": {
            "reference": lock.base.reference,
            "digest": lock.base.digest,
            "manifest": locked.manifest,
            "entrypoint": base_config.get("Entrypoint") or [],
            "cmd": base_config.get("Cmd") or [],
            **({"env": stock} if (stock := _stock_variables(lock, base_config)) else {}),
        },
        "package": _package(lock.package, locked, locked.distribution),
        **(
            {"further": [_package(each.package, locked, each.distribution) for each in locked.further]}
            if locked.further
            else {}
        ),
        "overlays": [
            overlay.model_dump(mode="json", exclude={"rendering", "unnamed"}, exclude_none=True, exclude_defaults=True)
            for overlay in lock.overlays
        ],
        "files": _files(locked),
        "removed": list(locked.bytecode),
        **({"installed": [_installed(each) for each in locked.installed]} if locked.installed else {}),
        **({"added": [{"path": each.path, "sha256": each.sha256} for each in locked.added]} if locked.added else {}),
        "entrypoint": lock.entrypoint,
        "model": MODEL_FOLDER,
        "profiles": {profile.name: _profile(profile) for profile in lock.profiles},
        "default_profile": lock.default_profile,
        "checkpoint": _checkpoint(lock),
    }
    try:
        return Record.model_validate(document).dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"no record can be made on {lock.base.reference}: {where}: {first['msg']}",
            hint="the base's config has another shape than an image's: use another base",
        ) from error


def read_record(data: bytes) -> Record:
    """A record that was written by somebody. Raises `InputError` when it does not have the record's schema."""
    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise InputError(f"the record does not have the record's schema: {where}: {first['msg']}") from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of records."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **Record.model_json_schema(by_alias=True),
    }


def _package(name: str, locked: LockedPlatform, distribution: LockedDistribution) -> dict[str, str]:
    return {
        "name": name,
        "root": locked.root,
        "python": locked.python,
        "distribution": distribution.name,
        "version": distribution.version,
    }


def _installed(each: LockedInstall) -> dict[str, Any]:
    document: dict[str, Any] = {"name": each.name, "version": each.version}
    if each.file is not None:
        document |= {"wheel": each.file, "sha256": each.sha256}
    document["dist_info"] = each.dist_info
    if each.record is not None:
        document["record"] = each.record
    if each.replaces is not None:
        document["replaces"] = each.replaces
    return {**document, "removed": list(each.removed)}


def _stock_variables(lock: Lock, base_config: Mapping[str, Any]) -> dict[str, str]:
    """The base's own values of variables that a profile of the lock sets."""
    listed = base_config.get("Env")
    pairs = [str(each).partition("=") for each in listed] if isinstance(listed, list) else []
    wanted = {name for profile in lock.profiles for name in profile.env}
    return {name: text for name, _, text in pairs if name in wanted}


def _files(locked: LockedPlatform) -> list[dict[str, Any]]:
    return [
        {"path": file.path, "before": file.before, "after": file.after, "overlays": list(file.overlays)}
        for file in locked.files
    ]


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "description": profile.description,
        "argv": profile.argv(),
        **({"env": profile.env} if profile.env else {}),
        **({"hardware": profile.hardware.model_dump(mode="json")} if profile.hardware else {}),
        **({"envelope": profile.envelope.model_dump(mode="json")} if profile.envelope else {}),
    }


def _checkpoint(lock: Lock) -> dict[str, Any]:
    needs = [overlay.requires for overlay in lock.overlays if overlay.requires is not None]
    merged = Requirements(
        opt_ins=tuple(dict.fromkeys(name for each in needs for name in each.opt_ins)),
        tensors={name: rule for each in needs for name, rule in each.tensors.items()},
    )
    document: dict[str, Any] = {"requires": merged.model_dump(mode="json")}
    if lock.checkpoint is not None:
        document |= lock.checkpoint.model_dump(mode="json", exclude={"oci", "folder"}, exclude_none=True)
    return document
