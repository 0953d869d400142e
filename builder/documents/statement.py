"""in-toto Statement v1: what a document says about which digests. Provenance, SBOMs, verdicts and promotions have this form.

Source: in-toto attestation framework, Statement v1; predicate types of SLSA (provenance v1, verification summary v1),
CycloneDX (`https://cyclonedx.org/bom`, as cosign writes it) and in-toto (test result v0.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from builder.util.errors import InputError
from builder.util.strictjson import strict_json

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PROVENANCE_V1: Final = "https://slsa.dev/provenance/v1"
SUMMARY_V1: Final = "https://slsa.dev/verification_summary/v1"
CYCLONEDX: Final = "https://cyclonedx.org/bom"


@dataclass(frozen=True)
class Statement:
    """A statement. `digests` are its subjects as `sha256:HEX`; `data` are its bytes, which a signature covers."""

    digests: tuple[str, ...]
    predicate_type: str
    predicate: Mapping[str, Any] = field(repr=False)
    data: bytes = field(repr=False)


def parse_statement(data: bytes, *, name: str = "the document") -> Statement:
    """Read a statement. Raises `InputError` when it is not one, or when readers could disagree about it (repeated keys)."""
    document = json_object(data, name=name)
    subjects = document.get("subject")
    if document.get("_type") != STATEMENT_TYPE:
        raise _unreadable(name, f"_type is {str(document.get('_type'))[:100]!r}, not {STATEMENT_TYPE}")
    predicate_type, predicate = document.get("predicateType"), document.get("predicate")
    if not isinstance(predicate_type, str) or not predicate_type or not isinstance(predicate, dict):
        raise _unreadable(name, "it has no predicateType, or no predicate")
    if not isinstance(subjects, list) or not subjects:
        raise _unreadable(name, "it has no subject")
    digests = [each.get("digest") if isinstance(each, dict) else None for each in subjects]
    hexes = [each.get("sha256") if isinstance(each, dict) else None for each in digests]
    if not all(isinstance(each, str) for each in hexes):
        raise _unreadable(name, "a subject has no SHA-256")
    return Statement(tuple(f"sha256:{each}" for each in hexes), predicate_type, predicate, data)


def make_statement(subjects: Sequence[tuple[str, str]], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """The statement about `subjects` (name, `sha256:HEX`) as JSON. Raises `ValueError` when in-toto refuses it."""
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement as Checked

    listed = [(name, digest.removeprefix("sha256:")) for name, digest in subjects]
    Checked(
        [ResourceDescriptor(name=name, digest={"sha256": digest}).pb for name, digest in listed],
        predicate_type,
        dict(predicate),
    ).validate()
    # A protobuf Struct knows floats only, so the document is written from the values themselves.
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in listed],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def json_object(data: bytes, *, name: str) -> dict[str, Any]:
    """A JSON object without repeated keys. Raises `InputError`."""
    try:
        found = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON", details=[("why", str(error)[:200])]) from error
    if not isinstance(found, dict):
        raise InputError(f"{name} is not a JSON object")
    return found


def _unreadable(name: str, why: str) -> InputError:
    return InputError(f"{name} is not an in-toto statement", details=[("why", why)])
