"""SLSA provenance v1 of an image: what it was built from, each part by digest.

Source: in-toto Statement v1 and SLSA provenance v1. It holds no time and no run, so that two builds of one lock have the
same provenance at one commit of the repository that the recipe is in; `BUILDER_ID` names who built, as a URI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from builder import __version__
from builder.documents.lock import Lock, LockedOverlay
from builder.oci.types import Descriptor
from builder.release.evidence.repository import Repository
from builder.util.files import sha256

RECIPE = "recipe repository"
BUILD_TYPE = "urn:overlay-image-builder:recipe:v1"


def make_provenance(
    lock: Lock,
    subject: Descriptor,
    platforms: list[str],
    *,
    builder: tuple[str, str] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> bytes:
    """The statement about the manifest (or index) `subject`.

    `builder` is who built, as URI and version; default: this tool here. `recipe` is where the recipe is kept, as
    `recipe_source` describes it.
    """
    who, version = builder or (os.environ.get("BUILDER_ID") or "urn:overlay-image-builder:local", __version__)
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": lock.name, "digest": {"sha256": subject.digest.removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": lock.name, "recipeDigest": lock.recipe, "platforms": platforms},
                "internalParameters": {"inputs": lock.inputs, "epoch": lock.epoch},
                "resolvedDependencies": [*_dependencies(lock, platforms), *([dict(recipe)] if recipe else [])],
            },
            "runDetails": {
                "builder": {
                    "id": who,
                    "version": {"overlay-image-builder": version},
                }
            },
        },
    }
    return json.dumps(statement, indent=1, ensure_ascii=False).encode() + b"\n"


def recipe_source(repository: Repository) -> dict[str, Any]:
    """The repository that the recipe is in, as a resource descriptor: by commit, and whether the work tree differed from it."""
    uri = f"git+{repository.remote or f'file:{repository.root.name}'}@{repository.commit}"
    return {
        "name": RECIPE,
        "uri": uri,
        "digest": {"gitCommit": repository.commit},
        "annotations": {"dirty": repository.dirty},
    }


def _dependencies(lock: Lock, platforms: list[str]) -> list[dict[str, Any]]:
    found = [{"name": "base", "uri": _base_uri(lock), "digest": _sha256(lock.base.digest)}]
    for wheel, name in zip(lock.base.wheels, lock.base.parsed.wheels, strict=True) if lock.base.wheels else ():
        found.append({"name": f"wheel {wheel.file}", "uri": _wheel_uri(name), "digest": {"sha256": wheel.sha256}})
    for platform in platforms:
        manifest = lock.base.platforms[platform].manifest
        found.append({"name": f"base ({platform})", "uri": _base_uri(lock), "digest": _sha256(manifest)})
    found += [_overlay(overlay) for overlay in lock.overlays]
    found += _brought(lock, platforms)
    if lock.checkpoint is not None:
        checkpoint = lock.checkpoint
        uri = f"file:{checkpoint.path}" if checkpoint.path else "urn:overlay-image-builder:checkpoint"
        if checkpoint.repo:
            uri = f"pkg:huggingface/{checkpoint.repo}@{checkpoint.revision}"
        elif checkpoint.oci:
            uri = f"oci://{checkpoint.oci}"
        found.append({"name": "checkpoint", "uri": uri, "digest": {"sha256": checkpoint.digest}})
    found.append({"name": "lock", "uri": f"file:{lock.name}.lock.yaml", "digest": {"sha256": sha256(lock.dump())}})
    found.append(
        {"name": "serve entrypoint", "uri": "file:builder/serve/entrypoint.py", "digest": {"sha256": lock.entrypoint}}
    )
    return found


def _brought(lock: Lock, platforms: list[str]) -> list[dict[str, Any]]:
    """Wheels and files that the recipe adds, each once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for platform in platforms:
        locked = lock.base.platforms[platform]
        for each in locked.installed:
            if each.file is not None and each.sha256 is not None:
                uri = f"file:{each.id}" if each.id.endswith(".whl") else _wheel_uri(each.id)
                found[each.file, each.sha256] = {
                    "name": f"wheel {each.file}", "uri": uri, "digest": {"sha256": each.sha256},
                }  # fmt: skip
        for file in locked.added:
            found[file.source, file.sha256] = {
                "name": f"file {file.source}", "uri": f"file:{file.source}", "digest": {"sha256": file.sha256},
            }  # fmt: skip
    return list(found.values())


def _overlay(overlay: LockedOverlay) -> dict[str, Any]:
    digest = {"sha256": overlay.digest}
    uri = f"file:{overlay.diff}"
    if overlay.head is not None:
        repository, _, number = overlay.id.partition("#")
        uri = f"git+https://github.com/{repository}@refs/pull/{number}/head"
        digest["gitCommit"] = overlay.head
    found: dict[str, Any] = {"name": f"overlay {overlay.id}", "uri": uri, "digest": digest}
    notes = {"mergeBase": overlay.merge_base, **overlay.about()}
    if any(notes.values()):
        found["annotations"] = {key.replace("drop_when", "dropWhen"): value for key, value in notes.items() if value}
    return found


def _base_uri(lock: Lock) -> str:
    base = lock.base.parsed
    if len(base.wheels) > 1:
        return base.text
    if base.kind == "wheel":
        return _wheel_uri(base.target)
    return f"docker://{base.image}" if base.kind == "registry" else base.text


def _wheel_uri(wheel: str) -> str:
    return f"pkg:pypi/{wheel.replace('==', '@')}"


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}
