"""A recipe on another base: what each overlay needs, what the profiles lose, and what recipe and lock would become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.base.model import PackageTree
from builder.base.open import open_base
from builder.console import Console
from builder.errors import ApplyError
from builder.files import sha256, write_file
from builder.layout import Project
from builder.lock import Lock, LockedOverlay
from builder.locking.make import Made, make_lock
from builder.locking.overlays import read_overlay
from builder.oci import Platform
from builder.opened import Opened
from builder.overlay.stack import Step, run_steps
from builder.plan import locked_tree
from builder.rebase.edit import OverlayEdit, edit_recipe
from builder.rebase.judge import Judged, judge_stack
from builder.recipe import OverlaySpec, Recipe
from builder.serving.known_flags import known_flags, unknown_flags
from builder.yamlfile import parse_yaml, validate_document


@dataclass(frozen=True)
class Rebase:
    """The answer for one base. `flags` is None when the base's flags cannot be read."""

    base: str
    version: str
    overlays: tuple[Judged, ...]
    flags: tuple[dict[str, str | None], ...] | None
    tree: Mapping[str, Any] = field(repr=False)

    @property
    def conflicts(self) -> int:
        return sum(len(each.conflicts) for each in self.overlays)

    def as_json(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "version": self.version,
            "fits": not self.conflicts,
            "overlays": [each.as_json() for each in self.overlays],
            "unknown_flags": list(self.flags) if self.flags is not None else None,
        }


@dataclass(frozen=True)
class Written:
    """What the rebase would write: the recipe's text, the lock with its diffs."""

    recipe: str
    made: Made

    def changes(self, project: Project) -> list[str]:
        return [project.show(project.recipe_path), *self.made.changes(project)]


def old_steps(opened: Opened, platform: Platform, *, console: Console, offline: bool) -> list[Step]:
    """The locked stack on the locked base, overlay by overlay."""
    tree, _ = locked_tree(opened.project, opened.lock, platform, console=console, offline=offline)
    overlays = [read_overlay(opened.project, each) for each in opened.lock.overlays]
    return run_steps(overlays, tree, opened.lock.package)


def rebase(opened: Opened, base: str, steps: list[Step], *, console: Console, offline: bool) -> Rebase:
    """Judge a recipe on another base, for the first of its platforms."""
    platform = Platform.parse(opened.recipe.platforms[0])
    tree = open_base(base, root=opened.project.root, console=console, offline=offline).tree(
        platform, opened.lock.package
    )
    judged, after = judge_stack(steps, tree, base=base)
    return Rebase(base, tree.distribution.version, tuple(judged), _flags(opened.lock, tree), after)


def _flags(lock: Lock, tree: PackageTree) -> tuple[dict[str, str | None], ...] | None:
    known = known_flags(tree)
    return None if known is None else tuple(unknown_flags(lock.profiles, known))


def prepare(opened: Opened, answer: Rebase, *, console: Console, offline: bool) -> Written:
    """The recipe and the lock for the new base. Raises `ApplyError` when an overlay is in conflict: that is never written."""
    if answer.conflicts:
        names = [each.id for each in answer.overlays if each.conflicts]
        raise ApplyError(
            f"{', '.join(names)} is in conflict on {answer.base}: nothing was written",
            details=[("where", f"{each.path}, line {each.line}") for one in answer.overlays for each in one.conflicts][
                :12
            ],
            hint="bring the change to the new base by hand, and give it as a local file",
        )
    pending: dict[str, bytes] = {}
    edits = [
        _edit(spec, locked, judged, opened.lock, answer, pending)
        for spec, locked, judged in zip(opened.recipe.overlays, opened.lock.overlays, answer.overlays, strict=True)
    ]
    text = edit_recipe(opened.project.recipe_path.read_text(encoding="utf-8"), base=answer.base, overlays=edits)
    name = opened.project.show(opened.project.recipe_path)
    recipe = validate_document(Recipe, parse_yaml(text, name))
    recipe, text = _with_digests(opened, recipe, text, pending, console=console, offline=offline)
    made = make_lock(opened.project, recipe, opened.lock, console=console, offline=offline, pending=pending)
    return Written(text, made)


def _edit(
    spec: OverlaySpec,
    locked: LockedOverlay,
    judged: Judged,
    lock: Lock,
    answer: Rebase,
    pending: dict[str, bytes],
) -> OverlayEdit:
    if judged.verdict == "already in":
        return OverlayEdit(drop=True)
    if judged.verdict == "applies":
        return OverlayEdit()
    name = _rebased_name(locked, answer.version)
    pending[name] = _header(locked, lock, answer) + judged.diff
    replace = {"file": name}
    if locked.head is not None:
        replace["origin"] = f"{locked.id}@{locked.head}"
    elif locked.origin is not None:
        replace["origin"] = locked.origin
    for key in ("title", "author"):
        value = getattr(locked, key)
        if value and getattr(spec, key) is None:
            replace[key] = value
    return OverlayEdit(replace=replace)


def _rebased_name(locked: LockedOverlay, version: str) -> str:
    """`overlays/rebased/vllm-project-vllm-41365-on-0.21.0.diff`; a second rebase does not add a second ending."""
    stem = re.sub(r"-on-[0-9][^/]*$", "", locked.diff.rsplit("/", 1)[-1].removesuffix(".diff"))
    return f"overlays/rebased/{stem}-on-{re.sub(r'[^A-Za-z0-9.]', '.', version)}.diff"


def _header(locked: LockedOverlay, lock: Lock, answer: Rebase) -> bytes:
    """Text before the first `diff --git`, which git, GNU patch and this tool pass over."""
    origin = locked.origin or (f"{locked.id}@{locked.head}" if locked.head else locked.id)
    lines = [
        f"Origin: {origin}",
        f"Rebased-From: {lock.base.reference} ({lock.base.digest})",
        f"Rebased-Onto: {answer.base}",
        f"Original-Digest: {locked.digest}",
    ]
    return "\n".join([*lines, "", ""]).encode()


def _with_digests(
    opened: Opened, recipe: Recipe, text: str, pending: Mapping[str, bytes], *, console: Console, offline: bool
) -> tuple[Recipe, str]:
    """The digests that a recipe pins after its overlays, as they are on the new base."""
    if not any(spec.after for spec in recipe.overlays):
        return recipe, text
    bare = recipe.model_copy(
        update={"overlays": tuple(spec.model_copy(update={"after": {}}) for spec in recipe.overlays)}
    )
    edits = []
    for index, spec in enumerate(recipe.overlays):
        part = bare.model_copy(update={"overlays": bare.overlays[: index + 1], "checkpoint": None})
        found: dict[str, str] = {}
        if spec.after:
            made = make_lock(opened.project, part, opened.lock, console=console, offline=offline, pending=pending)
            result = next(iter(made.results.values()))
            found = {file.path: sha256(file.after) for file in result.files if file.after is not None}
        edits.append(OverlayEdit(after={path: found[path] for path in spec.after if path in found}))
    text = edit_recipe(text, overlays=edits)
    return validate_document(Recipe, parse_yaml(text, opened.project.show(opened.project.recipe_path))), text


def write(project: Project, written: Written) -> None:
    """Write the rebased diffs and the lock, and the recipe last: until then, the old recipe says that the lock is another's."""
    written.made.write(project)
    write_file(project.recipe_path, written.recipe.encode())
