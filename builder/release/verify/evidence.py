"""The evidence of an image: is it there, is it about this image, and does it say what the lock says?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builder.documents.lock import Lock
from builder.documents.yamlfile import parse_yaml, validate_document
from builder.oci.artifact import LOCK, PROVENANCE, SBOM, VERDICT
from builder.oci.types import Descriptor
from builder.release.evidence.provenance import make_provenance
from builder.release.evidence.sbom import make_sbom
from builder.release.verify.problem import Problem
from builder.util.errors import BuilderError, InputError

_NAMES = {SBOM: "SBOM", PROVENANCE: "provenance", LOCK: "lock", VERDICT: "verdict"}

Attached = Sequence[tuple[dict[str, Any], bytes]]


def attached_lock(attached: Attached) -> Lock | None:
    """The lock that travels with the image, when it is there and can be read."""
    for manifest, document in attached:
        if manifest.get("artifactType") == LOCK:
            try:
                return validate_document(Lock, parse_yaml(document.decode(), "the attached lock"))
            except (BuilderError, UnicodeDecodeError):
                return None
    return None


def check_evidence(
    attached: Attached, subject: Descriptor, lock: Lock, platforms: list[str], *, index: bool = False
) -> list[Problem]:
    """Compare what is attached to a manifest with what follows from `lock`. An index has no SBOM of its own."""
    problems: list[Problem] = []
    wanted: dict[str, Callable[[bytes], Problem | None]] = {
        PROVENANCE: lambda data: _same_json("provenance", make_provenance(lock, subject, platforms), data, _no_run),
        LOCK: lambda data: None if data == lock.dump() else Problem("lock", lock.inputs, "another lock"),
    }
    if not index:
        wanted[SBOM] = lambda data: _same_json("SBOM", make_sbom(lock, platforms[0], subject), data, _no_tools)
    seen = set()
    for manifest, document in attached:
        kind = str(manifest.get("artifactType"))
        name = _NAMES.get(kind, kind)
        about = (manifest.get("subject") or {}).get("digest")
        if about != subject.digest:
            problems.append(Problem(f"evidence {name}, subject", subject.digest, str(about)))
        elif kind in wanted:
            seen.add(kind)
            problem = wanted[kind](document)
            if problem is not None:
                problems.append(Problem(f"evidence {problem.where}", problem.wanted, problem.found))
        elif kind == VERDICT and subject.digest.encode() not in document:
            problems.append(Problem("evidence verdict", f"names {subject.digest}", "does not"))
    problems += [
        Problem(f"evidence {_NAMES[kind]} of {subject.digest[:19]}", "attached", "missing")
        for kind in wanted
        if kind not in seen
    ]
    return problems


def _same_json(
    what: str, wanted: bytes, found: bytes, relevant: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> Problem | None:
    try:
        document = json.loads(found)
        if not isinstance(document, dict):
            raise InputError(f"the {what} is not a JSON object")
    except (ValueError, InputError) as error:
        return Problem(what, "a JSON document", str(error))
    left, right = relevant(json.loads(wanted)), relevant(document)
    for key in dict.fromkeys([*left, *right]):
        if left.get(key) != right.get(key):
            return Problem(f"{what}, {key}", _short(left.get(key)), _short(right.get(key)))
    return None


def _no_run(statement: dict[str, Any]) -> dict[str, Any]:
    """A provenance without who built: anybody may rebuild."""
    predicate = dict(statement.get("predicate") or {})
    predicate.pop("runDetails", None)
    return {**statement, "predicate": predicate}


def _no_tools(bom: dict[str, Any]) -> dict[str, Any]:
    """An SBOM without the versions of the tools that wrote it."""
    metadata = dict(bom.get("metadata") or {})
    metadata.pop("tools", None)
    return {**{key: value for key, value in bom.items() if key != "$schema"}, "metadata": metadata}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
