"""What rules look at: a profile with the places of its keys, and the package it will run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from packaging.version import InvalidVersion, Version

from builder.documents.model_shape import ModelShape
from builder.documents.profile import Profile
from builder.documents.yamlfile import Document
from builder.util.errors import InputError
from builder.vllm.fit.estimate import Fit, estimate
from builder.vllm.fit.gpus import known_gpu
from builder.vllm.flagvalues import human_int, plain_flags, plain_name
from builder.vllm.lint.findings import Finding, Level
from builder.vllm.reader.flags import Catalog, Flag
from builder.vllm.reader.registries import Registries
from builder.vllm.reader.source import Source
from builder.vllm.reader.variables import Variable


@dataclass(frozen=True)
class Package:
    """The vLLM that profiles are judged against."""

    source: Source
    catalog: Catalog
    registries: Registries
    variables: Mapping[str, Variable] | None = None
    """None when `envs.py` could not be read."""

    @property
    def version(self) -> Version | None:
        """None for a build without a release's version."""
        try:
            return Version(self.source.version)
        except InvalidVersion:
            return None


@dataclass(frozen=True)
class Entry:
    """One flag of the profile. `name` is as vLLM's parser reads it, without what follows a dot."""

    key: str
    name: str
    inner: str
    """`level` of `compilation-config.level`; empty for a whole flag."""
    value: Any
    flag: Flag | None
    off: bool
    """Whether the spelling is one that switches the flag off."""

    @property
    def switched_on(self) -> bool | None:
        """For a switch: what the profile sets it to."""
        if self.flag is None or not self.flag.switch or not isinstance(self.value, bool):
            return None
        return self.value != self.off


@dataclass
class Context:
    """One profile before one package. Rules yield findings made by `say`."""

    profile: Profile
    document: Document
    package: Package
    shape: ModelShape | None = None
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        lookup = self.package.catalog.lookup()
        for key, value in self.profile.flags.items():
            name, _, inner = plain_name(key).partition(".")
            flag, off = lookup.get(name, (None, False))
            self.entries.append(Entry(key, name, inner, value, flag, off))

    @property
    def vllm(self) -> str:
        return f"vLLM {self.package.source.version}"

    @cached_property
    def fit(self) -> Fit | str:
        """The estimate for the profile's own hardware, or why there is none."""
        wanted, version = self.profile.hardware, self.package.version
        if self.shape is None:
            return "the recipe has no `model:`"
        if wanted is None:
            return "the profile names no hardware"
        gpu = known_gpu(wanted.gpu)
        if gpu is None:
            return f"the table has no GPU {wanted.gpu!r}"
        if version is None:
            return f"{self.package.source.version!r} is not a version of a release"
        try:
            return estimate(self.profile, self.shape, gpu, version)
        except InputError as error:
            return error.message

    def get(self, name: str) -> Entry | None:
        """The entry that sets a flag, whichever of its names the profile uses."""
        for entry in self.entries:
            if not entry.inner and (entry.name == name or (entry.flag is not None and entry.flag.name == name)):
                return entry
        return None

    def has(self, name: str) -> bool:
        """Whether this vLLM has a flag, a key of one (`speculative-config.model`), or a variable."""
        if name.isupper():
            return name in (self.package.variables or {})
        head, _, key = name.partition(".")
        flag, _ = self.package.catalog.lookup().get(head, (None, False))
        return flag is not None and (not key or (flag.takes_keys and (not flag.keys or key in flag.keys)))

    @property
    def given(self) -> frozenset[str]:
        """The flags of the profile by their plain names, and its variables."""
        return frozenset({*plain_flags(self.profile.flags), *self.profile.env})

    def value(self, name: str) -> Any:
        """A flag's value in the profile; for a switch whether it is on; None when the profile does not set it."""
        entry = self.get(name)
        if entry is None:
            return None
        return entry.switched_on if entry.switched_on is not None else entry.value

    def number(self, name: str) -> int | None:
        """A flag's whole number, None when it is not set or not one."""
        value = self.value(name)
        return human_int(value) if value is not None and not isinstance(value, tuple) else None

    def say(
        self, rule: str, level: Level, message: str, *, entry: Entry | None = None, hint: str | None = None,
        source: str | None = None, variable: str | None = None,
    ) -> Finding:  # fmt: skip
        location = ("flags", entry.key) if entry is not None else ("env", variable) if variable else ("flags",)
        return Finding(
            rule=rule,
            level=level,
            message=message,
            flag=entry.key if entry is not None else variable,
            place=self.document.at(location, key=True),
            hint=hint,
            source=source or (entry.flag.place if entry is not None and entry.flag is not None else None),
        )
