"""Serving profiles: `profiles/NAME.yaml`, pinned `vllm serve` flags with the hardware and the envelope that they are for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from builder.documents.values import Envelope, Frozen
from builder.documents.yamlfile import DecimalFloat, validate
from builder.util.errors import InputError

FlagName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=100)]


def _as_written(value: object) -> object:
    """Decimal fractions keep the digits that were written: `0.90` must not become `0.9` on its way to the server."""
    if isinstance(value, DecimalFloat):
        return value.text
    if isinstance(value, float):
        return repr(value)
    return value


Scalar = Annotated[StrictBool | StrictInt | StrictStr, BeforeValidator(_as_written)]


def _flat(value: object) -> object:
    """Refuse what no command line can pass, before the union's branches each refuse it in their own words."""
    if isinstance(value, Mapping):
        raise ValueError("is a mapping; write one line for each key, such as `FLAG.KEY: VALUE`, or JSON in quotes")  # noqa: TRY004  pydantic collects ValueErrors
    if value is None:
        raise ValueError("has no value; write true for a switch, or leave the flag out")
    if isinstance(value, list | tuple) and any(
        isinstance(each, Mapping | list | tuple) or each is None for each in value
    ):
        raise ValueError("is a list of more than plain values; write one value in each item")
    return value


FlagValue = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_flat)]


class Hardware(Frozen):
    """What the profile runs on. `gpu` is a name that `builder profile fit --gpu` knows."""

    gpu: str
    count: StrictInt = Field(default=1, ge=1, le=64)


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a number")  # noqa: TRY004  pydantic turns a ValueError into an error with a place
    return value


Bound = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


class Range(Frozen):
    """A closed range; an end that is left out is open."""

    min: Bound | None = None
    max: Bound | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range has 'min', 'max' or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def holds(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class Expectation(Frozen):
    """What a start-up log must say on one GPU with one vLLM version. Nothing is expected that was not measured."""

    vllm: str = Field(description="The vLLM version that the figures belong to, such as 0.20.0.")
    gpu: str
    source: str = Field(description="Where the figures come from.")
    loaded_gib: Range | None = None
    kv_cache_tokens: Range | None = None
    max_concurrency: Range | None = None
    free_gib: Range | None = None
    log: tuple[str, ...] = Field(default=(), description="Texts that a line of the log must contain.")


class Profile(Frozen):
    """Pinned flags of `vllm serve`, without the model, in the order in which they are passed."""

    name: str = Field(pattern=r"^[a-z0-9]+(?:[._-]+[a-z0-9]+)*$", max_length=100)
    description: str = ""
    flags: dict[FlagName, FlagValue] = Field(
        description="Flag without dashes: value; true is a bare switch, false is --no-FLAG, a list repeats values."
    )
    hardware: Hardware | None = None
    envelope: Envelope | None = None
    expect: tuple[Expectation, ...] = ()
    notes: str = ""

    @field_validator("flags")
    @classmethod
    def _one_spelling(cls, flags: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, str] = {}
        for flag in flags:
            plain = flag.replace("_", "-").removeprefix("no-")
            if plain in seen:
                raise ValueError(f"{flag!r} and {seen[plain]!r} are the same flag")
            seen[plain] = flag
        return flags

    @property
    def sha256(self) -> str:
        """The SHA-256 of what the profile says, however its file writes it."""
        document = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(document.encode()).hexdigest()

    def argv(self) -> list[str]:
        """The flags as arguments. A value that begins with a dash is joined with `=`, so that it stays a value."""
        arguments: list[str] = []
        for flag, value in self.flags.items():
            if value is True:
                arguments.append(f"--{flag}")
            elif value is False:
                arguments.append(f"--no-{flag}")
            else:
                values = [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
                if len(values) == 1 and values[0].startswith("-"):
                    arguments.append(f"--{flag}={values[0]}")
                else:
                    arguments += [f"--{flag}", *values]
        return arguments


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises `InputError` with the place of each error, or when the file's name is another one."""
    if not path.is_file():
        known = sorted(each.stem for each in path.parent.glob("*.yaml"))
        import difflib

        near = difflib.get_close_matches(path.stem, known, n=1)
        hint = (f"did you mean {near[0]}? " if near else "") + f"profiles here: {', '.join(known) or 'none'}"
        raise InputError(f"there is no profile {path.stem!r}", details=[("looked", str(path))], hint=hint)
    profile = validate(Profile, path, name=f"profiles/{path.name}")
    if profile.name != path.stem:
        raise InputError(
            f"profiles/{path.name} calls itself {profile.name!r}", hint=f"name it {path.stem}, or rename the file"
        )
    return profile


def profile_path(name: str, folder: Path) -> Path:
    """The file that a user means: a path to a YAML file, or a NAME in the folder of profiles."""
    return Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of profiles, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
