"""Verdicts where they are: in a file, or attached to a published image. Who signed them is checked against a caller's signers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.documents.verdict import Verdict
from builder.gate.results import read_results
from builder.release.attest.bundle import parse_bundle
from builder.release.attest.signed import UNSIGNED, SignedBy
from builder.release.attest.trust import NOBODY, Trust
from builder.release.verify.reader import manifests, open_reader
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import file_sha256, read_regular, unreadable

_LIMIT = 64 << 20


@dataclass(frozen=True)
class Found:
    """A verdict, where it was found, and who signed it."""

    verdict: Verdict
    where: str
    signed: SignedBy = UNSIGNED


def in_file(path: Path, trust: Trust = NOBODY) -> Found:
    """The verdict in a file: a statement, or a Sigstore bundle around one. Raises `InputError`."""
    try:
        data = read_regular(path, limit=_LIMIT)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        bundle = parse_bundle(data)
    except InputError:
        bundle = None  # a statement, or nothing that anybody reads
    if bundle is None:
        return Found(Verdict.parse(data, name=str(path)), str(path))
    return Found(Verdict.parse(bundle.payload, name=str(path)), str(path), trust.check(bundle))


def attached(reference: str, trust: Trust = NOBODY, *, context: Context) -> list[Found]:
    """The verdicts that are attached to an image and to its index, the newest first. What cannot be read is a warning."""
    reader = open_reader(reference, context=context, trust=trust)
    found = []
    for subject in sorted({reader.top.digest, *(each.digest for each in manifests(reader))}):
        for each in reader.evidence(subject):
            if each.kind != "verdict":
                continue
            try:
                verdict = Verdict.parse(each.document, name=each.digest)
            except InputError as error:
                context.console.warn(f"{error.message}: {error.details[0][1]}")
                continue
            found.append(Found(verdict, f"{subject} <- {each.digest}", each.signed))
    return sorted(found, key=lambda each: each.verdict.ended, reverse=True)


def rows_beside(path: Path, verdict: Verdict) -> list[dict[str, Any]]:
    """The rows of a verdict: `NAME.rows.jsonl` beside `NAME.json`, when it is the file that the verdict names; else none."""
    rows = path.with_name(f"{path.name.removesuffix('.json')}.rows.jsonl")
    if not rows.is_file() or file_sha256(rows) != verdict.config("results"):
        return []
    return read_results(rows)
