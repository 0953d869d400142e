"""The linter and the engine's own parser agree, for both releases: about flags, and about 200 command lines."""

from __future__ import annotations

from typing import Any

import pytest

from builder.documents.profile import Profile
from builder.documents.yamlfile import Document
from builder.vllm.lint.context import Context
from builder.vllm.lint.rules import known_flags, values
from builder.vllm.lint.run import read_package
from builder.vllm.reader.flags import Catalog
from builder.vllm.reader.source import from_files
from tests.engine.conftest import Probe, packages
from tests.support.engine.packages import NEW, OLD, Release
from tests.support.pytrees import LazyFiles

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

VALUES: tuple[Any, ...] = ("7", "-1", "0.5", "16k", "abc", "", "auto", "1,2", True, False, ("1", "x"))
# What the linter calls an error of form, which the parser refuses; its other findings are about sense.
FORM = {"wrong-type", "bad-choice", "switch-with-value", "boolean-form", "needs-value", "wrong-count", "unknown-flag"}
LINES = 200


def command_lines(catalog: Catalog) -> list[tuple[str, Any]]:
    """`LINES` pairs of flag and value: every kind of value, over flags from all of the catalogue, some misspelt."""
    flags = [
        flag
        for flag in catalog.flags.values()
        # JSON is parsed into configs; what is unread is not claimed.
        if flag.type not in ("json", "unknown") and not flag.unread and flag.dest not in ("model", "config", "help") and flag.names
    ]  # fmt: skip
    found: list[tuple[str, Any]] = []
    for number in range(LINES - 20):
        flag = flags[number * 7 % len(flags)]
        choices = [str(each) for each in flag.choices or ()]
        given = (*VALUES, *choices)
        found.append((flag.name, given[number % len(given)]))
    return found + [(f"{flags[number * 11 % len(flags)].name}-x", "1") for number in range(20)]


@pytest.mark.parametrize("release", [OLD, NEW], ids=lambda each: each.version)
def test_the_linter_and_the_engine_agree(release: Release, probe: Probe) -> None:
    folder = packages(release)
    package = read_package(from_files(LazyFiles(folder), version=release.version, name=f"vllm {release.version}"))
    cases = command_lines(package.catalog)
    profiles = [
        Profile.model_construct(name="p", flags={name: value}, hardware=None, envelope=None) for name, value in cases
    ]
    (real,) = probe([{"do": "parse", "lines": [["MODEL", *profile.argv()] for profile in profiles]}], [folder])
    # `--help` belongs to every parser, and is not a flag to serve with.
    assert {f"--{name}" for name in package.catalog.lookup()} == set(real["flags"]) - {"--help"}
    assert {f"--{name}" for name in package.catalog.lookup()} <= set(real["help"])
    differences = []
    for profile, said in zip(profiles, real["said"], strict=True):
        found = [
            each for rule in (known_flags, values) for each in rule(Context(profile, Document("p", None), package))
        ]
        refused = any(each.level == "error" and each.rule in FORM for each in found)
        if refused != (said is not None):
            differences.append(f"{profile.argv()}: engine {said}, linter {[each.message for each in found]}")
    assert len(cases) == LINES
    assert differences == []
    assert 40 < sum(said is not None for said in real["said"]) < 160
