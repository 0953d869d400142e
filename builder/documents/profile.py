"""Serving profiles: `profiles/NAME.yaml`, pinned `vllm serve` flags and variables, with the hardware and envelope that they are for."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from builder.documents.environment import value_problem, variable_problem
from builder.documents.values import Envelope, Frozen
from builder.documents.yamlfile import DecimalFloat, Document, read_yaml, validate_document
from builder.util.errors import InputError

_FLAG = r"^[a-z0-9][a-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*$"


def _flag_name(name: object) -> object:
    """Refuse what is not a flag's long name with what to write; the pattern is for the JSON Schema."""
    if not isinstance(name, str) or re.fullmatch(_FLAG, name):
        return name
    if level := re.fullmatch(r"-?O([0-9]?)", name):
        meant = f"`optimization-level: {level[1]}`" if level[1] else "optimization-level"
        raise ValueError(f"is short for a flag; write {meant}")
    plain = re.sub(r"[\s_]+", "-", name.strip().strip("-.").lower())
    hint = f"; write {plain}" if re.fullmatch(_FLAG, plain) else ""
    raise ValueError(f"is not a flag's name, which is in small letters and without dashes in front{hint}")


FlagName = Annotated[str, BeforeValidator(_flag_name), StringConstraints(pattern=_FLAG, max_length=100)]


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


def _variable(name: str) -> str:
    if problem := variable_problem(name):
        raise ValueError(problem)
    return name


def _variable_text(value: object) -> object:
    """The text of a variable. A number keeps its digits; a YAML boolean is no text that a program would read."""
    if isinstance(value, bool):
        raise ValueError("is a boolean, and a variable is text; write 1 or 0, or quote the word")  # noqa: TRY004  pydantic collects ValueErrors
    if value is None:
        raise ValueError("has no value; write '' for an empty one, or leave the variable out")
    if isinstance(value, DecimalFloat):
        return value.text
    return str(value) if isinstance(value, int | float) else value


def _checked_text(value: str) -> str:
    if problem := value_problem(value):
        raise ValueError(problem)
    return value


VariableName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200), AfterValidator(_variable)
]
VariableText = Annotated[StrictStr, BeforeValidator(_variable_text), AfterValidator(_checked_text)]
ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[._-]+[a-z0-9]+)*$", max_length=100)]


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
    """Pinned flags of `vllm serve`, without the model, in the order in which they are passed, and its variables."""

    name: ProfileName
    extends: ProfileName | None = Field(
        default=None, description="Another profile of the same folder, whose keys hold where this one has no other."
    )
    without: tuple[str, ...] = Field(
        default=(), description="Flags and variables of the profile that is extended, that this one does not have."
    )
    description: str = ""
    flags: dict[FlagName, FlagValue] = Field(
        default={},
        description="Flag without dashes: value; true is a bare switch, false is --no-FLAG, a list repeats values.",
    )
    env: dict[VariableName, VariableText] = Field(
        default={},
        max_length=200,
        description="Environment variables of the server. Those that the container's caller sets win.",
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
            plain = _plain(flag)
            if plain in seen:
                raise ValueError(f"{flag!r} and {seen[plain]!r} are the same flag")
            seen[plain] = flag
        return flags

    @property
    def sha256(self) -> str:
        """The SHA-256 of what the profile says, however its file writes it."""
        document = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(document.encode()).hexdigest()

    @model_validator(mode="after")
    def _without_what(self) -> Self:
        if self.without and self.extends is None:
            raise ValueError("'without' belongs to 'extends'")
        return self

    def over(self, parent: Profile) -> Profile:
        """This profile with what `parent` (itself flattened) has where this one has nothing; it extends nothing then.

        Flags keep the parent's order, and new ones follow. Raises `ValueError` for a name in `without` that the parent lacks.
        """
        flags = {flag: value for flag, value in parent.flags.items() if _plain(flag) not in map(_plain, self.without)}
        env = {name: text for name, text in parent.env.items() if name not in self.without}
        gone = {_plain(flag) for flag in parent.flags} | set(parent.env)
        if unknown := [name for name in self.without if name not in gone and _plain(name) not in gone]:
            raise ValueError(f"{parent.name} has no {unknown[0]!r} to leave out")
        own = {_plain(flag): flag for flag in self.flags}
        merged: dict[str, Any] = {}
        for flag, value in flags.items():
            mine = own.pop(_plain(flag), None)
            merged[mine or flag] = self.flags[mine] if mine is not None else value
        merged |= {flag: self.flags[flag] for flag in own.values()}
        given = self.model_fields_set
        return Profile(
            name=self.name,
            description=self.description if "description" in given else parent.description,
            flags=merged,
            env={**env, **self.env},
            hardware=self.hardware if "hardware" in given else parent.hardware,
            envelope=self.envelope if "envelope" in given else parent.envelope,
            # What a start-up log said belongs to the flags that it was measured with.
            expect=self.expect,
            notes=self.notes if "notes" in given else parent.notes,
        )

    def argv(self) -> list[str]:
        """The flags as arguments. A value that begins with a dash is joined with `=`, so that it stays a value.

        A key of a flag (`compilation-config.mode`) is never a switch: vLLM would take the next argument for its value.
        """
        arguments: list[str] = []
        for flag, value in self.flags.items():
            if "." in flag:
                text = key_text(value)
                arguments += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
            elif value is True:
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


def key_text(value: object) -> str:
    """What vLLM's parser reads as this value of a key: JSON where it is not a single text."""
    if isinstance(value, tuple):
        return f"[{', '.join(key_text(each) if _is_number(each) else json.dumps(each) for each in value)}]"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _is_number(value: object) -> bool:
    # A decimal fraction is kept as its text.
    return (
        isinstance(value, str)
        and re.fullmatch(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", value) is not None
    )


def _plain(flag: str) -> str:
    """The name that all spellings of a flag share."""
    return flag.replace("_", "-").removeprefix("no-")


@dataclass(frozen=True)
class ReadProfile:
    """A profile, flattened, with its files: its own document first, whose places fall back to those that it extends."""

    profile: Profile
    document: Document
    chain: tuple[str, ...]
    """The names of the profile and of those that it extends, nearest first."""


def load_profile(path: Path) -> Profile:
    """Read a profile, with what it extends. Raises as `read_profile` does."""
    return read_profile(path).profile


def read_profile(path: Path) -> ReadProfile:
    """Read a profile and what it extends, as one.

    Raises `InputError` with the place of each error: in a file, in its name, in a circle, or where what it extends is missing.
    """
    return _read(path, (), "")


def _read(path: Path, above: tuple[str, ...], named_at: str) -> ReadProfile:
    if not path.is_file():
        known = sorted(each.stem for each in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.stem, known, n=1)
        here = f"profiles here: {', '.join(known)}" if known else f"{path.parent} has no profiles"
        hint = (f"did you mean {near[0]}? " if near else "") + here
        message = f"there is no profile {path.stem!r}"
        raise InputError(f"{named_at}: {message}" if named_at else message, details=[("looked", str(path))], hint=hint)
    document = read_yaml(path, name=f"profiles/{path.name}")
    own = validate_document(Profile, document)
    if own.name != path.stem:
        raise InputError(
            f"profiles/{path.name} calls itself {own.name!r}", hint=f"name it {path.stem}, or rename the file"
        )
    if own.extends is None:
        if "flags" not in own.model_fields_set:
            raise InputError(
                f"{document.at(())}: 'flags' is missing", hint="write the flags under `flags:`, or `extends: PROFILE`"
            )
        return ReadProfile(own, document, (own.name,))
    place = document.at(("extends",))
    names = (*above, own.name)
    if own.extends in names:
        circle = " -> ".join([*names[names.index(own.extends) :], own.extends])
        raise InputError(
            f"{place}: profiles extend each other in a circle: {circle}", hint="take one `extends:` of the circle out"
        )
    parent = _read(path.with_name(f"{own.extends}.yaml"), names, place)
    try:
        merged = own.over(parent.profile)
    except ValueError as error:
        where = document.at(("without",))
        raise InputError(
            f"{where}: {_reason(error)}", hint=f"`builder profile show {own.extends}` lists what it has"
        ) from error
    document.below = parent.document
    return ReadProfile(merged, document, (own.name, *parent.chain))


def _reason(error: ValueError) -> str:
    return error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)


def profile_path(name: str, folder: Path) -> Path:
    """The file that a user means: a path to a YAML file, or a NAME in the folder of profiles."""
    return Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of profiles, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
