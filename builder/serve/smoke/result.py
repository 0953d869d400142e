"""The outcome of a smoke run: checks, and what they are bound to. As JSON, and as a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from builder.util.files import write_file

Status = Literal["passed", "failed", "not checked"]
SCHEMA = 1


@dataclass(frozen=True)
class Check:
    """One check. `details` are (label, text) pairs: prompts, completions, lines of the log."""

    name: str
    status: Status
    summary: str
    details: tuple[tuple[str, str], ...] = ()
    seconds: float | None = None


def passed(name: str, summary: str, *details: tuple[str, str], seconds: float | None = None) -> Check:
    return Check(name, "passed", summary, details, seconds)


def failed(name: str, summary: str, *details: tuple[str, str], seconds: float | None = None) -> Check:
    return Check(name, "failed", summary, details, seconds)


def not_checked(name: str, reason: str) -> Check:
    return Check(name, "not checked", reason)


@dataclass(frozen=True)
class ImageIdentity:
    """The image that answered. `digest` is a registry's when the image has one, else its id in this Docker.

    `inputs` is the digest of the lock that it was built from, `record` that of its record.
    """

    reference: str
    digest: str
    id: str
    inputs: str | None = None
    record: str | None = None


@dataclass(frozen=True)
class SmokeResult:
    """A smoke run. `begun` is UTC in ISO 8601; `phases` has the seconds after the start at which each phase began.

    `flags` are the profile's; `command` is what the container was started with, which may override them.
    """

    target: str
    recipe: str | None
    profile: str | None
    flags: tuple[str, ...]
    command: tuple[str, ...] | None
    image: ImageIdentity | None
    gpu: str | None
    gpu_name: str | None
    vllm: str | None
    model: str | None
    begun: str
    seconds: float
    phases: Mapping[str, float]
    figures: Mapping[str, float | int | str]
    checks: tuple[Check, ...]
    schema: int = field(default=SCHEMA)

    @property
    def ok(self) -> bool:
        """No check failed. What was not checked is counted by nobody as passed."""
        return all(check.status != "failed" for check in self.checks)

    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]

    def document(self) -> dict[str, Any]:
        document = asdict(self)
        document["phases"] = dict(self.phases)
        document["figures"] = dict(self.figures)
        for check in document["checks"]:
            check["details"] = [{"label": label, "text": text} for label, text in check["details"]]
        return {"schema": document.pop("schema"), "kind": "smoke", "ok": self.ok, **document}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Detail(_Strict):
    label: str
    text: str


class _Check(_Strict):
    name: str
    status: Status
    summary: str
    details: list[_Detail]
    seconds: float | None


class _Image(_Strict):
    reference: str
    digest: str
    id: str
    inputs: str | None
    record: str | None


class _Document(_Strict):
    """A result as `SmokeResult.document` writes it."""

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["smoke"]
    ok: bool
    target: str
    recipe: str | None
    profile: str | None
    flags: list[str]
    command: list[str] | None
    image: _Image | None
    gpu: str | None
    gpu_name: str | None
    vllm: str | None
    model: str | None
    begun: str
    seconds: float
    phases: dict[str, float]
    figures: dict[str, float | int | str]
    checks: list[_Check] = Field(min_length=1)

    @model_validator(mode="after")
    def _outcome(self) -> Self:
        if self.ok != all(check.status != "failed" for check in self.checks):
            raise ValueError("'ok' is not what the checks say")
        return self


Outcome = Literal["passed", "failed", "unreadable"]


@dataclass(frozen=True)
class Verdict:
    """What a file says of an image: the outcome, the digest that it is about (None: no image), and why it is unreadable."""

    outcome: Outcome
    subject: str | None = None
    why: str = ""


def read_verdict(data: bytes) -> Verdict:
    """A verdict by its schema. Text that only mentions a digest is unreadable."""
    try:
        found = _Document.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        return Verdict("unreadable", why=f"{where}: {first['msg']}")
    return Verdict("passed" if found.ok else "failed", found.image.digest if found.image is not None else None)


def write_result(result: SmokeResult, folder: Path, log: str) -> dict[str, Path]:
    """Write `NAME.json`, `NAME.html` and, when there is one, `NAME.log`; the name has profile, digest and time.

    The time is in the name, so that a later run never takes an earlier one's place.
    """
    digest = result.image.digest.removeprefix("sha256:")[:12] if result.image else "server"
    stamp = result.begun.replace("-", "").replace(":", "").split(".")[0].removesuffix("Z")
    stem = f"{result.profile or 'no-profile'}-{digest}-{stamp}Z"
    name, count = stem, 1
    while (folder / f"{name}.json").exists():
        count += 1
        name = f"{stem}~{count}"
    paths = {kind: folder / f"{name}.{kind}" for kind in ("json", "html", *(["log"] if log else []))}
    document = result.document()
    write_file(paths["json"], json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
    write_file(paths["html"], page(document).encode())
    if log:
        write_file(paths["log"], log.encode())
    return paths


def page(document: Mapping[str, Any]) -> str:
    """The result as a page that needs nothing beside itself. Every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("builder.serve.smoke", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(**document)
