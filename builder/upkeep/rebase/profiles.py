"""What a recipe's profiles lose on another base: the linter's judgement of the new base with the stack over it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.base.model import PackageTree
from builder.documents.model_shape import ModelShape
from builder.vllm.flagvalues import plain_name
from builder.vllm.lint.findings import Finding
from builder.vllm.lint.run import lint_file, read_package
from builder.vllm.reader.flags import Catalog
from builder.vllm.reader.source import from_tree


@dataclass(frozen=True)
class ProfileFinding:
    """Something that one profile cannot keep on the new base, or that will go away."""

    profile: str
    finding: Finding

    def as_json(self) -> dict[str, object]:
        return {"profile": self.profile, **self.finding.as_json()}


@dataclass(frozen=True)
class Profiles:
    """All profiles on one base. `unknown` is None when the base's flags cannot be read; `gap` is the reason.

    `unknown` has `profile`, `flag` and the nearest flag that there is as `near`.
    """

    findings: tuple[ProfileFinding, ...]
    unknown: tuple[dict[str, str | None], ...] | None
    gap: str = ""


def judge_profiles(
    paths: Iterable[Path],
    tree: PackageTree,
    over: Mapping[str, bytes | None],
    *,
    package: str = "vllm",
    shape: ModelShape | None = None,
    key: str | None = None,
) -> Profiles:
    """Lint the profiles against `tree` with the stack's files `over` it: an overlay's own flags are known.

    What an error is in a profile counts, and what is deprecated. `key` is the digest of the base, for the cache.
    """
    paths = list(paths)
    if not paths:
        return Profiles((), ())
    name = f"{package} {tree.distribution.version}"
    read = read_package(from_tree(tree, name=name, package=package, over=over, key=key))
    found = [
        ProfileFinding(path.stem, finding)
        for path in paths
        for finding in lint_file(path, read, shape=shape).findings
        if finding.level == "error" or finding.rule == "deprecated"
    ]
    if read.catalog.gaps:
        return Profiles(tuple(found), None, read.catalog.gaps[0])
    return Profiles(tuple(found), tuple(_unknown(found, read.catalog)))


def _unknown(found: Sequence[ProfileFinding], catalog: Catalog) -> Iterable[dict[str, str | None]]:
    names = list(catalog.lookup())
    for each in found:
        flag = each.finding.flag
        if each.finding.rule == "unknown-flag" and flag is not None:
            near = difflib.get_close_matches(plain_name(flag), names, n=1, cutoff=0.7)
            yield {"profile": each.profile, "flag": flag, "near": near[0] if near else None}
