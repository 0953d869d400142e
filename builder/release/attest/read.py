"""What a document beside an image is, what it says, and who signed it: the one place that opens envelopes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final, Literal

from builder.documents.statement import CYCLONEDX, PROVENANCE_V1, SUMMARY_V1, Statement, parse_statement
from builder.documents.verdict import PREDICATE as TEST_RESULT
from builder.oci.artifact import BUNDLE, IN_TOTO, LOCK, SBOM, SOURCES, VERDICT
from builder.release.attest.bundle import parse_bundle
from builder.release.attest.signed import UNSIGNED, SignedBy
from builder.release.attest.trust import NOBODY, Trust

Kind = Literal["lock", "sources", "SBOM", "provenance", "verdict", "promotion"]

_PLAIN: Final[dict[str, Kind]] = {LOCK: "lock", SOURCES: "sources", SBOM: "SBOM", VERDICT: "verdict"}
_PREDICATES: Final[dict[str, Kind]] = {
    PROVENANCE_V1: "provenance", CYCLONEDX: "SBOM", TEST_RESULT: "verdict", SUMMARY_V1: "promotion",
}  # fmt: skip
TYPES: Final = (*_PLAIN, IN_TOTO, BUNDLE)
"""The artifact types that are read; everything else beside an image is somebody else's."""


def name_of(artifact_type: str) -> str:
    """What a document that cannot be read is called in messages."""
    return _PLAIN.get(artifact_type) or {IN_TOTO: "statement", BUNDLE: "bundle"}.get(
        artifact_type, "of an unknown kind"
    )


@dataclass(frozen=True)
class Opened:
    """A document. `data` is what it says: a statement, and of an SBOM the SBOM itself, as it is without a signature.

    `statement` is what the signature covers; None for documents that are no statements, which nobody signs.
    """

    kind: Kind
    data: bytes = field(repr=False)
    signed: SignedBy = UNSIGNED
    statement: Statement | None = field(default=None, repr=False)


def open_document(artifact_type: str, data: bytes, trust: Trust = NOBODY) -> Opened | None:
    """Open a document by its artifact type; None when it is of a kind that this tool does not read.

    A signature that is not to be trusted is reported, not refused: the caller decides. Raises `InputError` for an envelope or
    a statement that cannot be read.
    """
    if artifact_type in _PLAIN:
        return Opened(_PLAIN[artifact_type], data)
    if artifact_type == IN_TOTO:
        return _statement(data, UNSIGNED)
    if artifact_type != BUNDLE:
        return None
    bundle = parse_bundle(data)
    return _statement(bundle.payload, trust.check(bundle)) if bundle is not None else None


def read(artifact_type: str, data: bytes, trust: Trust = NOBODY) -> tuple[bytes, SignedBy] | None:
    """The document and who signed it (`str` of that is "unsigned" for a document without an envelope)."""
    found = open_document(artifact_type, data, trust)
    return (found.data, found.signed) if found is not None else None


def _statement(data: bytes, signed: SignedBy) -> Opened | None:
    statement = parse_statement(data, name="the statement")
    kind = _PREDICATES.get(statement.predicate_type)
    if kind is None:
        return None
    if kind == "SBOM":
        data = json.dumps(statement.predicate, ensure_ascii=False).encode()
    return Opened(kind, data, signed, statement)
