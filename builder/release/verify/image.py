"""Comparing an image with its own record, and the record with the lock."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from builder.documents.lock import ABOUT, Lock
from builder.documents.record import make_record
from builder.image.labels import ENTRYPOINT, INPUTS_LABEL, RECORD_LABEL
from builder.image.layer import WHITEOUT
from builder.image.tags import make_tags
from builder.oci.types import INDEX_TYPES, Descriptor
from builder.pipeline.locking.base import OWN_FOLDER
from builder.release.verify.evidence import Attached, attached_lock, check_evidence
from builder.release.verify.problem import Problem
from builder.release.verify.reader import Reader, manifests, read_json
from builder.util.errors import MismatchError
from builder.util.files import sha256


@dataclass(frozen=True)
class Contents:
    """What an image's own layer holds: files by path from `/`, and the paths that it removes."""

    record: Mapping[str, Any]
    record_bytes: bytes = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    removed: frozenset[str]


def read_layer(data: bytes) -> Contents:
    """Take our layer apart. Raises `MismatchError` when it is not one of ours."""
    files: dict[str, bytes] = {}
    removed: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.name.startswith(WHITEOUT):
                    removed.add(str(path.with_name(path.name.removeprefix(WHITEOUT))))
                elif member.isfile():
                    stream = archive.extractfile(member)
                    files[member.name] = stream.read() if stream else b""
        record_bytes = files[f"{OWN_FOLDER}/record.json"]
        record = json.loads(record_bytes)
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise MismatchError(
            "the image's last layer is not one that this tool made",
            details=[("why", repr(error))],
            hint="name an image that `builder build` or `builder publish` made",
        ) from error
    return Contents(record, record_bytes, files, frozenset(removed))


def compare_record(contents: Contents, config: Mapping[str, Any]) -> list[Problem]:
    """Config and layer against the record that is in the layer."""
    problems: list[Problem] = []
    settings = config.get("config") or {}
    labels = settings.get("Labels") or {}
    record = contents.record

    def expect(where: str, wanted: object, found: object) -> None:
        if wanted != found:
            problems.append(Problem(where, str(wanted), str(found)))

    expect(f"label {RECORD_LABEL}", f"sha256:{sha256(contents.record_bytes)}", labels.get(RECORD_LABEL))
    expect(f"label {INPUTS_LABEL}", f"sha256:{record.get('inputs')}", labels.get(INPUTS_LABEL))
    expect(
        "label org.opencontainers.image.base.digest",
        record["base"]["digest"],
        labels.get("org.opencontainers.image.base.digest"),
    )
    expect("config ENTRYPOINT", list(ENTRYPOINT), settings.get("Entrypoint"))
    expect("config CMD", [], settings.get("Cmd") or [])
    serve = contents.files.get(f"{OWN_FOLDER}/serve", b"")
    expect(f"/{OWN_FOLDER}/serve", record.get("entrypoint"), sha256(serve))
    root = record["package"]["root"]
    for file in record["files"]:
        path = f"{root}/{file['path']}"
        if file["after"] is None:
            expect(f"/{path}", "deleted", "deleted" if path in contents.removed else "not deleted")
        elif path in contents.files:
            expect(f"/{path}", file["after"], sha256(contents.files[path]))
        elif file["before"] != file["after"]:
            expect(f"/{path}", file["after"], "not in the layer")
    known = {f"{root}/{file['path']}" for file in record["files"]} | {
        f"{OWN_FOLDER}/serve",
        f"{OWN_FOLDER}/record.json",
    }
    for path in sorted(contents.files.keys() - known):
        if not path.endswith(".dist-info/RECORD"):
            expect(f"/{path}", "not in the record", "in the layer")
    return problems


def compare_lock(contents: Contents, lock: Lock, platform: str) -> list[Problem]:
    """The record against the lock that the image should come from."""
    base = contents.record["base"]
    wanted = json.loads(make_record(lock, platform, base_config={"Entrypoint": base["entrypoint"], "Cmd": base["cmd"]}))
    problems = []
    for key in sorted(wanted.keys() | contents.record.keys()):
        if wanted.get(key) != contents.record.get(key):
            problems.append(Problem(f"record {key}", _short(wanted.get(key)), _short(contents.record.get(key))))
    return problems


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


@dataclass(frozen=True)
class Verified:
    """What was found about one image."""

    problems: tuple[Problem, ...]
    platforms: tuple[Mapping[str, Any], ...]
    evidence: int | None
    """How many pieces of evidence were compared; None where evidence cannot be kept or was not asked for."""
    overlays: tuple[Mapping[str, Any], ...] = ()
    """What the record says of its overlays: `id`, `digest`, and what is known beside."""


def verify(reader: Reader, lock: Lock | None, *, evidence: bool) -> Verified:
    """Compare every platform of an image with its record, the record with `lock`, and what is attached with both.

    Without a lock, the one that travels with the image stands for it.
    """
    problems: list[Problem] = []
    summary: list[dict[str, Any]] = []
    compared = None
    platforms: list[str] = []
    overlays: list[dict[str, Any]] = []
    for descriptor in manifests(reader):
        manifest = read_json(reader, descriptor)
        contents, found = _check_manifest(reader, manifest)
        problems += found
        recorded = str(contents.record.get("platform"))
        platforms.append(recorded)
        overlays = [{key: each.get(key) for key in ("id", "digest", *ABOUT)} for each in contents.record["overlays"]]
        attached = reader.evidence(descriptor.digest) if evidence else None
        known = lock or attached_lock(attached or [])
        if known is not None:
            if recorded in known.base.platforms:
                problems += compare_lock(contents, known, recorded)
            else:
                problems.append(Problem("platform", ", ".join(known.base.platforms), recorded))
        if attached is not None:
            compared = (compared or 0) + len(attached)
            problems += _evidence(attached, descriptor, known, [recorded])
        problems += check_tag(reader.tag, contents.record)
        summary.append({"platform": recorded, "digest": descriptor.digest, "files": len(contents.record["files"])})
    if evidence and reader.top.media_type in INDEX_TYPES:
        attached = reader.evidence(reader.top.digest)
        if attached is not None:
            compared = (compared or 0) + len(attached)
            problems += _evidence(attached, reader.top, lock or attached_lock(attached), platforms, index=True)
    return Verified(tuple(dict.fromkeys(problems)), tuple(summary), compared, tuple(overlays))


def _evidence(
    attached: Attached, subject: Descriptor, lock: Lock | None, platforms: list[str], *, index: bool = False
) -> list[Problem]:
    if lock is None or any(platform not in lock.base.platforms for platform in platforms):
        return [Problem(f"evidence of {subject.digest[:19]}", "a lock that can be read", "missing")]
    return check_evidence(attached, subject, lock, platforms, index=index)


def _check_manifest(reader: Reader, manifest: Mapping[str, Any]) -> tuple[Contents, list[Problem]]:
    """A manifest, its config and its last layer against the record in the layer."""
    config = read_json(reader, Descriptor.from_json(manifest["config"]))
    data = reader.read(Descriptor.from_json(manifest["layers"][-1]))
    contents = read_layer(data)
    problems = compare_record(contents, config)
    diff_ids = config.get("rootfs", {}).get("diff_ids", [])
    if len(diff_ids) != len(manifest["layers"]) or diff_ids[-1] != f"sha256:{sha256(data)}":
        problems.append(Problem("config rootfs.diff_ids", f"… sha256:{sha256(data)}", str(diff_ids[-1:])))
    platform = f"{config.get('os')}/{config.get('architecture')}"
    if not str(contents.record.get("platform", platform)).startswith(platform):
        problems.append(Problem("record platform", platform, str(contents.record.get("platform"))))
    return contents, problems


def check_tag(tag: str | None, record: Mapping[str, Any]) -> list[Problem]:
    """A tag that follows from digests must be this image's; other names promise nothing."""
    checkpoint = (record.get("checkpoint") or {}).get("digest")
    own = make_tags(checkpoint, str(record.get("inputs")))
    if tag is None or not re.fullmatch(r"ckpt-[0-9a-f]{12}(-[0-9a-f]{12})?|inputs-[0-9a-f]{12}", tag) or tag in own.all:
        return []
    return [Problem(f"tag {tag}", " or ".join(own.all), tag)]
