"""The record: `/opt/builder/record.json`, what an image says about itself. The entrypoint reads it with the standard library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from builder.documents.lock import Lock, LockedPlatform
from builder.documents.recipe import Requirements

RECORD_SCHEMA = 1
MODEL_FOLDER = "/model"


def make_record(lock: Lock, platform: str, *, base_config: Mapping[str, Any]) -> bytes:
    """The record of one platform's image. `base_config` is the `config` object of the base's image config."""
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
        },
        "package": {
            "name": lock.package,
            "root": locked.root,
            "python": locked.python,
            "distribution": locked.distribution.name,
            "version": locked.distribution.version,
        },
        "overlays": [
            overlay.model_dump(mode="json", exclude={"rendering"}, exclude_none=True, exclude_defaults=True)
            for overlay in lock.overlays
        ],
        "files": _files(locked),
        "removed": list(locked.bytecode),
        "entrypoint": lock.entrypoint,
        "model": MODEL_FOLDER,
        "profiles": {
            profile.name: {
                "description": profile.description,
                "argv": profile.argv(),
                **({"hardware": profile.hardware.model_dump(mode="json")} if profile.hardware else {}),
                **({"envelope": profile.envelope.model_dump(mode="json")} if profile.envelope else {}),
            }
            for profile in lock.profiles
        },
        "default_profile": lock.default_profile,
        "checkpoint": _checkpoint(lock),
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _files(locked: LockedPlatform) -> list[dict[str, Any]]:
    return [
        {"path": file.path, "before": file.before, "after": file.after, "overlays": list(file.overlays)}
        for file in locked.files
    ]


def _checkpoint(lock: Lock) -> dict[str, Any]:
    """What is served: its digest and files when they were locked, and what the overlays need of it."""
    needs = [overlay.requires for overlay in lock.overlays if overlay.requires is not None]
    merged = Requirements(
        opt_ins=tuple(dict.fromkeys(name for each in needs for name in each.opt_ins)),
        tensors={name: rule for each in needs for name, rule in each.tensors.items()},
    )
    document: dict[str, Any] = {"requires": merged.model_dump(mode="json")}
    if lock.checkpoint is not None:
        document |= lock.checkpoint.model_dump(mode="json", exclude_none=True)
    return document
