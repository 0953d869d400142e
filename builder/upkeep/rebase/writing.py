"""What a rebase writes: the recipe in its own words, the rebased diffs, and the lock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.documents.lock import Lock, LockedOverlay
from builder.documents.recipe import OverlaySpec, Recipe
from builder.pipeline.locking.make import NewLock, make_lock
from builder.pipeline.workspace import Workspace
from builder.upkeep.rebase.edit import OF_THE_DIFF, OverlayEdit, edit_recipe, edited
from builder.upkeep.rebase.judge import OverlayJudgement
from builder.upkeep.rebase.plan import Rebase
from builder.util.errors import ApplyError
from builder.util.files import sha256
from builder.util.journal import write_files
from builder.util.project import Project

# A base that has the name of the locked one, and another digest by now, is resolved as it was when it was judged.
_FRESH = ("base",)


@dataclass(frozen=True)
class RebasedFiles:
    """What the rebase would write: the recipe's text, the lock with its diffs; and what becomes of each overlay."""

    recipe: str
    made: NewLock
    fates: tuple[tuple[str, str], ...]
    """Overlay and what becomes of it, for people."""

    def changes(self, project: Project) -> list[str]:
        """The files that `write` would change, the recipe first."""
        same = project.recipe_path.read_bytes() == self.recipe.encode()
        return [*([] if same else [project.show(project.recipe_path)]), *self.made.changes(project)]

    def as_json(self, project: Project) -> dict[str, Any]:
        lock = self.made.lock
        overlays = [each.summary() for each in lock.overlays]
        return {
            "lock": {
                "inputs": lock.inputs,
                "base": lock.base.digest,
                "version": version_of(lock),
                "overlays": [each.id for each in lock.overlays],
                "about": overlays,
                "files": len(files_of(lock)),
            },
            "changes": self.changes(project),
        }


def version_of(lock: Lock) -> str:
    """The version of the locked package."""
    return next(iter(lock.base.platforms.values())).distribution.version


def files_of(lock: Lock) -> list[str]:
    """The paths that the locked stack changes on the first platform."""
    locked = next(iter(lock.base.platforms.values()))
    return [file.path for file in locked.files if file.before != file.after]


def prepare(workspace: Workspace, result: Rebase) -> RebasedFiles:
    """The recipe and the lock for the new base. Raises `ApplyError` when an overlay is in conflict: that is never written."""
    if result.conflicts:
        names = [each.id for each in result.overlays if each.conflicts]
        raise ApplyError(
            f"{', '.join(names)} is in conflict on {result.base}: nothing was written",
            details=[
                ("where", f"{each.path}, line {each.line}" if each.line else each.path)
                for one in result.overlays
                for each in one.conflicts
            ][:12],
            hint="bring the change to the new base by hand, and give it as a local file",
        )
    pending: dict[str, bytes] = {}
    edits = [
        _edit(spec, locked, judged, workspace, result, pending)
        for spec, locked, judged in zip(
            workspace.recipe.overlays, workspace.lock.overlays, result.overlays, strict=True
        )
    ]
    edits = _with_digests(workspace, edits, result.base, pending)
    recipe = _then(workspace.recipe, edits, result.base)
    # As bytes: read as text, the recipe would lose its line endings.
    text = edited(
        workspace.project.recipe_path.read_bytes().decode("utf-8"),
        lambda text: edit_recipe(text, base=result.base, overlays=edits),
        recipe,
        workspace.project.show(workspace.project.recipe_path),
    )
    made = make_lock(
        workspace.project, recipe, workspace.lock, context=workspace.context, update=_FRESH, pending=pending
    )
    locked = {file.path: file.after for file in next(iter(made.results.values())).files}
    if locked != result.over:
        raise AssertionError(
            f"what would be locked is not what was judged: {sorted(locked.keys() ^ result.over.keys())}"
        )
    fates = tuple((each.id, fate(each, edit)) for each, edit in zip(result.overlays, edits, strict=True))
    return RebasedFiles(text, made, fates)


def fate(judged: OverlayJudgement, edit: OverlayEdit | None = None) -> str:
    """What becomes of an overlay, in a few words."""
    unpinned = ", ".join(edit.unpinned) if edit is not None else ""
    return _fate(judged, edit) + (f"; no longer pins {unpinned}, which stays as the base has it" if unpinned else "")


def _fate(judged: OverlayJudgement, edit: OverlayEdit | None) -> str:
    if judged.verdict == "conflict":
        return "must be brought over by hand"
    if judged.verdict == "already in":
        return "is dropped: the base has it"
    if judged.verdict == "applies":
        return "stays as it is"
    name = edit.replace.get("file") if edit is not None and edit.replace else None
    return f"becomes {name}" if name else "becomes a local diff, rebased"


def _then(before: Recipe, edits: Sequence[OverlayEdit], base: str) -> Recipe:
    """What the edited recipe must say, and nothing else."""
    overlays = []
    for spec, edit in zip(before.overlays, edits, strict=True):
        if edit.drop:
            continue
        after = {
            edit.moved.get(path, path): edit.after.get(path, digest)
            for path, digest in spec.after.items()
            if path not in edit.unpinned
        }
        if edit.replace is None:
            overlays.append(spec.model_copy(update={"after": after}))
        else:
            bare = spec.model_dump(exclude={*OF_THE_DIFF, *edit.replace})
            overlays.append(OverlaySpec.model_validate({**bare, **edit.replace, "after": after}))
    return before.model_copy(update={"base": base, "overlays": tuple(overlays)})


def _edit(
    spec: OverlaySpec,
    locked: LockedOverlay,
    judged: OverlayJudgement,
    workspace: Workspace,
    result: Rebase,
    pending: dict[str, bytes],
) -> OverlayEdit:
    if judged.verdict == "already in":
        return OverlayEdit(drop=True)
    if judged.verdict == "applies":
        return OverlayEdit()
    data = _header(locked, workspace.lock, result) + judged.diff
    name = _free_name(workspace.project, _rebased_name(locked, result.version), data, pending)
    pending[name] = data
    keys = {"file": name}
    if locked.head is not None:
        keys["origin"] = f"{locked.id}@{locked.head}"
    elif locked.origin is not None:
        keys["origin"] = locked.origin
    for key in ("title", "author"):
        value = getattr(locked, key)
        if value and getattr(spec, key) is None:
            keys[key] = value
    moved = {path: result.moved[path] for path in spec.after if path in result.moved}
    return OverlayEdit(replace=keys, moved=moved)


def _rebased_name(locked: LockedOverlay, version: str) -> str:
    """`overlays/rebased/vllm-project-vllm-41365-on-0.21.0.diff`; a second rebase does not add a second ending."""
    stem = re.sub(r"-on-[0-9][^/]*$", "", locked.diff.rsplit("/", 1)[-1].removesuffix(".diff"))
    return f"overlays/rebased/{stem}-on-{re.sub(r'[^A-Za-z0-9.]', '.', version)}.diff"


def _free_name(project: Project, name: str, data: bytes, pending: Mapping[str, bytes]) -> str:
    """`name`, or with a number when a file of that name has other content: no existing file is overwritten."""
    stem = name.removesuffix(".diff")
    number = 1
    while name in pending or _other(project.root / name, data):
        number += 1
        name = f"{stem}.{number}.diff"
    return name


def _other(path: Path, data: bytes) -> bool:
    return (path.exists() or path.is_symlink()) and not (path.is_file() and path.read_bytes() == data)


def _header(locked: LockedOverlay, lock: Lock, result: Rebase) -> bytes:
    """Text before the first `diff --git`, which git, GNU patch and this tool pass over."""
    origin = locked.origin or (f"{locked.id}@{locked.head}" if locked.head else locked.id)
    lines = [
        f"Origin: {origin}",
        f"Rebased-From: {lock.base.reference} ({lock.base.digest})",
        f"Rebased-Onto: {result.base}",
        f"Original-Digest: {locked.digest}",
        *(f"Left-Out: {pattern} ({' '.join(why.split())})" for pattern, why in locked.accept_undelivered.items()),
    ]
    return "\n".join([*lines, "", ""]).encode()


def _with_digests(
    workspace: Workspace, edits: Sequence[OverlayEdit], base: str, pending: Mapping[str, bytes]
) -> list[OverlayEdit]:
    """The edits with the digests that a recipe pins after its overlays, as they are on the new base.

    A file that the stack up to there no longer changes, as the new base has the change, is no longer pinned.
    """
    recipe = _then(workspace.recipe, edits, base)
    bare = tuple(spec.model_copy(update={"after": {}}) for spec in recipe.overlays)
    count = 0
    found: list[OverlayEdit] = []
    for spec, edit in zip(workspace.recipe.overlays, edits, strict=True):
        count += not edit.drop
        if edit.drop or not spec.after:
            found.append(edit)
            continue
        part = recipe.model_copy(update={"overlays": bare[:count], "checkpoint": None})
        made = make_lock(
            workspace.project, part, workspace.lock, context=workspace.context, update=_FRESH, pending=pending
        )
        files = next(iter(made.results.values())).files
        digests = {file.path: sha256(file.after) for file in files if file.after is not None}
        then = {path: digests.get(edit.moved.get(path, path)) for path in spec.after}
        after = {path: digest for path, digest in then.items() if digest not in (None, spec.after[path])}
        found.append(replace(edit, after=after, unpinned=[path for path in then if then[path] is None]))
    return found


def write(project: Project, written: RebasedFiles) -> None:
    """Write diffs, recipe and lock: all of them or none, also when the process is killed between two of them."""
    files = written.made.files(project)
    lock = files.pop(project.lock_path)
    write_files({**files, project.recipe_path: written.recipe.encode(), project.lock_path: lock}, root=project.root)
