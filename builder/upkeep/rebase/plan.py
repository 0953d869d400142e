"""A recipe on another base: what each overlay needs, and what the profiles lose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.base.model import PackageTree
from builder.base.open import open_base
from builder.cli.console import Console
from builder.oci.types import Platform
from builder.patch.stack import Step, run_steps
from builder.pipeline.judge import source_key
from builder.pipeline.locking.overlays import naming, read_overlay
from builder.pipeline.plan import locked_tree, pinned_reference
from builder.pipeline.workspace import Opened
from builder.upkeep.rebase.judge import Judged, judge_stack
from builder.upkeep.rebase.moves import Moves, listed
from builder.upkeep.rebase.profiles import Profiles, judge_profiles


@dataclass(frozen=True)
class Rebase:
    """The answer for one base."""

    base: str
    version: str
    overlays: tuple[Judged, ...]
    profiles: Profiles
    moved: Mapping[str, str] = field(default_factory=dict)
    """Where the new base has files of the stack that the old one has under other names."""
    over: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    """The files that the stack changes there, by path; None for one that it deletes."""

    @property
    def conflicts(self) -> int:
        return sum(len(each.conflicts) for each in self.overlays)

    def as_json(self) -> dict[str, Any]:
        unknown = self.profiles.unknown
        return {
            "base": self.base,
            "version": self.version,
            "fits": not self.conflicts,
            "overlays": [each.as_json() for each in self.overlays],
            "moved": dict(self.moved),
            "unknown_flags": list(unknown) if unknown is not None else None,
            "profiles": [each.as_json() for each in self.profiles.findings],
        }


@dataclass(frozen=True)
class Old:
    """The locked stack on the locked base, overlay by overlay, and what is known of the rest of that base."""

    steps: tuple[Step, ...]
    paths: Collection[str]
    """All Python files of the package; empty when the base has no RECORD."""
    tree: Callable[[], PackageTree]


def old_stack(opened: Opened, *, console: Console, offline: bool) -> Old:
    """Apply the locked stack. Raises as a build does when something is not as it was locked."""
    platform = Platform.parse(opened.recipe.platforms[0])
    locked, record = locked_tree(opened.project, opened.lock, platform, console=console, offline=offline)
    overlays = [read_overlay(opened.project, each) for each in opened.lock.overlays]

    def tree() -> PackageTree:
        base = open_base(pinned_reference(opened.lock), root=opened.project.root, console=console, offline=offline)
        return base.tree(platform, opened.lock.package)

    with naming(opened.lock.overlays):
        steps = run_steps(overlays, locked, opened.lock.package)
    return Old(tuple(steps), listed(record, opened.lock.package), tree)


def rebase(opened: Opened, base: str, old: Old, *, console: Console, offline: bool) -> Rebase:
    """Judge a recipe on another base, for the first of its platforms."""
    platform = Platform.parse(opened.recipe.platforms[0])
    package = opened.lock.package
    new = open_base(base, root=opened.project.root, console=console, offline=offline)
    tree = new.tree(platform, package)
    moves = Moves(old.paths, old.tree, tree, package)
    answer = judge_stack(old.steps, tree, base=base, find_moves=moves.find)
    over = answer.over()
    image = new.image(platform)
    profiles = judge_profiles(
        [opened.project.profiles / f"{name}.yaml" for name in opened.recipe.profiles],
        tree,
        over,
        package=package,
        shape=opened.recipe.model,
        key=source_key(image.digest, image.manifest.digest),
    )
    return Rebase(base, tree.distribution.version, answer.overlays, profiles, answer.moved, over)
