"""The outcome of a smoke run: checks, and what they are bound to. As a verdict, and as a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from builder import __version__
from builder.documents.values import Envelope
from builder.documents.verdict import (
    Details,
    ImageIdentity,
    Judged,
    Outcome,
    Resource,
    Suite,
    Verdict,
    clean,
    expiry,
    moment,
    written,
)
from builder.util.files import sha256, write_file

Status = Literal["passed", "failed", "not checked"]
SCHEMA = 1
"""Counts up when the checks ask something else."""


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
    driver: str | None = None
    max_model_len: int | None = None
    envelope: Envelope | None = None
    prompts: tuple[str, str] = ("", "")
    """The short prompt, and what its response must contain."""
    configuration: tuple[Resource, ...] = ()
    """Profile, lock and checkpoint."""

    @property
    def ok(self) -> bool:
        """No check failed. What was not checked is counted by nobody as passed."""
        return all(check.status != "failed" for check in self.checks)

    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]

    def verdict(self) -> Verdict:
        """The result as a verdict of the suite `smoke:PROFILE`. What was not checked is a warning."""
        ended = moment(self.begun) + timedelta(seconds=self.seconds)
        suite = Suite(name=f"smoke:{self.profile or 'no-profile'}", sha256=self._suite())
        checks = tuple(_judged(check) for check in self.checks)
        details = Details(
            kind="smoke", bound=self.image is not None, suite=suite, target=self.target, recipe=self.recipe,
            profile=self.profile, flags=self.flags, command=self.command, image=self.image, gpu=self.gpu,
            gpu_name=self.gpu_name, driver=self.driver, vllm=self.vllm, model=self.model and clean(self.model),
            max_model_len=self.max_model_len, envelope=self.envelope, begun=self.begun, ended=written(ended),
            expires=written(expiry(ended)), seconds=self.seconds, tools={"overlay-image-builder": __version__},
            phases=dict(self.phases), figures=dict(self.figures), tests=checks,
        )  # fmt: skip
        listed = json.dumps([check.model_dump(mode="json") for check in checks], ensure_ascii=False)
        results = Resource(name="results", sha256=sha256(listed.encode()))
        image = Resource(name=self.image.reference, sha256=self.image.digest[7:]) if self.image else results
        configuration = (Resource(name="suite", sha256=suite.sha256), *self.configuration, results)
        return Verdict(subject=(image,), configuration=configuration, details=details)

    def _suite(self) -> str:
        """The digest of what a smoke run asks: the prompts, and the profile that names the rest."""
        profile = next((each.sha256 for each in self.configuration if each.name == "profile"), None)
        return sha256(json.dumps(["smoke", SCHEMA, profile, *self.prompts]).encode())


_OUTCOMES: dict[Status, Outcome] = {"passed": "passed", "failed": "failed", "not checked": "warned"}
_STATUS: dict[Outcome, Status] = {"passed": "passed", "failed": "failed", "warned": "not checked"}


def _judged(check: Check) -> Judged:
    details = tuple((clean(label), clean(text)) for label, text in check.details)
    return Judged(
        name=clean(check.name), outcome=_OUTCOMES[check.status], found=clean(check.summary), details=details,
        seconds=check.seconds,
    )  # fmt: skip


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
    verdict = result.verdict()
    write_file(paths["html"], page(verdict.details).encode())
    if log:
        write_file(paths["log"], clean(log).encode())
    write_file(paths["json"], verdict.statement())
    return paths


def page(details: Details) -> str:
    """The result as a page that needs nothing beside itself. Every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("builder.serve.smoke", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        **details.model_dump(), ok=all(each.outcome != "failed" for each in details.tests), status=_STATUS
    )
