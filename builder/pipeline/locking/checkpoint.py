"""The checkpoint of a recipe -> the checkpoint of a lock."""

from __future__ import annotations

from collections.abc import Iterable

from builder.checkpoint.artifact import read_artifact
from builder.checkpoint.digest import digest_directory
from builder.checkpoint.hub import digest_hub
from builder.documents.lock import LockedCheckpoint, LockedCheckpointFile
from builder.documents.recipe import CheckpointSpec
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from builder.util.project import Project


def resolve_checkpoint(
    project: Project, spec: CheckpointSpec | None, previous: LockedCheckpoint | None, *, context: Context
) -> LockedCheckpoint | None:
    """Find the checkpoint's digest; one that is on the Hub keeps the revision that `previous` has pinned."""
    if spec is None:
        return None
    if spec.path is not None:
        return _expected(spec, _local(project, spec.path, context))
    if spec.repo is not None:
        pinned = previous is not None and previous.repo == spec.repo and spec.revision in (None, previous.revision)
        if pinned or (previous is not None and previous.repo == spec.repo and context.offline):
            return previous
        return _expected(spec, _hub(spec.repo, spec.revision, context=context))
    if spec.oci is not None:
        known = previous is not None and previous.oci == spec.oci and spec.digest in (None, previous.digest)
        if previous is not None and known and not (previous.files and spec.folder):
            return previous.model_copy(update={"folder": spec.folder})
        return _expected(spec, _artifact(spec, spec.oci, context))
    assert spec.digest is not None  # noqa: S101  the recipe's validator
    return LockedCheckpoint(digest=spec.digest)


def _local(project: Project, name: str, context: Context) -> LockedCheckpoint:
    folder = project.root / name
    if not folder.is_dir():
        raise InputError(
            f"the checkpoint folder {name} is not there",
            details=[("where", str(folder))],
            hint="put the checkpoint there, or give its digest in the recipe: checkpoint: {digest: ...}",
        )
    found = digest_directory(folder, context=context)
    return LockedCheckpoint(digest=found.digest, path=name, files=_files(found.files))


def _hub(repo: str, revision: str | None, *, context: Context) -> LockedCheckpoint:
    if context.offline:
        raise InputError(
            f"--offline: the checkpoint {repo} is not in the lock", hint="run `builder lock` once with the network"
        )

    found = digest_hub(repo, revision, context=context)
    return LockedCheckpoint(digest=found.digest, repo=repo, revision=found.revision, files=_files(found.files))


def _artifact(spec: CheckpointSpec, name: str, context: Context) -> LockedCheckpoint:
    """Paths, sizes and digests are in the manifest. An image's layers are archives: its checkpoint has to be named by digest."""
    if context.offline:
        raise InputError(
            f"--offline: the checkpoint {name} is not in the lock", hint="run `builder lock` once with the network"
        )
    artifact = read_artifact(name, context=context)
    if not artifact.mounted:
        if spec.folder is not None:
            raise InputError(
                f"{name} is an artifact, whose files have paths of their own",
                hint="remove 'folder' from the recipe's checkpoint",
            )
        found = artifact.digest()
        return LockedCheckpoint(digest=found.digest, oci=name, files=_files(found.files))
    if spec.digest is None:
        raise InputError(
            f"{name} is an image, whose layers do not say which files they hold",
            hint="add the digest that `builder checkpoint digest FOLDER` prints: checkpoint: {oci: ..., digest: ...}",
        )
    return LockedCheckpoint(digest=spec.digest, oci=name, folder=spec.folder)


def _files(files: Iterable[tuple[str, str, int]]) -> tuple[LockedCheckpointFile, ...]:
    return tuple(LockedCheckpointFile(path=path, sha256=digest, size=size) for path, digest, size in files)


def _expected(spec: CheckpointSpec, found: LockedCheckpoint) -> LockedCheckpoint:
    if spec.digest is not None and spec.digest != found.digest:
        raise MismatchError(
            "the checkpoint is not the one that the recipe names by digest",
            details=[
                ("wanted", spec.digest),
                ("found", found.digest),
                ("where", spec.path or spec.repo or spec.oci or ""),
            ],
            hint="bring the right checkpoint, or put the new digest into the recipe",
        )
    return found
