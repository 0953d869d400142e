"""Verdicts for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from builder.documents.verdict import Details, ImageIdentity, Judged, Resource, Suite, Verdict, written


def verdict_of(
    path: Path,
    digest: str | None,
    *,
    suite: str = "sample",
    suite_data: bytes = b"name: sample\n",
    outcome: str = "passed",
    ended: datetime | None = None,
    days: int = 90,
    index: str | None = None,
    files: Mapping[str, bytes] | None = None,
    **details: Any,
) -> Path:
    """Write a verdict about an image (None: unbound). `ended` is when its run ended: now by default.

    `files` has the contents of more documents of its configuration, such as `rows`.
    """
    ended = (ended or datetime.now(UTC)).replace(microsecond=0)
    hexes = hashlib.sha256(suite_data).hexdigest()
    subject = [Resource(name="log", sha256="0" * 64)]
    if digest is not None:
        subject = [Resource(name="image", sha256=each.removeprefix("sha256:")) for each in (digest, index) if each]
    verdict = Verdict.model_validate(
        {
            "subject": subject,
            "configuration": [
                Resource(name="suite", sha256=hexes),
                *(Resource(name=name, sha256=hashlib.sha256(data).hexdigest()) for name, data in (files or {}).items()),
            ],
            "details": Details.model_validate(
                {
                    "kind": "gate", "bound": digest is not None, "suite": Suite(name=suite, sha256=hexes), "target": "test",
                    "image": ImageIdentity(reference="x", digest=digest, id=digest, index=index) if digest else None,
                    "begun": written(ended - timedelta(minutes=1)), "ended": written(ended),
                    "expires": written(ended + timedelta(days=days)),
                    "tests": (Judged.model_validate({"name": "answered", "outcome": outcome}),), **details,
                }
            ),
        }
    )  # fmt: skip
    path.write_bytes(verdict.statement())
    return path
