"""From a lock to what goes into the image: nothing is resolved here, and everything is checked against the lock."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from builder.base.locked import read_locked
from builder.base.model import BaseFile, BaseImage, Distribution, EntryKind, PackageTree
from builder.base.open import open_locked
from builder.base.streamed import LockedLayers
from builder.documents.lock import Lock, LockedPlatform
from builder.documents.recipe import Recipe
from builder.documents.record import make_record
from builder.documents.reference import Platform
from builder.image.rootfs import InstalledRecord, Rootfs, compose
from builder.oci.types import Descriptor
from builder.patch.model import Overlay, StackFile, StackResult
from builder.patch.stack import apply_stack
from builder.pipeline.locking.added import read_added
from builder.pipeline.locking.base import OWN_FOLDER, epoch_of
from builder.pipeline.locking.make import ENTRYPOINT_SOURCE, load_profiles
from builder.pipeline.locking.overlays import naming, read_overlay
from builder.pipeline.locking.wheels import unpack_locked
from builder.util.context import Context
from builder.util.errors import ApplyError, MismatchError
from builder.util.files import ContentCache, file_sha256, sha256
from builder.util.project import Project


@dataclass(frozen=True)
class LockedTree:
    """The part of a base's packages that a lock knows, as a `PackageTree`. `unnamed` are packages that no overlay names."""

    root: str
    python: str
    distributions: Mapping[str, Distribution]
    files: Mapping[str, bytes]
    executable: Collection[str] = ()
    unnamed: Collection[str] = ()

    @property
    def distribution(self) -> Distribution:
        return next(iter(self.distributions.values()))

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

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        known = {f"{self.root}/{name}/__init__.py" for name in self.unnamed}
        return {path: BaseFile(path, "file", 0o644) for path in paths if path in known}


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
    """Raise `MismatchError` when recipe, profiles or entrypoint have changed since the lock was made, or the lock has."""
    changed: list[str] = []
    if lock.recipe != recipe.digest:
        changed.append(project.show(project.recipe_path))
    else:
        changed += [f"{project.show(project.lock_path)}, {key}" for key in _not_the_recipes(recipe, lock)]
    pinned = {profile.name: profile for profile in lock.profiles}
    changed += [
        project.show(project.profiles / f"{profile.name}.yaml")
        for profile in load_profiles(project, recipe.profiles)
        if pinned.get(profile.name) != profile
    ]
    added = {each.source: each.sha256 for locked in lock.base.platforms.values() for each in locked.added}
    changed += [name for name, digest in added.items() if not _has_digest(project.root / name, digest)]
    if file_sha256(ENTRYPOINT_SOURCE) != lock.entrypoint:
        changed.append("the serve entrypoint (another version of builder)")
    if changed:
        raise MismatchError(
            f"{project.show(project.lock_path)} is older than what it locks",
            details=[*(("changed", name) for name in changed), *project.elsewhere],
            hint=f"run `builder lock {project.recipe}` and look at the difference before you commit it",
        )


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and file_sha256(path) == digest


def _not_the_recipes(recipe: Recipe, lock: Lock) -> list[str]:
    """The keys of a lock that repeat the recipe, and do not: the lock was edited."""
    pairs: list[tuple[str, object, object]] = [
        ("name", recipe.name, lock.name),
        ("package", recipe.package, lock.package),
        ("description", recipe.description, lock.description),
        ("source", recipe.source, lock.source),
        ("licenses", recipe.licenses, lock.licenses),
        ("default_profile", recipe.default, lock.default_profile),
        ("profiles", recipe.profiles, tuple(profile.name for profile in lock.profiles)),
        ("base.reference", recipe.base, lock.base.reference),
        ("packages", set(recipe.packages), set(lock.packages)),
        ("base.platforms", set(recipe.platforms), set(lock.base.platforms)),
        ("overlays", [spec.id for spec in recipe.overlays], [overlay.id for overlay in lock.overlays]),
        ("checkpoint", recipe.checkpoint is None, lock.checkpoint is None),
    ]
    for name, locked in lock.base.platforms.items():
        ids, files = [each.id for each in locked.installed], [each.source for each in locked.added]
        pairs.append((f"base.platforms, {name}, installed", [each.id for each in recipe.wheels], ids))
        pairs.append((f"base.platforms, {name}, added", [each.path for each in recipe.files], files))
    for spec, overlay in zip(recipe.overlays, lock.overlays, strict=False):
        for key in ("fuzz", "accept_undelivered", "requires", "why", "drop_when"):
            pairs.append((f"overlays, {overlay.id}, {key}", getattr(spec, key), getattr(overlay, key)))
        pairs.append((f"overlays, {overlay.id}, package", spec.packages, overlay.package))
        if spec.file is not None:
            pairs.append((f"overlays, {overlay.id}, diff", spec.file, overlay.diff))
            for key in ("title", "author", "origin"):
                pairs.append((f"overlays, {overlay.id}, {key}", getattr(spec, key), getattr(overlay, key)))
    return [key for key, wanted, found in pairs if wanted != found]


def make_plan(project: Project, lock: Lock, platform: Platform, *, context: Context) -> Plan:
    """Apply the locked stack to the locked files and compose the layer's content.

    Raises `MismatchError` when anything is not as the lock has it.
    """
    overlays = [read_overlay(project, overlay) for overlay in lock.overlays]
    locked = lock.base.platforms[str(platform)]
    brought = unpack_locked(locked.installed, locked.root, project=project, context=context)
    return plan_of_stack(
        lock, platform, overlays, entrypoint=ENTRYPOINT_SOURCE.read_bytes(), root=project.root, context=context,
        brought=brought | read_added(project, locked.added),
    )  # fmt: skip


def plan_of_stack(
    lock: Lock, platform: Platform, overlays: Sequence[Overlay], *, entrypoint: bytes, root: Path, context: Context,
    brought: Mapping[str, tuple[bytes, int]] | None = None,
) -> Plan:  # fmt: skip
    """The plan of a lock whose diffs are at hand. `root` is what a base's folder or wheel is relative to.

    `brought` is what wheels and `files:` bring, by path from `/`.
    """
    locked = lock.base.platforms[str(platform)]
    known, records = _tree(root, lock, platform, context=context)
    try:
        with naming(lock.overlays):
            result = apply_stack(overlays, known, lock.package)
    except ApplyError as error:
        # It applied when it was locked, to the same files by digest: the lock's list of files is another one now.
        raise MismatchError(
            f"the locked stack does not apply to the locked files: {error.message}",
            details=error.details,
            hint="the lock was edited, or the tool has changed: run `builder lock` and look at the difference",
        ) from error
    _check_result(locked, result)
    base = base_image(root, lock, platform, context=context)
    return compose_plan(lock, base, result, records, entrypoint, brought)


def plan_of_contents(
    lock: Lock, platform: Platform, contents: Mapping[str, tuple[bytes, int]], *, entrypoint: bytes, root: Path,
    context: Context, brought: Mapping[str, tuple[bytes, int]] | None = None,
) -> Plan:  # fmt: skip
    """The plan of a lock whose diffs are not at hand: `contents` has what the patched files become, with their modes."""
    base = base_image(root, lock, platform, context=context)
    records = installed_records(root, lock, platform, context=context)
    return compose_plan(lock, base, result_of_contents(lock, platform, contents), records, entrypoint, brought)


def result_of_contents(lock: Lock, platform: Platform, contents: Mapping[str, tuple[bytes, int]]) -> StackResult:
    """What the stack gives, from the lock's list of files and their contents by path."""
    files = []
    for file in lock.base.platforms[str(platform)].files:
        if file.after == file.before and file.path not in contents:
            continue
        data, mode = contents[file.path] if file.after is not None else (None, 0o644)
        files.append(StackFile(file.path, None, data, mode, file.overlays))
    return StackResult(tuple(sorted(files, key=lambda each: each.path)), (), disjoint=True)


def compose_plan(
    lock: Lock,
    base: BaseImage,
    result: StackResult,
    installed: Mapping[str, bytes],
    entrypoint: bytes,
    more: Mapping[str, tuple[bytes, int]] | None = None,
) -> Plan:
    """The layer's content. `installed` has the base's RECORDs by distribution; `more` are files by path from `/`."""
    platform = base.platform
    locked = lock.base.platforms[str(platform)]
    settings = json.loads(base.config_bytes).get("config") or {}
    record = make_record(lock, str(platform), base_config=settings)
    rootfs = compose(
        result,
        root=locked.root,
        records=_records_of(lock, locked, installed),
        bytecode=locked.bytecode,
        existing_directories=locked.directories,
        extra={
            f"{OWN_FOLDER}/serve": (entrypoint, 0o755),
            f"{OWN_FOLDER}/record.json": (record, 0o644),
            **(more or {}),
        },
        removed=[path for each in locked.installed for path in each.removed],
    )
    return Plan(platform, locked, base, result, rootfs, record)


def check_epoch(lock: Lock, images: Sequence[BaseImage]) -> None:
    """Raise `MismatchError` when the lock's time is not the one that follows from its bases."""
    wanted = max(map(epoch_of, images))
    if lock.epoch != wanted:
        raise MismatchError(
            "the lock's time is not when its base was created",
            details=[("wanted", str(wanted)), ("found", str(lock.epoch))],
            hint="the lock was edited: run `builder lock` and look at the difference",
        )


def locked_tree(
    project: Project, lock: Lock, platform: Platform, *, context: Context
) -> tuple[LockedTree, dict[str, bytes]]:
    """The base's files that the lock knows, and the RECORDs of its packages by distribution (`*.dist-info`).

    Raises `MismatchError` when one is missing.
    """
    return _tree(project.root, lock, platform, context=context)


def _tree(root: Path, lock: Lock, platform: Platform, *, context: Context) -> tuple[LockedTree, dict[str, bytes]]:
    locked = lock.base.platforms[str(platform)]
    wanted = {file.path: file.before for file in locked.files if file.before is not None}
    contents = _read(root, lock, platform, wanted, context=context)
    # The file lists stay in the tree: they tell what the packages have, and what was compiled.
    owners = {
        package: Distribution(each.name, each.version, each.dist_info)
        for package, each in locked.distributions(lock.package).items()
    }
    executable = {file.path for file in locked.files if file.executable}
    unnamed = {name for overlay in lock.overlays for name in overlay.unnamed}
    tree = LockedTree(locked.root, locked.python, owners, contents, executable, unnamed)
    return tree, _records_in(locked, lock, contents)


def installed_records(root: Path, lock: Lock, platform: Platform, *, context: Context) -> dict[str, bytes]:
    """The base's RECORDs of the packages' distributions, by `*.dist-info`; without those that it does not have."""
    locked = lock.base.platforms[str(platform)]
    return _records_in(locked, lock, _read(root, lock, platform, {}, context=context))


def _records_in(locked: LockedPlatform, lock: Lock, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    infos = dict.fromkeys(each.dist_info for each in locked.distributions(lock.package).values())
    return {info: contents[path] for info in infos if (path := record_path(info)) in contents}


def _records_of(lock: Lock, locked: LockedPlatform, installed: Mapping[str, bytes]) -> list[InstalledRecord]:
    owners = locked.distributions(lock.package)
    return [
        InstalledRecord(info, [package for package, each in owners.items() if each.dist_info == info], data)
        for info, data in installed.items()
        if data
    ]


def record_path(dist_info: str) -> str:
    """A distribution's RECORD, relative to the folder of its packages."""
    return f"{dist_info}/RECORD"


def _read(
    root: Path, lock: Lock, platform: Platform, files: Mapping[str, str], *, context: Context
) -> dict[str, bytes]:
    """Files of the base by path and SHA-256, and each RECORD that the lock has; from the wheel of each distribution first."""
    locked = lock.base.platforms[str(platform)]

    @cache
    def tree() -> PackageTree:
        return open_locked(lock.base, root=root, context=context).tree(platform, *lock.packages)

    @cache
    def layers() -> LockedLayers:
        image = base_image(root, lock, platform, context=context)
        return LockedLayers(open_locked(lock.base, root=root, context=context), image, context)

    found: dict[str, bytes] = {}
    owners = locked.distributions(lock.package)
    for package, owner in owners.items():
        wanted = {path: digest for path, digest in files.items() if _owner(path, lock, owners) == package}
        if owner.record is not None:
            wanted[record_path(owner.dist_info)] = owner.record
        release = None if lock.base.wheel else (owner.name, owner.version, package)
        found |= read_locked(
            wanted, cache=ContentCache(), release=release, platform=platform, tree=tree, context=context,
            layers=layers if lock.base.parsed.kind == "registry" else None,
        )  # fmt: skip
    return found


def _owner(path: str, lock: Lock, owners: Collection[str]) -> str:
    """The package that a file is of; what is in none of them was moved from beside the lock's own."""
    head = path.partition("/")[0]
    return head if head in owners else lock.package


def base_image(root: Path, lock: Lock, platform: Platform, *, context: Context) -> BaseImage:
    """The locked base: manifest and config by their digests, from the cache when they are there, else from the base."""
    locked = lock.base.platforms[str(platform)]
    cache = ContentCache()
    manifest = cache.get(locked.manifest.removeprefix("sha256:"))
    config = cache.get(locked.config.removeprefix("sha256:"))
    if manifest is None or config is None:
        image = open_locked(lock.base, root=root, context=context).image(platform)
        if image.manifest.digest != locked.manifest or image.digest != lock.base.digest:
            raise MismatchError(
                f"the base {lock.base.reference} is not the one that was locked",
                details=[("wanted", locked.manifest), ("found", image.manifest.digest)],
                hint="run `builder lock` and look at the difference",
            )
        manifest, config = image.manifest_bytes, image.config_bytes
        cache.put(manifest)
        cache.put(config)
    _check_base(locked, manifest, config)
    return BaseImage(
        reference=lock.base.reference,
        digest=lock.base.digest,
        manifest=Descriptor(locked.manifest_type, locked.manifest, locked.manifest_size),
        manifest_bytes=manifest,
        config_bytes=config,
        platform=platform,
        wheels=_wheels(lock),
    )


def _wheels(lock: Lock) -> tuple[tuple[str, str], ...]:
    if lock.base.wheels:
        return tuple((each.file, each.sha256) for each in lock.base.wheels)
    return ((lock.base.wheel, lock.base.digest.removeprefix("sha256:")),) if lock.base.wheel else ()


def _check_base(locked: LockedPlatform, manifest: bytes, config: bytes) -> None:
    """Raise `MismatchError` when what the lock says of the base's manifest is not so."""
    try:
        document = json.loads(manifest)
        found_type, found_config = document.get("mediaType"), document["config"]["digest"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MismatchError("the locked base is not an image", details=[("where", locked.manifest)]) from error
    pairs = [
        ("manifest_size", str(len(manifest)), str(locked.manifest_size)),
        # A manifest of OCI may leave its media type out.
        ("manifest_type", str(found_type or locked.manifest_type), locked.manifest_type),
        ("config", str(found_config), locked.config),
        ("config", f"sha256:{sha256(config)}", locked.config),
    ]
    for key, wanted, found in pairs:
        if wanted != found:
            raise MismatchError(
                f"the lock's {key} is not that of its base",
                details=[("wanted", wanted), ("found", found)],
                hint="the lock was edited: run `builder lock` and look at the difference",
            )


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
