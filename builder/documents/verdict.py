"""Verdicts: what was measured of one image, as an in-toto Statement v1 with the test-result predicate.

Source: in-toto attestation framework, Statement v1 and predicate `test-result` v0.1. The predicate has the result, the names of
tests and the documents that it depends on; everything else is in one extension field whose name is a URI, as the predicate's
parsing rules allow. A verdict is *bound* when it names the image that responded, and only then can it be attached or promoted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, ValidationError, model_validator

from builder.documents.values import Envelope, Sha256
from builder.util.errors import InputError
from builder.util.strictjson import strict_json

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://in-toto.io/attestation/test-result/v0.1"
EXTENSION: Final = "https://overlay-image-builder.dev/verdict/v1"
VALID_DAYS: Final = 90
"""How long a verdict counts when its suite does not say."""

Result = Literal["PASSED", "WARNED", "FAILED"]
Outcome = Literal["passed", "warned", "failed"]
Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
"""UTC in ISO 8601, to the second."""
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Value(BaseModel):
    """Unknown keys are refused: nothing in a verdict goes unread."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Resource(_Value):
    """A document or an image by name and SHA-256 (64 hexadecimal digits)."""

    name: str = Field(min_length=1)
    sha256: Sha256

    def descriptor(self) -> dict[str, Any]:
        """The in-toto ResourceDescriptor."""
        return {"name": self.name, "digest": {"sha256": self.sha256}}

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256}"


class ImageIdentity(_Value):
    """The image that responded. `digest` is a registry's when the image has one, else its id in this Docker.

    `inputs` is the digest of the lock that it was built from, `record` that of its record, as its labels name them.
    """

    reference: str
    digest: Digest
    id: str
    index: Digest | None = None
    inputs: str | None = None
    record: str | None = None


class Suite(_Value):
    """What was run: its name, and the SHA-256 of its file as written. A smoke run is the suite `smoke:PROFILE`."""

    name: str = Field(min_length=1)
    sha256: Sha256


class Metric(_Value):
    """A metric as a fraction, with the Wilson score interval at `confidence`; no interval when the denominator is 0."""

    name: str
    kind: str
    numerator: StrictInt = Field(ge=0)
    denominator: StrictInt = Field(ge=0)
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95

    @property
    def value(self) -> float | None:
        return self.numerator / self.denominator if self.denominator else None

    @model_validator(mode="after")
    def _fraction(self) -> Self:
        if self.numerator > self.denominator:
            raise ValueError(f"{self.name}: {self.numerator} of {self.denominator}")
        return self


class Comparison(_Value):
    """One metric on the rows that this side and the reference both answered.

    `only_ours` and `only_theirs` are the discordant pairs: right here and wrong there, and the other way round. `p_value` is
    McNemar's, exact. `difference` is ours less theirs, `low` and `high` its paired bootstrap interval at `confidence` (one-sided
    at each end), `score_low` and `score_high` Tango's score interval, which is wide where pairs are few and none is discordant.
    `smallest_margin` is the smallest margin of "not worse" that this many pairs can show with a power of 0.8.
    """

    metric: str
    pairs: StrictInt = Field(ge=0)
    ours: StrictInt = Field(ge=0)
    theirs: StrictInt = Field(ge=0)
    only_ours: StrictInt = Field(ge=0)
    only_theirs: StrictInt = Field(ge=0)
    p_value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    confidence: float = 0.95
    smallest_margin: float | None = None


class Reference(_Value):
    """The other side of a comparison, and who lost rows: ids that only one side answered."""

    target: str
    model: str | None = None
    lost_here: tuple[str, ...] = ()
    lost_there: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


class Repeats(_Value):
    """Repeated runs of each row: the share of rows with equal outcomes, and the rows that differ (flaky)."""

    times: StrictInt = Field(ge=1)
    pass_at_1: float | None = None
    agreement: float | None = None
    flaky: tuple[str, ...] = ()


class Judged(_Value):
    """One requirement of a suite, or one check of a smoke run. `wanted` and `found` are texts for people."""

    name: str = Field(min_length=1)
    outcome: Outcome
    wanted: str = ""
    found: str = ""
    details: tuple[tuple[str, str], ...] = ()
    seconds: float | None = None


class Details(_Value):
    """Our own field of the predicate. `rows` is the number of rows in the suite's file; `buckets` add up to it."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["gate", "smoke", "import"]
    bound: bool
    suite: Suite
    target: str
    recipe: str | None = None
    profile: str | None = None
    flags: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    image: ImageIdentity | None = None
    gpu: str | None = None
    gpu_name: str | None = None
    driver: str | None = None
    vllm: str | None = None
    model: str | None = None
    max_model_len: StrictInt | None = None
    envelope: Envelope | None = None
    begun: Time
    ended: Time
    expires: Time
    seconds: float = Field(default=0, ge=0)
    tools: dict[str, str] = {}
    phases: dict[str, float] = {}
    figures: dict[str, StrictInt | float | str] = {}
    rows: StrictInt | None = Field(default=None, ge=0)
    buckets: dict[str, StrictInt] = {}
    metrics: tuple[Metric, ...] = ()
    reference: Reference | None = None
    repeats: Repeats | None = None
    tests: tuple[Judged, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.bound and self.image is None:
            raise ValueError("it is called bound, and names no image")
        if not self.begun <= self.ended <= self.expires:
            raise ValueError("begun, ended and expires are not in this order")
        names = [test.name for test in self.tests]
        if len(set(names)) != len(names):
            raise ValueError("two of its tests have the same name")
        if self.rows is not None and sum(self.buckets.values()) != self.rows:
            raise ValueError(f"the buckets hold {sum(self.buckets.values())} rows of {self.rows}")
        return self


class Verdict(_Value):
    """A verdict. `subject` is what it is about: the image manifest (and its index), or, unbound, the log of the run."""

    subject: tuple[Resource, ...] = Field(min_length=1)
    configuration: tuple[Resource, ...]
    details: Details

    @model_validator(mode="after")
    def _of_one_image(self) -> Self:
        names = [each.name for each in self.configuration]
        if len(set(names)) != len(names):
            raise ValueError("two documents of its configuration have the same name")
        if self.config("suite") != self.details.suite.sha256:
            raise ValueError("the suite of its configuration is not the one of its details")
        if self.details.bound:
            image = self.details.image
            assert image is not None  # noqa: S101  checked by Details
            known = {image.digest, *([image.index] if image.index else [])}
            if {each.digest for each in self.subject} != known:
                raise ValueError("its subject is not the image of its details")
        return self

    @classmethod
    def parse(cls, data: bytes, *, name: str = "the verdict") -> Verdict:
        """Read a statement. Raises `InputError` with the first place that is not a verdict of this tool.

        `result` and the lists of tests are compared with the tests in our own field: they cannot say different things.
        """
        statement = _object(data, name)
        for key, wanted in (("_type", STATEMENT), ("predicateType", PREDICATE)):
            if statement.get(key) != wanted:
                raise _unreadable(name, f"{key} is {statement.get(key)!r}, not {wanted}")
        predicate = statement.get("predicate")
        details = predicate.get(EXTENSION) if isinstance(predicate, Mapping) else None
        if not isinstance(predicate, Mapping) or not isinstance(details, Mapping):
            raise _unreadable(name, f"its predicate does not have the field {EXTENSION}")
        try:
            found = cls.model_validate(
                {
                    "subject": _resources(statement.get("subject"), "subject"),
                    "configuration": _resources(predicate.get("configuration"), "configuration"),
                    "details": details,
                }
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the statement"
            raise _unreadable(name, f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
        except ValueError as error:
            raise _unreadable(name, str(error)) from error
        wanted_predicate = found._predicate()
        for key in ("result", "passedTests", "warnedTests", "failedTests"):
            if predicate.get(key, []) != wanted_predicate.get(key, []):
                raise _unreadable(name, f"{key} is not what its tests say")
        return found

    def statement(self) -> bytes:
        """The statement as JSON: always the same bytes for the same verdict. Raises `ValueError` when in-toto refuses it."""
        from google.protobuf.json_format import MessageToDict
        from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
        from in_toto_attestation.v1.statement import Statement

        subjects = [ResourceDescriptor(name=each.name, digest={"sha256": each.sha256}).pb for each in self.subject]
        predicate = self._predicate()
        made = Statement(subjects, PREDICATE, predicate)
        made.validate()
        # A protobuf Struct knows floats only: 34 rows would become 34.0.
        document = {**MessageToDict(made.pb), "predicate": predicate}
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    def _predicate(self) -> dict[str, Any]:
        predicate: dict[str, Any] = {
            "result": self.result,
            "configuration": [each.descriptor() for each in self.configuration],
            **{key: list(self.named(outcome)) for key, outcome in _LISTS},
        }
        predicate[EXTENSION] = self.details.model_dump(mode="json", by_alias=True, exclude_none=True)
        return predicate

    def named(self, outcome: Outcome) -> tuple[str, ...]:
        """The tests with this outcome, as SUITE/REQUIREMENT."""
        return tuple(f"{self.suite}/{test.name}" for test in self.details.tests if test.outcome == outcome)

    def config(self, name: str) -> str | None:
        """The SHA-256 of a document of the configuration: `suite`, `rows`, `profile`, `lock`, `checkpoint`, ..."""
        return next((each.sha256 for each in self.configuration if each.name == name), None)

    @property
    def result(self) -> Result:
        outcomes = {test.outcome for test in self.details.tests}
        return "FAILED" if "failed" in outcomes else "WARNED" if "warned" in outcomes else "PASSED"

    @property
    def bound(self) -> bool:
        """It names the image that responded. An unbound verdict can never be attached or promoted."""
        return self.details.bound

    @property
    def image_digests(self) -> tuple[str, ...]:
        """The digests that it is about, as `sha256:HEX`; none when it is unbound."""
        return tuple(each.digest for each in self.subject) if self.bound else ()

    @property
    def suite(self) -> str:
        return self.details.suite.name

    @property
    def suite_digest(self) -> str:
        """The suite's file as it was when the verdict was made, as `sha256:HEX`."""
        return f"sha256:{self.details.suite.sha256}"

    @property
    def profile(self) -> str | None:
        return self.details.profile

    @property
    def gpu(self) -> str | None:
        """The GPU's short name, such as `rtx-5090`."""
        return self.details.gpu

    @property
    def begun(self) -> datetime:
        return moment(self.details.begun)

    @property
    def ended(self) -> datetime:
        return moment(self.details.ended)

    @property
    def expires(self) -> datetime:
        return moment(self.details.expires)

    def expired(self, now: datetime) -> bool:
        return now >= self.expires


_OUTCOMES: Final[dict[Result, Outcome]] = {"PASSED": "passed", "WARNED": "warned", "FAILED": "failed"}
_LISTS: Final[tuple[tuple[str, Outcome], ...]] = (
    ("passedTests", "passed"), ("warnedTests", "warned"), ("failedTests", "failed"),
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What bytes say of images: the outcome, the digests that they are about (none: unbound), and why they are unreadable."""

    outcome: Outcome | Literal["unreadable"]
    subjects: tuple[str, ...] = ()
    why: str = ""


def read_verdict(data: bytes) -> Reading:
    """A verdict by its schema, for those who count. Text that only mentions a digest is unreadable."""
    try:
        found = Verdict.parse(data)
    except InputError as error:
        return Reading("unreadable", why=error.details[0][1])
    return Reading(_OUTCOMES[found.result], found.image_digests)


def clean(text: str) -> str:
    """`text` without lone surrogates, which JSON from a server may have and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode()


def written(time: datetime) -> str:
    """A time as verdicts have it."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def moment(text: str) -> datetime:
    """The time that `written` wrote. Raises `ValueError`."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def expiry(ended: datetime, days: int = VALID_DAYS) -> datetime:
    """When a verdict that was made at `ended` no longer counts."""
    return ended + timedelta(days=days)


def _resources(listed: object, key: str) -> list[dict[str, Any]]:
    """ResourceDescriptors with a name and a SHA-256 and nothing else. Raises `ValueError`."""
    if not isinstance(listed, list):
        raise ValueError(f"{key} is not a list")  # noqa: TRY004  one kind of error for whatever is wrong
    found = []
    for each in listed:
        digest = each.get("digest") if isinstance(each, Mapping) else None
        if not isinstance(digest, Mapping) or set(each) != {"name", "digest"} or set(digest) != {"sha256"}:
            raise ValueError(f"{key}: each item has a name and a digest by sha256")
        found.append({"name": each["name"], "sha256": digest["sha256"]})
    return found


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise _unreadable(name, f"it is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise _unreadable(name, "it is not a JSON object")
    return found


def _unreadable(name: str, why: str) -> InputError:
    return InputError(f"{name} is not a verdict", details=[("why", why)], hint="gates and smoke runs write verdicts")
