"""An image, derived again from its lock: what it should be, to the byte.

Contents come from the diffs where they are at hand, else from the image itself by the digests in the lock. The base's
manifest, config and files come by their digests, from the cache, the wheel or the base's own place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.base.model import BaseImage
from builder.documents.lock import Lock
from builder.documents.reference import Platform
from builder.image.built import Built
from builder.oci.types import Descriptor, encode
from builder.patch.model import Overlay
from builder.pipeline.build import build_images
from builder.pipeline.locking.base import OWN_FOLDER
from builder.pipeline.locking.make import ENTRYPOINT_SOURCE
from builder.pipeline.plan import (
    Plan,
    check_epoch,
    compose_plan,
    plan_of_contents,
    plan_of_stack,
    record_path,
    result_of_contents,
)
from builder.release.verify.brought import brought_by
from builder.release.verify.compare import Parts, object_of
from builder.release.verify.problem import MISSING, Problem
from builder.release.verify.tars import TarEntry, layer_tar, read_tar
from builder.util.context import Context
from builder.util.files import sha256


@dataclass(frozen=True)
class Given:
    """What the derivation may use. `overlays` is None where the diffs are not at hand."""

    lock: Lock
    overlays: Sequence[Overlay] | None
    root: Path
    context: Context


@dataclass(frozen=True)
class Derived:
    """The image as it should be, or why it cannot be made of what the image holds (`problems`)."""

    built: Built | None
    problems: tuple[Problem, ...] = ()


def derive(given: Given, found: Mapping[str, Parts]) -> Derived:
    """Derive every platform of a lock. `found` has the image as it is, for contents that are taken by digest.

    Raises `InputError` or `UnreachableError` when the base cannot be reached, `MismatchError` and `ApplyError` when the lock
    contradicts itself, its diffs or its base.
    """
    plans: list[Plan] = []
    problems: list[Problem] = []
    for name in given.lock.base.platforms:
        entries = _entries(found.get(name))
        serve = _entrypoint(given.lock, entries, problems)
        brought = brought_by(given.lock.base.platforms[name], entries, problems)
        platform = Platform.parse(name)
        if given.overlays is not None:
            plans.append(
                plan_of_stack(
                    given.lock,
                    platform,
                    given.overlays,
                    entrypoint=serve,
                    root=given.root,
                    context=given.context,
                    brought=brought,
                )
            )
            continue
        contents = _contents(given.lock, name, entries, problems)
        if contents is not None:
            plans.append(
                plan_of_contents(
                    given.lock,
                    platform,
                    contents,
                    entrypoint=serve,
                    root=given.root,
                    context=given.context,
                    brought=brought,
                )
            )
    if problems:
        return Derived(None, tuple(dict.fromkeys(problems)))
    check_epoch(given.lock, [plan.base for plan in plans])
    return Derived(build_images(given.lock, plans))


def derive_without_base(lock: Lock, found: Mapping[str, Parts]) -> Derived:
    """The same with the base's part taken from the image: finds what is wrong with our own part."""
    plans: list[Plan] = []
    problems: list[Problem] = []
    for name in lock.base.platforms:
        parts = found.get(name)
        if parts is None:
            continue
        entries = _entries(parts)
        serve = _entrypoint(lock, entries, problems)
        contents = _contents(lock, name, entries, problems)
        base = _base_of(lock, name, parts, entries)
        more = brought_by(lock.base.platforms[name], entries, problems)
        for path in _records(lock, name):
            if path in entries:
                more[path] = (entries[path].data, 0o644)
            else:
                problems.append(Problem(f"layer entry {path}", "a file in the layer", MISSING))
        if contents is None:
            continue
        result = result_of_contents(lock, base.platform, contents)
        plans.append(compose_plan(lock, base, result, {}, serve, more))
    if problems:
        return Derived(None, tuple(dict.fromkeys(problems)))
    return Derived(build_images(lock, plans) if plans else None)


def _records(lock: Lock, name: str) -> list[str]:
    """The RECORDs that the layer of a platform has, by path from `/`: of every package, where the base has one."""
    locked = lock.base.platforms[name]
    owners = locked.distributions(lock.package).values()
    found = [record_path(each.dist_info) for each in owners if each.record is not None]
    return list(dict.fromkeys(f"{locked.root}/{path}" for path in found))


def _entries(parts: Parts | None) -> dict[str, TarEntry]:
    return {entry.name: entry for entry in read_tar(layer_tar(parts.layer)).entries} if parts is not None else {}


def _entrypoint(lock: Lock, entries: Mapping[str, TarEntry], problems: list[Problem]) -> bytes:
    """The serve entrypoint that the lock names: ours, or the image's own when another version of this tool built it."""
    ours = ENTRYPOINT_SOURCE.read_bytes()
    if sha256(ours) == lock.entrypoint:
        return ours
    path = f"{OWN_FOLDER}/serve"
    for entry in entries.values():
        if sha256(entry.data) == lock.entrypoint:
            return entry.data
    held = entries.get(path)
    problems.append(
        Problem(
            f"layer entry {path}, content",
            f"sha256:{lock.entrypoint}",
            f"sha256:{sha256(held.data)}" if held else MISSING,
        )
    )
    return ours


def _contents(
    lock: Lock, name: str, entries: Mapping[str, TarEntry], problems: list[Problem]
) -> dict[str, tuple[bytes, int]] | None:
    """What the patched files become, by the lock's digests. The lock does not know their modes: 644 and 755 are taken."""
    locked = lock.base.platforms[name]
    by_digest = {sha256(entry.data): entry for entry in entries.values() if entry.is_file}
    contents: dict[str, tuple[bytes, int]] = {}
    whole = True
    for file in locked.files:
        path = f"{locked.root}/{file.path}"
        if file.after is None or (file.after == file.before and path not in entries):
            continue
        entry = by_digest.get(file.after)
        held = entries.get(path)
        if entry is None:
            digest = f"sha256:{sha256(held.data)}" if held is not None else MISSING
            problems.append(Problem(f"layer entry {path}, content", f"sha256:{file.after}", digest))
            whole = False
            continue
        mode = held.mode if held is not None and held.mode in (0o644, 0o755) else None
        contents[file.path] = (entry.data, mode or (0o755 if file.executable else 0o644))
    return contents if whole else None


def _base_of(lock: Lock, name: str, parts: Parts, entries: Mapping[str, TarEntry]) -> BaseImage:
    """The base as the image repeats it: everything but the last layer and our part of the config."""
    manifest, config = object_of(parts.manifest), object_of(parts.config)
    layers = manifest.get("layers")
    manifest = {**manifest, "layers": list(layers[:-1]) if isinstance(layers, list) else []}
    record = object_of(entries[f"{OWN_FOLDER}/record.json"].data) if f"{OWN_FOLDER}/record.json" in entries else {}
    was = record.get("base") if isinstance(record.get("base"), dict) else {}
    settings = dict(config["config"]) if isinstance(config.get("config"), dict) else {}
    settings["Entrypoint"] = _words(was, "entrypoint")
    settings["Cmd"] = _words(was, "cmd")
    config = {**config, "config": settings}
    rootfs = config.get("rootfs")
    if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
        config["rootfs"] = {**rootfs, "diff_ids": rootfs["diff_ids"][:-1]}
    if isinstance(config.get("history"), list):
        config["history"] = config["history"][:-1]
    kept = manifest["config"] if isinstance(manifest.get("config"), dict) else {}
    manifest["config"] = {"mediaType": "application/vnd.oci.image.config.v1+json", **kept}
    data = encode(manifest)
    media_type = lock.base.platforms[name].manifest_type
    return BaseImage(
        lock.base.reference, lock.base.digest, Descriptor(media_type, f"sha256:{sha256(data)}", len(data)), data,
        encode(config), Platform.parse(name),
    )  # fmt: skip


def _words(record: Any, key: str) -> list[str] | None:
    words = record.get(key) if isinstance(record, dict) else None
    return [str(word) for word in words] if isinstance(words, list) else None
