"""Policies: `gates/NAME.yaml`, what must be shown of an image before a tag moves to it, and who may say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, StrictBool, StrictInt, StringConstraints, model_validator

from builder.documents.values import Frozen, Name, RelativePath, Sha256
from builder.documents.yamlfile import parse_yaml, validate_document
from builder.util.errors import InputError
from builder.util.files import read_regular, sha256

SCHEMA_ID: Final = "https://overlay-image-builder.dev/schemas/policy.v1.json"
SuiteName = Annotated[str, StringConstraints(pattern=r"^(smoke:)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*$", max_length=200)]
_LIMIT = 1 << 20


class RequiredSuite(Frozen):
    """A suite whose verdict is wanted."""

    name: SuiteName = Field(description="A suite in gates/, or smoke:PROFILE.")
    sha256: Sha256 | None = Field(
        default=None,
        description="The suite's file must have this SHA-256, today and when it was run. Absent: the one that it has today.",
    )

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.name.startswith("smoke:") and self.sha256 is None:
            raise ValueError(f"{self.name} has no file here; add the 'sha256' of the suite that its verdict names")
        return self


class AllowedSigner(Frozen):
    """Who may sign verdicts: a public key, or an identity and who vouches for it."""

    key: RelativePath | None = Field(default=None, description="A public key in PEM, relative to the project root.")
    identity: str | None = Field(
        default=None, min_length=1, description="A mail address, or the address of a CI workflow, exactly."
    )
    issuer: str | None = Field(default=None, pattern=r"^https?://", description="Who vouches for the identity.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.key is None) == (self.identity is None) or (self.identity is None) != (self.issuer is None):
            raise ValueError("a signer has either 'key', or 'identity' and 'issuer'")
        return self

    @property
    def option(self) -> str:
        """The signer as `--signer` takes it."""
        return self.key if self.key is not None else f"{self.identity},{self.issuer}"


class Policy(Frozen):
    """What moves a tag."""

    name: Name
    description: str = ""
    suites: tuple[RequiredSuite, ...] = Field(min_length=1)
    profile: Name | None = Field(default=None, description="The profile that the verdicts must be about.")
    gpu: str | None = Field(
        default=None, min_length=1, description="The GPU that they must have run on, as `rtx-5090`."
    )
    signers: tuple[AllowedSigner, ...] = ()
    allow_unsigned: StrictBool = Field(default=False, description="Whether verdicts without a signature count.")
    allow_warned: StrictBool = Field(default=False, description="Whether WARNED is enough.")
    max_age_days: StrictInt | None = Field(
        default=None, ge=1, le=3650, description="How old a verdict may be, also when it has not expired."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [each.name for each in self.suites]
        if len(set(names)) != len(names):
            raise ValueError("a suite is listed twice")
        if not self.signers and not self.allow_unsigned:
            raise ValueError("name who may sign under 'signers', or say 'allow_unsigned: true'")
        return self


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy, the SHA-256 of its bytes, how messages name it, and what its paths are relative to."""

    policy: Policy
    sha256: str
    uri: str
    root: Path


def load_policy(path: Path) -> LoadedPolicy:
    """Read a policy. Raises `InputError` with the place of each error. The root is the parent of its `gates/` folder."""
    folder = path.resolve().parent
    root = folder.parent if folder.name == "gates" else folder
    shown = f"gates/{path.name}" if folder.name == "gates" else path.name
    try:
        data = read_regular(path, limit=_LIMIT, name=shown)
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="name the policy's file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return LoadedPolicy(validate_document(Policy, parse_yaml(text, shown)), sha256(data), shown, root)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of policies, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **Policy.model_json_schema(),
    }  # fmt: skip
