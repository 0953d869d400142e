"""Publishing one recipe's image: built in memory, pushed with its evidence, to one or several repositories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from builder.base.model import Base
from builder.base.open import open_locked
from builder.documents.recipe import Recipe
from builder.documents.reference import BaseReference, Reference
from builder.documents.verdict import Reading, read_verdict
from builder.image.built import Built
from builder.net.transport import load_http
from builder.oci.artifact import OUTCOME, Evidence
from builder.oci.registry.client import Registry
from builder.pipeline.build import build_images
from builder.pipeline.locking.overlays import read_overlay
from builder.pipeline.workspace import Workspace
from builder.release.evidence.collect import make_evidence, read_verdicts, verdict_bytes, write_evidence
from builder.release.evidence.repository import find_repository
from builder.release.push import Moved, push
from builder.util.context import Context
from builder.util.errors import GateError, InputError

Seal = Callable[[Sequence[Evidence], Registry, str], Sequence[Evidence]]
"""Evidence for a repository of a registry -> the same with its statements in signed envelopes."""


@dataclass(frozen=True)
class PublishOptions:
    """What the caller asked for. `tags` move to this image; `move` moves the checkpoint's own tag."""

    move: bool = False
    tags: tuple[str, ...] = ()
    evidence: bool = True
    evidence_folder: Path | None = None
    verdicts: tuple[Path, ...] = ()
    allow_failed: bool = False
    """Move `tags` also when a verdict has failed or cannot be read."""
    sign: Callable[[str], None] | None = None
    """Signs an image by its name, such as with cosign."""
    seal: Seal | None = None
    """Signs the statements about the image."""


@dataclass(frozen=True)
class Prepared:
    """An image that is ready to be pushed: nothing was sent yet. `evidence` makes its documents, once."""

    workspace: Workspace
    built: Built
    targets: tuple[Reference, ...]
    evidence: Callable[[], Sequence[Evidence]]


@dataclass(frozen=True)
class Published:
    """One image in one repository."""

    name: str
    reference: str
    digest: str
    tags: tuple[str, ...]
    moved: Moved


def target_of(text: str) -> Reference:
    """A repository to push to. Raises `InputError` when a tag or a digest is given as well."""
    host, colon, port = text.partition(":")
    if colon and host and port.isdecimal() and ("." in host or host == "localhost"):
        raise InputError(f"{text!r} names a registry and no repository", hint=f"write it as {text}/OWNER/NAME")
    target = Reference.parse(text)
    if not Reference.is_repository(text):
        raise InputError(f"{text!r} has a tag or a digest", hint="name the repository; the tags follow from the lock")
    return target


def check_publishable(recipe: Recipe, to: Sequence[str], options: PublishOptions) -> tuple[Reference, ...]:
    """Where the recipe's image goes. Asks nobody, so that wrong input is reported before anything is resolved or built.

    Raises `InputError` for a base that has no registry, a target, a tag or a file of a verdict that cannot be used, and
    `GateError` when a tag would move to an image with a verdict that did not pass.
    """
    names = list(to) or ([recipe.publish] if recipe.publish else [])
    if not names:
        raise InputError(
            f"where should {recipe.name} go?", hint="name a repository with --to, or 'publish' in the recipe"
        )
    targets = tuple(target_of(name) for name in names)
    _check_policies(recipe, targets, options)
    kind = BaseReference.parse(recipe.base).kind
    if kind in ("wheel", "docker"):
        raise InputError(
            f"an image on a {kind}: base cannot be published", hint="use a base in a registry or an OCI layout"
        )
    _judge([(path.name, read_verdict(verdict_bytes(path))) for path in options.verdicts], options)
    return targets


def prepare(workspace: Workspace, to: Sequence[str], options: PublishOptions) -> Prepared:
    """Build the image and its evidence, and find out where both go. Raises what `check_publishable` raises, and
    `MismatchError` for a verdict that is about another image."""
    targets = check_publishable(workspace.recipe, to, options)
    built = build_images(workspace.lock, workspace.plans(), meanwhile=load_http)
    verdicts = read_verdicts(options.verdicts, built)
    for each in verdicts:
        if each.annotations[OUTCOME] == "unreadable":
            workspace.context.console.warn(f"{each.name} does not read as a verdict: {read_verdict(each.data).why}")

    @cache
    def evidence() -> tuple[Evidence, ...]:
        return (*(_evidence(workspace, built) if options.evidence else ()), *verdicts)

    if options.evidence_folder is not None:
        write_evidence(options.evidence_folder, evidence())
    return Prepared(workspace, built, targets, evidence)


def _evidence(workspace: Workspace, built: Built) -> list[Evidence]:
    overlays = [read_overlay(workspace.project, each) for each in workspace.lock.overlays]
    repository = find_repository(workspace.project.root, warn=workspace.context.console.warn)
    return make_evidence(workspace.lock, built, overlays, repository)


def _check_policies(recipe: Recipe, targets: Sequence[Reference], options: PublishOptions) -> None:
    """Raise `InputError` for a tag that has a policy: such a tag moves when the image was judged, not when it is pushed."""
    policies = recipe.policies
    for tag in options.tags:
        if tag in policies:
            raise InputError(
                f"{recipe.name} has a policy for the tag {tag!r}: publishing does not move it",
                details=[("policy", policies[tag])],
                hint=f"publish without --tag, then: builder promote {targets[0].name}@DIGEST --to {tag} "
                f"--policy {policies[tag]}",
            )


def _judge(verdicts: Sequence[tuple[str, Reading]], options: PublishOptions) -> None:
    """Raise `GateError` when a tag would move to an image with a verdict, by its file's name, that did not pass."""
    bad = [(name, each) for name, each in verdicts if each.outcome not in ("passed", "warned")]
    if not bad or not options.tags or options.allow_failed:
        return
    raise GateError(
        f"{', '.join(options.tags)} cannot move to this image: {len(bad)} of {len(verdicts)} verdicts did not pass",
        details=[(each.outcome, f"{name} {each.why}".rstrip()) for name, each in bad],
        hint="publish without --tag to attach the verdicts, or with --allow-failed if you know better",
    )


def publish(prepared: Prepared, options: PublishOptions, *, context: Context) -> list[Published]:
    """Push to every target, one after another."""
    lock, built = prepared.workspace.lock, prepared.built
    base: Base = open_locked(lock.base, root=prepared.workspace.project.root, context=context)
    owner = {each.digest: image.base for image in built.images.values() for each in image.base_layers}
    homes = [lock.base.parsed.image] if lock.base.parsed.kind == "registry" else []
    homes += [Reference.parse(each) for each in lock.base.mirrors]
    tags = [*([built.tags.moving] if options.move and built.tags.moving else []), *options.tags]
    done = []
    for target in prepared.targets:
        # Layers are mounted from a repository of the target's own registry, the base's or a mirror's.
        home = next((each for each in homes if each.registry == target.registry), None)
        registry = Registry(target.registry, context=context)
        evidence = prepared.evidence
        if options.seal is not None:
            evidence = partial(tuple, options.seal(prepared.evidence(), registry, target.repository))
        moved = push(
            built, target, home, lambda layer: base.blob(owner[layer.digest], layer),
            evidence=evidence, tags=tags, sign=options.sign, registry=registry, context=context,
        )  # fmt: skip
        done.append(
            Published(
                lock.name, f"{target.name}@{built.top.digest}", built.top.digest, (built.tags.immutable, *tags), moved
            )
        )
    return done
