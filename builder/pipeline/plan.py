"""From a lock to what goes into the image: nothing is looked up here, everything is checked against the lock."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from builder.base.locked import read_locked
from builder.base.model import BaseFile, BaseImage, Distribution, EntryKind, PackageTree
from builder.base.open import open_base
from builder.documents.lock import Lock, LockedPlatform
from builder.documents.recipe import Recipe
from builder.documents.record import make_record
from builder.documents.reference import Platform
from builder.image.rootfs import Rootfs, compose
from builder.oci.types import Descriptor
from builder.patch.model import StackResult
from builder.patch.stack import apply_stack
from builder.pipeline.locking.base import OWN_FOLDER
from builder.pipeline.locking.make import ENTRYPOINT_SOURCE, load_profiles
from builder.pipeline.locking.overlays import naming, read_overlay
from builder.util.context import Context
from builder.util.errors import MismatchError
from builder.util.files import ContentCache, file_sha256, sha256
from builder.util.project import Project


@dataclass(frozen=True)
class LockedTree:
    """The part of a base's package that a lock knows, as a `PackageTree`."""

    root: str
    python: str
    distribution: Distribution
    files: Mapping[str, bytes]
    executable: Collection[str] = ()

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        return {
            path: BaseFile(path, "file", 0o755 if path in self.executable else 0o644, self.files[path])
            for path in paths
            if path in self.files
        }

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        prefix = f"{folder}/" if folder else ""
        below = (path.removeprefix(prefix).split("/") for path in self.files if path.startswith(prefix))
        return {parts[0]: "file" if len(parts) == 1 else "directory" for parts in below}

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:  # noqa: ARG002
        return {}


@dataclass(frozen=True)
class Plan:
    """What one platform's layer holds, and the stack that it comes from."""

    platform: Platform
    locked: LockedPlatform
    base: BaseImage
    result: StackResult
    rootfs: Rootfs = field(repr=False)
    record: bytes = field(repr=False)


def check_fresh(project: Project, recipe: Recipe, lock: Lock) -> None:
    """Raise `MismatchError` when recipe, profiles or entrypoint have changed since the lock was made."""
    changed: list[str] = []
    if lock.recipe != recipe.digest:
        changed.append(project.show(project.recipe_path))
    locked = {profile.name: profile for profile in lock.profiles}
    changed += [
        project.show(project.profiles / f"{profile.name}.yaml")
        for profile in load_profiles(project, recipe.profiles)
        if locked.get(profile.name) != profile
    ]
    if file_sha256(ENTRYPOINT_SOURCE) != lock.entrypoint:
        changed.append("the serve entrypoint (another version of builder)")
    if changed:
        raise MismatchError(
            f"{project.show(project.lock_path)} is older than what it locks",
            details=[("changed", name) for name in changed],
            hint=f"run `builder lock {recipe.name}` and look at the difference before you commit it",
        )


def make_plan(project: Project, lock: Lock, platform: Platform, *, context: Context) -> Plan:
    """Apply the locked stack to the locked files and compose the layer's content.

    Raises `MismatchError` when anything is not as the lock has it, `ApplyError` when the stack does not apply.
    """
    locked = lock.base.platforms[str(platform)]
    overlays = [read_overlay(project, overlay) for overlay in lock.overlays]
    known, installed_record = locked_tree(project, lock, platform, context=context)
    with naming(lock.overlays):
        result = apply_stack(overlays, known, lock.package)
    _check_result(locked, result)
    base = base_image(project, lock, platform, context=context)
    record = make_record(lock, str(platform), base_config=json.loads(base.config_bytes).get("config") or {})
    rootfs = compose(
        result,
        root=locked.root,
        distribution=known.distribution,
        record=installed_record,
        bytecode=locked.bytecode,
        existing_directories=locked.directories,
        extra={
            f"{OWN_FOLDER}/serve": (ENTRYPOINT_SOURCE.read_bytes(), 0o755),
            f"{OWN_FOLDER}/record.json": (record, 0o644),
        },
    )
    return Plan(platform, locked, base, result, rootfs, record)


def locked_tree(project: Project, lock: Lock, platform: Platform, *, context: Context) -> tuple[LockedTree, bytes]:
    """The base's files that the lock knows, and the distribution's RECORD. Raises `MismatchError` when one is missing."""
    locked = lock.base.platforms[str(platform)]
    distribution = Distribution(locked.distribution.name, locked.distribution.version, locked.distribution.dist_info)
    record_path = f"{distribution.dist_info}/RECORD"
    wanted = {file.path: file.before for file in locked.files if file.before is not None}
    if locked.distribution.record is not None:
        wanted[record_path] = locked.distribution.record

    def tree() -> PackageTree:
        return open_base(lock.base.pinned, root=project.root, context=context).tree(platform, lock.package)

    contents = dict(
        read_locked(
            wanted,
            cache=ContentCache(),
            release=None if lock.base.wheel else (distribution.name, distribution.version),
            platform=platform,
            tree=tree,
            context=context,
        )
    )
    # The file list stays in the tree: it says what the package has, and what was compiled.
    installed_record = contents.get(record_path, b"")
    executable = {file.path for file in locked.files if file.executable}
    return LockedTree(locked.root, locked.python, distribution, contents, executable), installed_record


def base_image(project: Project, lock: Lock, platform: Platform, *, context: Context) -> BaseImage:
    """The locked base: manifest and config by their digests, from the cache when they are there, else from the base."""
    locked = lock.base.platforms[str(platform)]
    cache = ContentCache()
    manifest = cache.get(locked.manifest.removeprefix("sha256:"))
    config = cache.get(locked.config.removeprefix("sha256:"))
    if manifest is not None and config is not None:
        return BaseImage(
            reference=lock.base.reference,
            digest=lock.base.digest,
            manifest=Descriptor(locked.manifest_type, locked.manifest, locked.manifest_size),
            manifest_bytes=manifest,
            config_bytes=config,
            platform=platform,
            wheel=(lock.base.wheel, lock.base.digest.removeprefix("sha256:")) if lock.base.wheel else None,
        )
    image = open_base(lock.base.pinned, root=project.root, context=context).image(platform)
    if image.manifest.digest != locked.manifest or image.digest != lock.base.digest:
        raise MismatchError(
            f"the base {lock.base.reference} is not the one that was locked",
            details=[("wanted", locked.manifest), ("found", image.manifest.digest)],
            hint="run `builder lock` and look at the difference",
        )
    cache.put(image.manifest_bytes)
    cache.put(image.config_bytes)
    return image


def _check_result(locked: LockedPlatform, result: StackResult) -> None:
    wanted = {file.path: file for file in locked.files}
    found = {file.path: sha256(file.after) if file.after is not None else None for file in result.files}
    for path in sorted(wanted.keys() | found.keys()):
        locked_file = wanted.get(path)
        # A file that ends as it began is not among the results.
        expected = locked_file.after if locked_file is not None else None
        if (path in found and found[path] != expected) or (
            path not in found and (locked_file is None or expected != locked_file.before)
        ):
            raise MismatchError(
                f"the stack does not give the {path} that was locked",
                details=[("wanted", str(expected)), ("found", str(found.get(path)))],
                hint="an overlay, or the tool, has changed: run `builder lock` and look at the difference",
            )
