"""Making a lock: looks everything up once, keeps what an earlier lock has pinned, and writes nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.base.model import Base
from builder.base.open import open_base, open_locked
from builder.base.wheel import WheelBase
from builder.documents.lock import Lock, LockedBase, LockedInstall, LockedPlatform, LockedWheel, read_lock
from builder.documents.profile import Profile, load_profile
from builder.documents.recipe import Recipe
from builder.documents.reference import Platform
from builder.patch.model import StackResult
from builder.patch.stack import apply_stack, result_after, run_steps
from builder.patch.unified import notes
from builder.pipeline.locking.added import lock_files
from builder.pipeline.locking.base import epoch_of, lock_platform
from builder.pipeline.locking.checkpoint import resolve_checkpoint
from builder.pipeline.locking.overlays import ResolvedOverlay, naming, resolve_overlay, with_findings
from builder.pipeline.locking.wheels import lock_wheels
from builder.serve import entrypoint
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from builder.util.files import ContentCache, file_sha256, sha256
from builder.util.holding import holding
from builder.util.journal import write_files
from builder.util.project import Project

ENTRYPOINT_SOURCE = Path(entrypoint.__file__)


@dataclass(frozen=True)
class NewLock:
    """A lock that was made, the diffs to vendor by path, and what the stack did on each platform."""

    lock: Lock
    diffs: Mapping[str, bytes]
    results: Mapping[str, StackResult] = field(repr=False)

    def files(self, project: Project) -> dict[Path, bytes]:
        """What `write` writes: the vendored diffs, then the lock that names them."""
        return {project.root / name: data for name, data in self.diffs.items()} | {project.lock_path: self.lock.dump()}

    def changes(self, project: Project) -> list[str]:
        """The files of the project that `write` would change, relative to its root."""
        return sorted(
            project.show(path)
            for path, data in self.files(project).items()
            if not path.is_file() or path.read_bytes() != data
        )

    def write(self, project: Project) -> None:
        """Write diffs and lock, all of them or none: a diff without its lock would stop every build."""
        write_files(self.files(project), root=project.root)


def load_profiles(project: Project, names: Sequence[str]) -> tuple[Profile, ...]:
    """The profiles of a recipe, in its order."""
    return tuple(load_profile(project.profiles / f"{name}.yaml") for name in names)


def make_lock(
    project: Project,
    recipe: Recipe,
    previous: Lock | None,
    *,
    context: Context,
    update: Collection[str] = (),
    pending: Mapping[str, bytes] | None = None,
    trust_ranges: bool = False,
) -> NewLock:
    """Resolve a recipe. What `previous` pins stays pinned, except the overlays named in `update` and, for `base`, the base,
    for `wheels` the wheels.

    `pending` has local diffs that are not written yet, by path; they become part of `NewLock.diffs`.
    A wheel that is the base is read whole and checked once, unless `trust_ranges`, which the lock then says.

    Raises `ApplyError` when the stack does not apply, `MismatchError` when a pin of the recipe is not met,
    `UnreachableError` when something cannot be resolved.
    """
    cache = ContentCache()
    profiles = load_profiles(project, recipe.profiles)
    pinned = {overlay.id: overlay for overlay in previous.overlays} if previous else {}
    # What is wrong with a local diff is found before a server is asked.
    found: dict[str, ResolvedOverlay] = {}
    for spec in sorted(recipe.overlays, key=lambda each: each.file is None):
        found[spec.id] = resolve_overlay(
            project, spec, pinned.get(spec.id), update=spec.id in update, context=context, pending=pending
        )
    resolved = [found[spec.id] for spec in recipe.overlays]
    base = _open(project, recipe, previous if "base" not in update else None, context=context)
    platforms: dict[str, LockedPlatform] = {}
    results: dict[str, StackResult] = {}
    digest, epoch = "", 1
    wheels: tuple[tuple[str, str], ...] = ()
    for name in recipe.platforms:
        platform = Platform.parse(name)
        image = base.image(platform)
        if isinstance(base, WheelBase) and not trust_ranges and not base.checked(platform):
            # A wheel is a quarter of a gigabyte, and a stack that does not apply to its ranges needs none of it.
            with naming(each.locked for each in resolved):
                apply_stack([each.overlay for each in resolved], base.tree(platform, *recipe.packages), recipe.package)
            base.check(platform)
        tree = base.tree(platform, *recipe.packages, listing=bool(recipe.wheels))
        with naming(each.locked for each in resolved):
            results[name] = apply_stack([each.overlay for each in resolved], tree, recipe.package)
        for note in notes(results[name]):
            context.console.warn(note)
        _check_after(recipe, resolved, base, platform)
        before = previous.base.platforms.get(name) if previous is not None and "wheels" not in update else None
        installs = lock_wheels(
            project, recipe, base, tree, platform, before.installed if before is not None else (), context=context
        )
        brought = {path for each in installs.unpacked for path in each.files}
        patched = {f"{tree.root}/{file.path}" for file in results[name].files}
        _check_apart(patched, brought, installs.locked)
        added, texts = lock_files(project, recipe, tree, patched | brought)
        platforms[name] = lock_platform(
            image, tree, results[name], cache, recipe.packages,
            installed=installs.locked, added=added, unmet=installs.unmet, more=[*brought, *texts],
        )  # fmt: skip
        digest, epoch = image.digest, max(epoch, epoch_of(image))
        wheels = image.wheels
    checkpoint = resolve_checkpoint(
        project, recipe.checkpoint, previous.checkpoint if previous and "checkpoint" not in update else None,
        context=context,
    )  # fmt: skip
    lock = Lock(
        name=recipe.name,
        recipe=recipe.digest,
        package=recipe.package,
        base=LockedBase(
            reference=recipe.base,
            digest=digest,
            mirrors=previous.base.mirrors if previous is not None and previous.base.digest == digest else (),
            wheel=wheels[0][0] if wheels else None,
            wheels=tuple(LockedWheel(file=file, sha256=sha) for file, sha in wheels) if len(wheels) > 1 else (),
            trust_ranges=trust_ranges and bool(wheels),
            platforms=platforms,
        ),
        overlays=tuple(
            with_findings(each, [overlay for result in results.values() for overlay in result.overlays])
            for each in resolved
        ),
        checkpoint=checkpoint,
        profiles=profiles,
        default_profile=recipe.default,
        description=recipe.description,
        source=recipe.source,
        licenses=recipe.licenses,
        entrypoint=file_sha256(ENTRYPOINT_SOURCE),
        layer="tar+gzip",
        epoch=epoch,
    )
    diffs = {each.locked.diff: each.vendor for each in resolved if each.vendor is not None} | dict(pending or {})
    return NewLock(lock, diffs, results)


def _check_apart(patched: Collection[str], brought: Collection[str], locked: Sequence[LockedInstall]) -> None:
    """Refuse an overlay on what a wheel brings or removes: the lock would have no base for it."""
    gone = [path for each in locked for path in each.removed]
    clash = sorted(
        path for path in patched if path in brought or any(path == each or path.startswith(f"{each}/") for each in gone)
    )
    if clash:
        raise InputError(
            f"an overlay changes /{clash[0]}, which a wheel of the recipe replaces",
            hint="leave the wheel out, or make a wheel that has the change",
        )


def _open(project: Project, recipe: Recipe, previous: Lock | None, *, context: Context) -> Base:
    if previous is not None and previous.base.reference == recipe.base:
        return open_locked(previous.base, root=project.root, context=context)
    return open_base(recipe.base_reference, root=project.root, context=context)


def _check_after(recipe: Recipe, resolved: Sequence[ResolvedOverlay], base: Base, platform: Platform) -> None:
    """Compare the digests that the recipe pins after an overlay with what the stack up to there gives."""
    pinned = [number for number, spec in enumerate(recipe.overlays, 1) if spec.after]
    if not pinned:
        return
    tree = base.tree(platform, *recipe.packages)
    steps = run_steps([each.overlay for each in resolved[: pinned[-1]]], tree, recipe.package)
    for number in pinned:
        spec = recipe.overlays[number - 1]
        result = result_after(steps[:number], tree, recipe.package)
        found = {file.path: sha256(file.after) for file in result.files if file.after is not None}
        for path, wanted in spec.after.items():
            if found.get(path) != wanted:
                raise MismatchError(
                    f"{path} is not what the recipe pins after {spec.id}",
                    details=[("wanted", wanted), ("found", found.get(path, "the overlay does not change this file"))],
                    hint="the base or the pull request is another one than when the digest was written down",
                )


def lock_or_make(project: Project, recipe: Recipe, *, context: Context) -> Lock:
    """The recipe's lock; without one, make and write it, and say so. Of several at once, one makes it."""
    if project.lock_path.is_file():
        return read_lock(project.lock_path)
    with writing(project, context=context):
        if project.lock_path.is_file():
            return read_lock(project.lock_path)
        where = f" in {project.root}" if project.elsewhere else ""
        context.console.say(f"{project.show(project.lock_path)} does not exist yet{where}: making it")
        made = make_lock(project, recipe, None, context=context)
        made.write(project)
    return made.lock


@contextmanager
def writing(project: Project, *, context: Context) -> Iterator[None]:
    """Hold the project while recipe and lock are read, changed and written; says who holds it when somebody does."""
    with holding(
        project.root, waiting=lambda who: context.console.say(f"waiting for {who}, which writes to {project.root}")
    ):
        yield
