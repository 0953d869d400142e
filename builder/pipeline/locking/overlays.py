"""Overlays of a recipe -> overlays of a lock, with their diffs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.documents.lock import LockedOverlay, Rendering, about_line
from builder.documents.recipe import OverlaySpec
from builder.patch.diff import parse
from builder.patch.model import AppliedOverlay, Diff, FileChange, Overlay
from builder.patch.names import relocated
from builder.patch.tree import StackError
from builder.pulls.source import fetch_pull
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from builder.util.files import ContentCache, read_regular, sha256
from builder.util.limits import Limits
from builder.util.project import Project

Headings = Mapping[str, Mapping[int, str]]
"""Path -> hunk number (from 1) -> heading."""


@dataclass(frozen=True)
class ResolvedOverlay:
    """An overlay that is ready to apply, its entry in the lock, and the canonical diff to vendor (None: already there)."""

    locked: LockedOverlay
    overlay: Overlay
    vendor: bytes | None = None


@contextmanager
def naming(overlays: Iterable[LockedOverlay]) -> Iterator[None]:
    """An overlay that does not apply is introduced in its error: its title, why it is there, when it can go."""
    try:
        yield
    except StackError as error:
        found = next((each for each in overlays if each.id == error.overlay), None)
        if found is not None and (line := about_line(found.about())):
            error.details = (("overlay", line), *error.details)
            error.data["about"] = found.about()
        raise


def vendored_name(spec: OverlaySpec) -> str:
    """Where the canonical diff of a pull request is kept: `overlays/vllm-project-vllm-41365.diff`."""
    return f"overlays/{spec.repository.replace('/', '-')}-{spec.number}.diff"


def read_overlay(project: Project, locked: LockedOverlay) -> Overlay:
    """The locked overlay from its vendored copy. Raises `MismatchError` when the copy is not what was locked."""
    data = _read_diff(project, locked.diff, fetched=locked.head is not None)
    if locked.head is None:
        diff = parse(data, locked.diff, strip=locked.strip, under=locked.under or "")
    else:
        diff = parse(data, locked.diff, fetched=True)
    overlay = overlay_of(locked, diff)
    if overlay.diff.digest != locked.digest:
        raise MismatchError(
            f"{locked.diff} is not the diff that was locked",
            details=[("overlay", locked.id), ("wanted", locked.digest), ("found", overlay.diff.digest)],
            hint=f"put the locked diff back (git checkout), or {_taking(project, locked)}",
        )
    return overlay


def _taking(project: Project, locked: LockedOverlay) -> str:
    """The command after which the lock is true again: a pull request's copy is nobody's to edit, a local diff is."""
    if locked.head is None:
        return f"`builder lock {project.recipe}` takes it as it is now"
    return f"`builder lock {project.recipe} --update {locked.id}` fetches the pull request as it is now"


def resolve_overlay(
    project: Project,
    spec: OverlaySpec,
    previous: LockedOverlay | None,
    *,
    update: bool = False,
    context: Context,
    pending: Mapping[str, bytes] | None = None,
) -> ResolvedOverlay:
    """Resolve one overlay. A pull request that `previous` has pinned, with its copy intact, is taken as it is.

    With `update`, it is taken as it is upstream now; `previous` then says what is known of it besides.
    `pending` has diffs that are not written yet, by the path that they will have.
    """
    if spec.file is not None:
        return _from_file(project, spec, pending)
    pinned = previous if previous is not None and not update and _still_pinned(spec, previous) else None
    if pinned is not None:
        locked = _entry(
            spec, diff=pinned.diff, digest=pinned.digest, head=pinned.head, merge_base=pinned.merge_base,
            url=pinned.url, title=pinned.title, author=pinned.author, state=pinned.state,
            base_branch=pinned.base_branch, rendering=pinned.rendering,
        ).model_copy(update={"headings": pinned.headings})  # fmt: skip
        if (project.root / pinned.diff).is_file():
            return ResolvedOverlay(locked, read_overlay(project, locked))
        kept = ContentCache().get(pinned.digest)
        if kept is not None:
            context.console.say(f"taking {pinned.diff} from the cache")
            return ResolvedOverlay(locked, overlay_of(locked, parse(kept, pinned.diff, fetched=True)), vendor=kept)
    branch = previous.base_branch if previous is not None else None
    return _from_pull(project, spec, pinned, branch, context=context)


def _still_pinned(spec: OverlaySpec, previous: LockedOverlay) -> bool:
    return spec.head in (None, previous.head) and spec.merge_base in (None, previous.merge_base)


def _from_file(project: Project, spec: OverlaySpec, pending: Mapping[str, bytes] | None) -> ResolvedOverlay:
    name = spec.id
    path = project.root / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(project.root):
        raise InputError(
            f"overlay {name} is outside the project",
            hint=f"put the diff below {project.root} so that others can build it",
        )
    data = pending[name] if pending and name in pending else _read_diff(project, name, fetched=False)
    diff = parse(data, name, strip=spec.strip, under=spec.under or "")
    locked = _entry(
        spec, diff=name, digest=diff.digest, title=spec.title, author=spec.author, origin=spec.origin
    )  # fmt: skip
    return ResolvedOverlay(locked, overlay_of(locked, diff, headings=_headings(diff.changes)))


def _from_pull(
    project: Project,
    spec: OverlaySpec,
    pinned: LockedOverlay | None,
    base_branch: str | None,
    *,
    context: Context,
) -> ResolvedOverlay:
    # What the lock has pinned is still wanted when only its vendored copy is missing, whatever the recipe pins besides.
    pins = pinned or spec
    doing = f"fetching {spec.id}" + (f" at {pins.head[:12]}" if pins.head else "")
    if not context.offline:
        context.console.say(doing)
    with context.console.progress(doing):
        pull = fetch_pull(
            spec.repository, spec.number, head=pins.head, merge_base=pins.merge_base, base_branch=base_branch,
            expected=pinned.digest if pinned is not None else None, recipe=project.recipe,
            context=context,
        )  # fmt: skip
    name = vendored_name(spec)
    # Read back from the canonical form, so that line numbers in messages are those of the vendored copy.
    fetched = parse(pull.diff, spec.id, fetched=True)
    diff = parse(fetched.canonical, name, fetched=True)
    ContentCache().put(diff.canonical)
    locked = _entry(
        spec, diff=name, digest=diff.digest, head=pull.head, merge_base=pull.merge_base, url=pull.url,
        title=pull.title, author=pull.author, state=pull.state, base_branch=pull.base_branch,
        rendering=Rendering(via=pull.via, sha256=sha256(pull.diff)),
    )  # fmt: skip
    headings = _headings(relocated(fetched.changes, spec.strip, spec.under or ""))
    return ResolvedOverlay(locked, overlay_of(locked, diff, headings=headings), vendor=diff.canonical)


def _entry(spec: OverlaySpec, **found: str | Rendering | None) -> LockedOverlay:
    return LockedOverlay.model_validate(
        {
            "id": spec.id,
            "strip": spec.strip,
            "under": spec.under,
            "package": spec.packages,
            "fuzz": spec.fuzz,
            "accept_undelivered": spec.accept_undelivered,
            "requires": spec.requires,
            "why": spec.why,
            "drop_when": spec.drop_when,
            **found,
        }
    )


def overlay_of(locked: LockedOverlay, diff: Diff, *, headings: Headings | None = None) -> Overlay:
    """The overlay with its files where the package has them.

    A pull request's diff is vendored with the names that it has upstream; a local diff was read with the lock's `strip`
    and `under`. `headings` are all that the diff has; without them, those count that the lock pins.
    """
    if locked.head is not None and (locked.strip != 1 or locked.under):
        diff = replace(diff, changes=relocated(diff.changes, locked.strip, locked.under or ""))
    pinned = {path: {int(number): text for number, text in each.items()} for path, each in locked.headings.items()}
    return Overlay(
        id=locked.id,
        diff=diff,
        where=locked.diff,
        fuzz=locked.fuzz,
        accept_undelivered=dict(locked.accept_undelivered),
        headings=headings if headings is not None else pinned,
        strip=locked.strip,
        packages=locked.package,
    )


def _headings(changes: Iterable[FileChange]) -> Headings:
    """The headings behind `@@` by path and hunk number. They are not part of what identifies a diff."""
    found: dict[str, dict[int, str]] = {}
    for change in changes:
        for number, hunk in enumerate(change.hunks, 1):
            if hunk.heading.strip():
                found.setdefault(change.path, {})[number] = hunk.heading.decode("utf-8", "replace").strip()
    return found


def with_findings(resolved: ResolvedOverlay, applied: Iterable[AppliedOverlay]) -> LockedOverlay:
    """The entry for the lock, with what the base has decided, on any of the platforms.

    That is the headings that settled a place, which a build goes by, and the packages of which a change was left out.
    """
    pinned: dict[str, dict[str, str]] = {}
    unnamed: dict[str, None] = {}
    for overlay in applied:
        if overlay.id == resolved.locked.id:
            unnamed |= dict.fromkeys(overlay.unnamed)
        for hunk in overlay.hunks if overlay.id == resolved.locked.id else ():
            if hunk.chosen == "heading":
                text = resolved.overlay.headings[hunk.path][hunk.number]
                pinned.setdefault(hunk.path, {})[str(hunk.number)] = text
    return resolved.locked.model_copy(update={"headings": pinned, "unnamed": tuple(unnamed)})


def _read_diff(project: Project, name: str, *, fetched: bool) -> bytes:
    try:
        return read_regular(project.root / name, limit=Limits.size, name=f"the diff {name}")
    except OSError as error:
        hint = (
            f"the vendored copy belongs in the repository; `builder lock {project.recipe}` fetches it again"
            if fetched
            else _where_it_may_be(project, name)
        )
        raise InputError(f"cannot read the diff {name}: {error.strerror}", hint=hint) from error


def _where_it_may_be(project: Project, name: str) -> str:
    """For a local diff that cannot be read: one of the same name elsewhere in the project, or what to do without one."""
    beside = sorted(
        str(path.relative_to(project.root))
        for folder in (project.root, project.overlays, project.recipe_path.parent)
        if folder.is_dir()
        for path in folder.iterdir()
        if path.is_file() and path.name == Path(name).name
    )
    meant = f"did you mean {beside[0]}? " if beside else ""
    return f"{meant}put a unified diff at {project.root / name}, or take the overlay out of {project.show(project.recipe_path)}"
