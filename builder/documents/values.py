"""Types that recipes, profiles and locks share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StringConstraints


def _without_algorithm(value: object) -> object:
    return value.removeprefix("sha256:") if isinstance(value, str) else value


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
WrittenSha256 = Annotated[
    Sha256,
    BeforeValidator(
        _without_algorithm,
        json_schema_input_type=Annotated[str, StringConstraints(pattern=r"^(sha256:)?[0-9a-f]{64}$")],
    ),
]
"""A SHA-256 that a person writes, with or without `sha256:` in front."""
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
RelativePath = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f]+$")]
PackageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
"""The name that Python imports a package by: `vllm`, `flashinfer`."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[._-]+[a-z0-9]+)*$", max_length=100)]

SourceAddress = Annotated[
    str, StringConstraints(pattern=r"^(https://[A-Za-z0-9][A-Za-z0-9.:-]*/[\x21-\x7e]*)?$", max_length=1000)
]
"""A web address without a name and password, or nothing."""
Licenses = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 .()+:-]*$", max_length=500)]
"""Characters of an SPDX licence expression."""


class Frozen(BaseModel):
    """A value that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False, defer_build=True)


class Envelope(Frozen):
    """Prompt and completion budgets that are promised, in tokens."""

    prompt: StrictInt = Field(gt=0)
    completion: StrictInt = Field(gt=0)
