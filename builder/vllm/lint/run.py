"""Linting: a profile and a package -> findings, and what the profile serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.documents.model_shape import ModelShape
from builder.documents.profile import Profile, load_profile, read_profile
from builder.documents.yamlfile import Document
from builder.util.errors import InputError
from builder.vllm.lint import effects, envelope, keys_together, names, rules, variables
from builder.vllm.lint.context import Context, Package
from builder.vllm.lint.envelope import Serves
from builder.vllm.lint.findings import LEVELS, Finding, count
from builder.vllm.lint.kept import read_package

__all__ = ["RULES", "Report", "lint", "lint_file", "read_package"]

Rule = Callable[[Context], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    rules.known_flags,
    rules.values,
    names.registered,
    names.overlays,
    variables.variables,
    variables.secrets,
    rules.deprecated,
    rules.defaults,
    effects.together,
    keys_together.keys_together,
    effects.block_size,
    effects.batches,
    effects.hardware,
    envelope.budgets,
    envelope.concurrency,
)


@dataclass(frozen=True)
class Report:
    """What came out for one profile."""

    profile: str
    against: str
    findings: tuple[Finding, ...]
    serves: tuple[Serves, ...] = field(default=())
    """The profile's own envelope, and the recipe's when it is another."""

    @property
    def failed(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    @property
    def warned(self) -> bool:
        return any(finding.level == "warning" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "against": self.against,
            "counts": count(self.findings),
            "findings": [finding.as_json() for finding in self.findings],
            "envelopes": [each.as_json() for each in self.serves],
        }


def lint(
    profile: Profile,
    document: Document,
    package: Package,
    *,
    shape: ModelShape | None = None,
    budgets: Iterable[tuple[int, int]] = (),
) -> Report:
    """Judge one profile. `budgets` are further (prompt, completion) pairs to judge, such as the recipe's envelope."""
    context = Context(profile, document, package, shape)
    found = [finding for rule in RULES for finding in rule(context)]
    order = {level: index for index, level in enumerate(LEVELS)}
    found.sort(key=lambda finding: order[finding.level])
    own = [(profile.envelope.prompt, profile.envelope.completion)] if profile.envelope else []
    judged = [envelope.serves(context, *pair) for pair in dict.fromkeys([*own, *budgets])]
    return Report(profile.name, package.source.name, tuple(found), tuple(judged))


def lint_file(
    path: Path,
    package: Package,
    *,
    shape: ModelShape | None = None,
    budgets: Iterable[tuple[int, int]] = (),
) -> Report:
    """`lint` for a file. A file that is not a profile gives a report with that as its error."""
    if not path.is_file():
        load_profile(path)  # raises, and names the profiles that there are
    try:
        found = read_profile(path)
    except InputError as error:
        return Report(path.stem, package.source.name, tuple(_unreadable(error)))
    return lint(found.profile, found.document, package, shape=shape, budgets=budgets)


def _unreadable(error: InputError) -> Iterator[Finding]:
    problems = [error.message, *(text for label, text in error.details if label == "also")]
    for problem in problems:
        place, _, message = problem.partition(": ")
        twice = "is repeated" in problem or "are the same flag" in problem
        known = place.count(":") == 2
        yield Finding(
            rule="flag-twice" if twice else "profile",
            level="error",
            message=message if known else problem,
            place=place if known else "",
            hint=error.hint,
        )
