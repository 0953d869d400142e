"""A recipe on another base: what each overlay needs, and what the profiles lose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.base.model import PackageTree
from builder.base.open import open_base, open_locked
from builder.documents.reference import BaseReference, Platform
from builder.patch.stack import run_steps
from builder.patch.tree import Step
from builder.pipeline.judge import source_key
from builder.pipeline.locking.overlays import naming, read_overlay
from builder.pipeline.plan import locked_tree
from builder.pipeline.workspace import Workspace
from builder.upkeep.rebase.judge import OverlayJudgement, judge_stack
from builder.upkeep.rebase.moves import Moves, listed
from builder.upkeep.rebase.profiles import Profiles, judge_profiles


@dataclass(frozen=True)
class Rebase:
    """The result for one base."""

    base: str
    version: str
    overlays: tuple[OverlayJudgement, ...]
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
class LockedStack:
    """The locked stack on the locked base, overlay by overlay, and what is known of the rest of that base."""

    steps: tuple[Step, ...]
    paths: Collection[str]
    """All files of the packages; empty when the base has no RECORD."""
    tree: Callable[[], PackageTree]


def old_stack(workspace: Workspace) -> LockedStack:
    """Apply the locked stack. Raises as a build does when something is not as it was locked."""
    platform = Platform.parse(workspace.recipe.platforms[0])
    locked, records = locked_tree(workspace.project, workspace.lock, platform, context=workspace.context)
    overlays = [read_overlay(workspace.project, each) for each in workspace.lock.overlays]

    def tree() -> PackageTree:
        base = open_locked(workspace.lock.base, root=workspace.project.root, context=workspace.context)
        return base.tree(platform, *workspace.lock.packages)

    with naming(workspace.lock.overlays):
        steps = run_steps(overlays, locked, workspace.lock.package)
    packages = workspace.lock.packages
    paths = {path for record in records.values() for path in listed(record, *packages)}
    return LockedStack(tuple(steps), paths, tree)


def rebase(workspace: Workspace, base: str, old: LockedStack) -> Rebase:
    """Judge a recipe on another base, for the first of its platforms."""
    platform = Platform.parse(workspace.recipe.platforms[0])
    package = workspace.lock.package
    new = open_base(BaseReference.parse(base), root=workspace.project.root, context=workspace.context)
    tree = new.tree(platform, *workspace.lock.packages)
    moves = Moves(old.paths, old.tree, tree, workspace.lock.packages)
    result = judge_stack(old.steps, tree, base=base, find_moves=moves.find)
    over = result.over()
    image = new.image(platform)
    profiles = judge_profiles(
        [workspace.project.profiles / f"{name}.yaml" for name in workspace.recipe.profiles],
        tree,
        over,
        package=package,
        shape=workspace.recipe.model,
        key=source_key(image.digest, image.manifest.digest),
    )
    return Rebase(base, tree.distribution.version, result.overlays, profiles, result.moved, over)
