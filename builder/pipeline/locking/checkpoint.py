"""The checkpoint of a recipe -> the checkpoint of a lock."""

from __future__ import annotations

from collections.abc import Iterable

from builder.cli.console import Console
from builder.documents.lock import LockedCheckpoint, LockedCheckpointFile
from builder.documents.recipe import CheckpointSpec
from builder.util.errors import InputError, MismatchError
from builder.util.project import Project


def resolve_checkpoint(
    project: Project, spec: CheckpointSpec | None, previous: LockedCheckpoint | None, *, console: Console, offline: bool
) -> LockedCheckpoint | None:
    """Find the checkpoint's digest; one that is on the Hub keeps the revision that `previous` has pinned."""
    if spec is None:
        return None
    if spec.path is not None:
        return _expected(spec, _local(project, spec.path, console))
    if spec.repo is not None:
        pinned = previous is not None and previous.repo == spec.repo and spec.revision in (None, previous.revision)
        if pinned or (previous is not None and previous.repo == spec.repo and offline):
            return previous
        return _expected(spec, _hub(spec.repo, spec.revision, console=console, offline=offline))
    assert spec.digest is not None  # noqa: S101  the recipe's validator
    return LockedCheckpoint(digest=spec.digest)


def _local(project: Project, name: str, console: Console) -> LockedCheckpoint:
    from builder.checkpoint.digest import digest_directory

    folder = project.root / name
    if not folder.is_dir():
        raise InputError(
            f"the checkpoint folder {name} is not there",
            details=[("where", str(folder))],
            hint="put the checkpoint there, or give its digest in the recipe: checkpoint: {digest: ...}",
        )
    found = digest_directory(folder, console=console)
    return LockedCheckpoint(digest=found.digest, path=name, files=_files(found.files))


def _hub(repo: str, revision: str | None, *, console: Console, offline: bool) -> LockedCheckpoint:
    if offline:
        raise InputError(
            f"--offline: the checkpoint {repo} is not in the lock", hint="run `builder lock` once with the network"
        )
    from builder.checkpoint.hub import digest_hub

    found = digest_hub(repo, revision, console=console)
    return LockedCheckpoint(digest=found.digest, repo=repo, revision=found.revision, files=_files(found.files))


def _files(files: Iterable[tuple[str, str, int]]) -> tuple[LockedCheckpointFile, ...]:
    return tuple(LockedCheckpointFile(path=path, sha256=digest, size=size) for path, digest, size in files)


def _expected(spec: CheckpointSpec, found: LockedCheckpoint) -> LockedCheckpoint:
    if spec.digest is not None and spec.digest != found.digest:
        raise MismatchError(
            "the checkpoint is not the one that the recipe names by digest",
            details=[("wanted", spec.digest), ("found", found.digest), ("where", spec.path or spec.repo or "")],
            hint="bring the right checkpoint, or put the new digest into the recipe",
        )
    return found
