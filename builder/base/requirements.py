"""Whether distributions still have what they require, after some were added, replaced or removed.

Source: PEP 508 (dependency specifiers) and PEP 440 (versions), as PyPA's `packaging` implements them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.base.installed import InstalledDistribution, normal
from builder.documents.reference import Platform

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class Unmet:
    """A requirement that is not met: of which distribution, what it asks for, and which version there is (None: none)."""

    by: str
    version: str
    requirement: str
    wanted: str
    found: str | None

    def __str__(self) -> str:
        what = f"it is {self.found}" if self.found is not None else "there is none"
        return f"{self.by} {self.version} requires {self.requirement}, and {what}"


@dataclass(frozen=True)
class Judged:
    """`broken` by the change; `before` were unmet in the base already; `unknown` ask for what the base may have elsewhere."""

    broken: tuple[Unmet, ...]
    before: tuple[Unmet, ...]
    unknown: tuple[Unmet, ...]
    checked: int


def judge_requirements(
    before: Mapping[str, InstalledDistribution],
    after: Mapping[str, InstalledDistribution],
    *,
    python: str,
    platform: Platform,
    whole: bool,
) -> Judged:
    """Compare what is met before and after. Distributions are by normalised name; `whole` says that there are no others."""
    environment = marker_environment(python, platform)
    was = set(_unmet(before, environment))
    broken, old, unknown = [], [], []
    checked = 0
    for each in _requirements(after, environment):
        checked += 1
        unmet = _judge(each, after)
        if unmet is None:
            continue
        if not whole and unmet.found is None and normal(unmet.wanted) not in before:
            unknown.append(unmet)
        elif unmet in was:
            old.append(unmet)
        else:
            broken.append(unmet)
    return Judged(tuple(broken), tuple(old), tuple(unknown), checked)


def marker_environment(python: str, platform: Platform) -> dict[str, str]:
    """What markers are evaluated with: the base's Python, not the one that runs this."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": _MACHINES.get(platform.architecture, platform.architecture),
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


@dataclass(frozen=True)
class _Asked:
    by: InstalledDistribution
    requirement: Requirement


def _unmet(distributions: Mapping[str, InstalledDistribution], environment: Mapping[str, str]) -> Iterator[Unmet]:
    for each in _requirements(distributions, environment):
        if (unmet := _judge(each, distributions)) is not None:
            yield unmet


def _requirements(
    distributions: Mapping[str, InstalledDistribution], environment: Mapping[str, str]
) -> Iterator[_Asked]:
    """What is required, with the extras that something asks for."""
    parsed = {key: [_parsed(text) for text in each.requires] for key, each in distributions.items()}
    extras: dict[str, set[str]] = {key: {""} for key in distributions}
    for _ in range(_MOST_ROUNDS):
        grown = False
        for key, requirements in parsed.items():
            for requirement in requirements:
                if requirement is None or not _applies(requirement, extras[key], environment):
                    continue
                wanted = extras.get(normal(requirement.name))
                if wanted is not None and not requirement.extras <= wanted:
                    wanted |= requirement.extras
                    grown = True
        if not grown:
            break
    for key, requirements in parsed.items():
        for requirement in requirements:
            if requirement is not None and _applies(requirement, extras[key], environment):
                yield _Asked(distributions[key], requirement)


def _parsed(text: str) -> Requirement | None:
    """A requirement; None for a line that is none, which no installer follows either."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _applies(requirement: Requirement, extras: set[str], environment: Mapping[str, str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in extras)


def _judge(asked: _Asked, distributions: Mapping[str, InstalledDistribution]) -> Unmet | None:
    from packaging.version import InvalidVersion, Version

    requirement = asked.requirement
    found = distributions.get(normal(requirement.name))
    if found is not None:
        try:
            if requirement.specifier.contains(Version(found.version), prereleases=True):
                return None
        except InvalidVersion:
            return None
    plain = f"{requirement.name}{requirement.specifier}"
    return Unmet(asked.by.name, asked.by.version, plain, requirement.name, found.version if found is not None else None)
