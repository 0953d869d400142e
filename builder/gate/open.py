"""Verdicts where they are: in a file, or attached to a published image."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.documents.verdict import Verdict
from builder.gate.results import read_results
from builder.oci.artifact import VERDICT
from builder.release.verify.reader import manifests, open_reader
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import file_sha256, read_regular

_LIMIT = 64 << 20
UNSIGNED = "unsigned"
BUNDLED = "signed, not verified here"


@dataclass(frozen=True)
class Found:
    """A verdict, where it was found, and who signed it."""

    verdict: Verdict
    where: str
    signed: str = UNSIGNED


def in_file(path: Path) -> Found:
    """The verdict in a file: a statement, or a Sigstore bundle around one. Raises `InputError`."""
    try:
        data = read_regular(path, limit=_LIMIT)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the name and its permissions") from error
    payload = _payload(data)
    if payload is not None:
        return Found(Verdict.parse(payload, name=str(path)), str(path), BUNDLED)
    return Found(Verdict.parse(data, name=str(path)), str(path))


def attached(reference: str, *, context: Context) -> list[Found]:
    """The verdicts that are attached to an image and to its index, the newest first. Raises `InputError` for one that cannot be read."""
    reader = open_reader(reference, context=context)
    subjects = {reader.top.digest, *(each.digest for each in manifests(reader))}
    found = [
        Found(Verdict.parse(each.document, name=each.digest), f"{subject} <- {each.digest}")
        for subject in sorted(subjects)
        for each in reader.evidence(subject)
        if each.kind == VERDICT and not each.problem
    ]
    return sorted(found, key=lambda each: each.verdict.ended, reverse=True)


def rows_beside(path: Path, verdict: Verdict) -> list[dict[str, Any]]:
    """The rows of a verdict: `NAME.rows.jsonl` beside `NAME.json`, when it is the file that the verdict names; else none."""
    rows = path.with_name(f"{path.name.removesuffix('.json')}.rows.jsonl")
    if not rows.is_file() or file_sha256(rows) != verdict.config("results"):
        return []
    return read_results(rows)


def _payload(data: bytes) -> bytes | None:
    """What a DSSE envelope in a bundle holds; None for other documents."""
    try:
        document = json.loads(data)
        envelope = document.get("dsseEnvelope") if isinstance(document, Mapping) else None
        return base64.b64decode(envelope["payload"], validate=True) if envelope else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
