"""What became of a lock's base and checkpoint."""

from __future__ import annotations

from dataclasses import replace

from builder.base.open import open_base
from builder.base.wheel import choose_wheel
from builder.checkpoint.hub import hub_commit
from builder.documents.lock import Lock, LockedCheckpoint, wheels_digest
from builder.documents.recipe import CheckpointSpec
from builder.documents.reference import Platform
from builder.oci.registry.client import Registry
from builder.upkeep.drift.model import DriftFinding
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.project import Project


def base_drift(project: Project, lock: Lock, *, context: Context) -> DriftFinding:
    """Compare the base with what its name refers to now. Raises `UnreachableError` when no server responds."""
    finding = DriftFinding("base", lock.base.reference, "unchanged", locked=lock.base.digest)
    if lock.base.parsed.kind == "registry":
        now = _registry_digest(lock, context)
    else:
        try:
            now = _other_digest(project, lock, context)
        except InputError as error:
            return _deleted(finding, error.message)
    if now is None:
        return _deleted(finding, "there is no such tag any more")
    if now == lock.base.digest:
        return finding
    return replace(
        finding, cause="base tag moved", upstream=now, detail="the name refers to other content now",
        next=f"builds keep the locked digest; `builder lock {project.recipe} --update base` takes the new one",
    )  # fmt: skip


def _deleted(finding: DriftFinding, detail: str) -> DriftFinding:
    return replace(
        finding,
        cause="base deleted",
        detail=detail,
        next="mirror the locked digest while a registry still has it, or rebase",
    )


def _registry_digest(lock: Lock, context: Context) -> str | None:
    reference = lock.base.parsed.image
    return Registry(reference.registry, context=context).has_manifest(
        reference.repository, reference.digest or reference.tag or "latest"
    )


def _other_digest(project: Project, lock: Lock, context: Context) -> str:
    wheels = lock.base.parsed.wheels
    # The digest that `make_lock` keeps is the last platform's: of a wheel, each platform may have its own.
    platform = Platform.parse(list(lock.base.platforms)[-1])
    if lock.base.wheel is not None and all("==" in each for each in wheels):
        # Not from the cache: a release can get another build of its wheel.
        releases = [each.partition("==") for each in wheels]
        found = [choose_wheel(name, version, platform) for name, _, version in releases]
        digest = wheels_digest((each.filename, each.sha256) for each in found)
        return f"sha256:{found[0].sha256 if len(found) == 1 else digest}"
    return open_base(lock.base.parsed, root=project.root, context=context).image(platform).digest


def checkpoint_drift(
    project: Project, locked: LockedCheckpoint | None, spec: CheckpointSpec, *, context: Context
) -> DriftFinding | None:
    """Compare the revision on the Hub. A local checkpoint is not read: `builder checkpoint digest` does that."""
    if locked is None:
        return None
    name = locked.repo or locked.path or "checkpoint"
    finding = DriftFinding("checkpoint", name, "unchanged", locked=locked.revision or locked.digest)
    if locked.repo is None:
        return replace(finding, cause="not compared", detail="a local checkpoint, or one that is known by digest only")

    now = hub_commit(locked.repo, spec.revision, context=context)
    if now is None:
        return replace(
            finding, cause="checkpoint gone", detail=f"the Hub has no {name} at {spec.revision or 'its default branch'}"
        )
    if now == locked.revision:
        return finding
    return replace(
        finding, cause="checkpoint revision moved", upstream=now, detail="the branch or tag is at another commit",
        next=f"`builder lock {project.recipe} --update checkpoint` takes it",
    )  # fmt: skip
