"""The SLSA verification summary (VSA) of a promotion: which policy was applied to which image for which reference.

Source: SLSA v1.0, "Verification Summary Attestation". `resourceUri` is the reference that the tag makes, so that a summary for
a staging tag says nothing about the production one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from builder.documents.reference import Reference
from builder.documents.statement import SUMMARY_V1, make_statement

LEVEL: Final = "BUILDER_GATES_PASSED"
"""What a promotion shows. SLSA's own levels are about builds, and are not claimed here."""
_FAILED: Final = "FAILED"

Result = Literal["PASSED", "FAILED"]


@dataclass(frozen=True)
class Input:
    """A verdict that was relied on: its referrer and the SHA-256 of what is stored, both as `sha256:HEX`."""

    referrer: str
    stored: str


@dataclass(frozen=True)
class Subject:
    """The image that was judged, the tag that it was judged for, and the policy by name and SHA-256 (64 digits)."""

    target: Reference
    digest: str
    tag: str
    policy_uri: str
    policy_sha256: str

    @property
    def resource(self) -> str:
        """The reference that a deployment names."""
        return f"oci://{self.target.name}:{self.tag}"


def make_summary(subject: Subject, inputs: Sequence[Input], result: Result, seconds: float) -> bytes:
    """The statement. `seconds` is when it was verified, since 1970."""
    time = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    predicate = {
        "verifier": {"id": os.environ.get("BUILDER_ID") or "urn:overlay-image-builder:local"},
        "timeVerified": time,
        "resourceUri": subject.resource,
        "policy": {"uri": subject.policy_uri, "digest": {"sha256": subject.policy_sha256}},
        "inputAttestations": [
            {
                "uri": f"oci://{subject.target.name}@{each.referrer}",
                "digest": {"sha256": each.stored.removeprefix("sha256:")},
            }
            for each in inputs
        ],
        "verificationResult": result,
        "verifiedLevels": [LEVEL if result == "PASSED" else _FAILED],
        "slsaVersion": "1.0",
    }
    return make_statement([(subject.target.name, subject.digest)], SUMMARY_V1, predicate)


def timeless(predicate: Mapping[str, Any]) -> dict[str, Any]:
    """What two summaries of the same judgement have in common."""
    return {key: value for key, value in predicate.items() if key != "timeVerified"}
