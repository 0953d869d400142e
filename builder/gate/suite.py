"""Suites: `gates/NAME.yaml`, the rows, how they are asked and read, the metrics, and what is required of them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, field_validator, model_validator

from builder.documents.values import Frozen, Name, RelativePath, Sha256
from builder.documents.verdict import VALID_DAYS
from builder.documents.yamlfile import parse_yaml, validate_document
from builder.util.errors import InputError
from builder.util.files import read_regular, sha256, unreadable

SCHEMA_ID: Final = "https://overlay-image-builder.dev/schemas/gate.v1.json"
UNANSWERED: Final = ("unparsable", "empty", "truncated", "refused", "transport", "server_error", "over_context")
"""Asked, and without an answer that can be judged: wrong in every metric that applies to the row."""
BUCKETS: Final = ("answered", *UNANSWERED, "over_cap")
Bucket = Literal[
    "answered", "unparsable", "empty", "truncated", "refused", "transport", "server_error", "over_context", "over_cap"
]
Value = StrictBool | StrictInt | float | StrictStr
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_LIMIT = 1 << 20


def _compiles(pattern: str) -> str:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    if not compiled.groupindex:
        raise ValueError("has no named group; write (?P<FIELD>...) for each field")
    return pattern


class Answer(Frozen):
    """How a response becomes fields: JSON (checked by a schema), named groups of a pattern, or the text as field `answer`."""

    format: Literal["json"] | None = None
    schema_file: RelativePath | None = Field(default=None, alias="schema", description="JSON Schema, beside the suite.")
    pattern: Annotated[str, AfterValidator(_compiles)] | None = None
    exact: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.format, self.pattern, self.exact)) != 1:
            raise ValueError("an answer has one of 'format: json', 'pattern' and 'exact: true'")
        if self.schema_file is not None and self.format is None:
            raise ValueError("'schema' belongs to 'format: json'")
        return self


class Sampling(Frozen):
    """Sent with each row. `thinking` goes to the chat template as `enable_thinking`; without it the template decides."""

    temperature: float = Field(default=0, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: StrictInt = 0
    max_tokens: StrictInt = Field(gt=0)
    thinking: StrictBool | None = None


class Limits(Frozen):
    """`tries` counts attempts of one row; `dead_after` rows in a row without a response end the run."""

    attempt_seconds: StrictInt = Field(default=300, gt=0)
    tries: StrictInt = Field(default=3, ge=1, le=20)
    connections: StrictInt = Field(default=8, ge=1, le=1024)
    total_tokens: StrictInt | None = Field(default=None, gt=0)
    wall_minutes: float | None = Field(default=None, gt=0)
    dead_after: StrictInt = Field(default=8, ge=1)


class Metric(Frozen):
    """One fraction over the rows whose expected `field` is not null."""

    kind: Literal["equal", "recall", "precision", "false_positive_rate"]
    field: str = Field(min_length=1)
    label: Value | None = None

    @model_validator(mode="after")
    def _label(self) -> Self:
        if (self.kind == "equal") != (self.label is None):
            raise ValueError("'label' belongs to recall, precision and false_positive_rate, and they need one")
        return self


class Requirement(Frozen):
    """One thing that must hold. With `warn` it warns where it does not."""

    rows: Literal["answered"] | None = None
    count: (
        Literal["unparsable", "empty", "truncated", "refused", "transport", "server_error", "over_context", "over_cap"]
        | None
    ) = None
    metric: str | None = None
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    share: Share | None = None
    not_worse_than: Literal["reference"] | None = None
    margin: Share | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    warn: StrictBool = False

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if sum(each is not None for each in (self.rows, self.count, self.metric)) != 1:
            raise ValueError("a requirement is about one of 'rows', 'count' and 'metric'")
        given = {key for key in ("min", "max", "share", "not_worse_than") if getattr(self, key) is not None}
        allowed = {"rows": {"min", "share"}, "count": {"max"}, "metric": {"min", "max", "not_worse_than"}}[self.about]
        if len(given) != 1 or not given <= allowed:
            raise ValueError(f"a requirement about '{self.about}' has one of {', '.join(sorted(allowed))}")
        limit = self.min if self.min is not None else self.max
        if limit is not None and not 0 <= limit <= (1 if self.metric is not None else limit):
            raise ValueError(
                "a metric is a share, from 0 to 1" if self.metric is not None else "a count is not negative"
            )
        if (self.margin is not None) != (self.not_worse_than is not None):
            raise ValueError("'not_worse_than' and 'margin' belong together")
        return self

    @property
    def about(self) -> Literal["rows", "count", "metric"]:
        return "rows" if self.rows else "count" if self.count else "metric"

    @property
    def name(self) -> str:
        """Its name in verdicts: `answered`, `transport`, `agreement-min`, `agreement-not-worse`."""
        if self.rows or self.count:
            return str(self.rows or self.count)
        return f"{self.metric}-{'not-worse' if self.not_worse_than else 'min' if self.min is not None else 'max'}"

    @property
    def wanted(self) -> str:
        """What is wanted, for people."""
        if self.not_worse_than:
            return f"not worse than the reference by {self.margin:g}, at {self.confidence:.0%}"
        if self.share is not None:
            return f"at least {self.share:.1%} of all rows"
        return f"at least {self.min:g}" if self.min is not None else f"at most {self.max:g}"

    def holds(self, value: Fraction | int) -> bool:
        """Whether `value` is within `min` and `max`, compared as the decimal fractions that were written."""
        low = self.share if self.share is not None else self.min
        return (low is None or value >= _decimal(low)) and (self.max is None or value <= _decimal(self.max))


def _decimal(number: float) -> Fraction:
    return Fraction(repr(float(number)))


class Suite(Frozen):
    """A suite as its file has it."""

    name: Name
    description: str = ""
    rows: RelativePath = Field(description="JSONL beside the suite: id, messages, expected, and tools where needed.")
    rows_sha256: Sha256 | None = None
    answer: Answer
    sampling: Sampling
    prompt_cap: StrictInt | None = Field(
        default=None, gt=0, description="Tokens, counted by the server's /tokenize; a longer prompt is not sent."
    )
    limits: Limits = Limits()
    metrics: dict[Name | Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Metric] = Field(default_factory=dict)
    require: tuple[Requirement, ...] = Field(min_length=1)
    valid_days: StrictInt = Field(default=VALID_DAYS, ge=1, le=3650)
    notes: str = ""

    @field_validator("require")
    @classmethod
    def _names(cls, require: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
        repeated = [name for name, count in Counter(each.name for each in require).items() if count > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is required more than once")
        return require

    @model_validator(mode="after")
    def _readable(self) -> Self:
        """Each metric is about a field that answers can have: without it every row would be wrong."""
        if self.answer.format is not None:
            return self
        fields = re.compile(self.answer.pattern).groupindex if self.answer.pattern is not None else ("answer",)
        for name, metric in self.metrics.items():
            if metric.field not in fields:
                raise ValueError(f"the metric {name} is about {metric.field!r}; answers here have: {', '.join(fields)}")
            if metric.label is not None and not isinstance(metric.label, str):
                raise ValueError(f"the label of {name} is not text, and answers here are; write it in quotes")
        return self

    @model_validator(mode="after")
    def _known(self) -> Self:
        for each in self.require:
            if each.metric is not None and each.metric not in self.metrics:
                known = ", ".join(self.metrics) or "none"
                raise ValueError(f"require: there is no metric {each.metric!r}; metrics here: {known}")
        if self.prompt_cap is not None and not any(each.count == "over_cap" for each in self.require):
            raise ValueError("'prompt_cap' leaves rows out: bound them, `- {count: over_cap, max: N}`")
        return self


@dataclass(frozen=True)
class LoadedSuite:
    """A suite with the SHA-256 of its file's bytes, and the folder that its paths are relative to."""

    suite: Suite
    sha256: str
    folder: Path
    shown: str

    @property
    def name(self) -> str:
        return self.suite.name

    def beside(self, path: str) -> Path:
        return self.folder / path


def suite_path(name: str, root: Path) -> Path:
    """The file that a user means: a path to a YAML file, or a NAME in `gates/`."""
    return Path(name) if name.endswith((".yaml", ".yml")) else root / "gates" / f"{name}.yaml"


def _which(path: Path) -> str:
    """What could have been meant: a suite beside it. A policy, which lists `suites:`, is none."""
    import difflib

    known = sorted(each.stem for each in path.parent.glob("*.yaml") if not _is_policy(each))
    if not known:
        return "name the file of a suite, or work in a project that has gates/"
    near = difflib.get_close_matches(path.stem, known, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"suites here: {', '.join(known)}"


def _is_policy(path: Path) -> bool:
    try:
        return any(line.startswith(b"suites:") for line in read_regular(path, limit=_LIMIT).splitlines())
    except (OSError, InputError):
        return False


def load_suite(name: str, root: Path) -> LoadedSuite:
    """Read a suite. Raises `InputError` with the place of each error, or when the file calls itself something else."""
    path = suite_path(name, root)
    if not path.exists():
        raise InputError(
            f"there is no suite {path.stem!r}", details=[("looked", str(path.absolute()))], hint=_which(path)
        )
    shown = f"{path.parent.name}/{path.name}"
    try:
        data = read_regular(path, limit=_LIMIT, name=shown)
        text = data.decode("utf-8")
    except OSError as error:
        raise unreadable(shown, error) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown} is not UTF-8 text: {error.reason} at byte {error.start}", hint="save it as UTF-8"
        ) from error
    suite = validate_document(Suite, parse_yaml(text, shown))
    if suite.name != path.stem:
        raise InputError(f"{shown} calls itself {suite.name!r}", hint=f"name it {path.stem}, or rename the file")
    return LoadedSuite(suite, sha256(data), path.parent, shown)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of suites, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **Suite.model_json_schema(by_alias=True),
    }  # fmt: skip
