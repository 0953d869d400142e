"""The checkpoint digest of a repository on the Hub, from its metadata: large files are not downloaded.

Source: the Hub's tree API gives the SHA-256 of every LFS (and xet) file; the few others are fetched and checked against
their git blob id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.checkpoint.digest import combine, is_served
from builder.checkpoint.hub_access import fetch, open_hub
from builder.console import Console
from builder.errors import InputError, MismatchError, UnreachableError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SMALL_LIMIT = 64 << 20


@dataclass(frozen=True)
class HubDigest:
    """A digest, the commit that the revision stood for, and the files as (path, SHA-256, size)."""

    digest: str
    revision: str
    files: tuple[tuple[str, str, int], ...]


def digest_hub(repo: str, revision: str | None, *, console: Console) -> HubDigest:
    """Digest `repo` at `revision` (a commit, branch or tag). `HF_ENDPOINT` and tokens follow huggingface_hub's rules.

    Raises `UnreachableError` when the Hub does not answer or refuses, `InputError` when there is nothing to digest.
    """
    with open_hub(repo) as api:
        from huggingface_hub import RepoFile

        commit = api.model_info(repo, revision=revision).sha
        if not commit:
            raise UnreachableError(f"the Hub names no commit for {repo}", hint="try again")
        entries = [
            entry
            for entry in api.list_repo_tree(repo, revision=commit, recursive=True)
            if isinstance(entry, RepoFile) and is_served(entry.path)
        ]
        with console.progress("reading the checkpoint's metadata", total=len(entries), unit="files") as bar:
            files = []
            for entry in entries:
                files.append((entry.path, _sha256(api, repo, commit, entry), int(entry.size)))
                bar.advance(1)
    if not files:
        raise InputError(f"{repo} has no checkpoint files at {commit}", hint="check the revision")
    found = combine(files)
    return HubDigest(found.digest, commit, found.files)


def hub_commit(repo: str, revision: str | None) -> str | None:
    """The commit that a revision stands for now; None when the Hub has no such repository or revision.

    Raises `UnreachableError` when the Hub does not answer or refuses.
    """
    with open_hub(repo) as api:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return api.model_info(repo, revision=revision).sha
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None


def _sha256(api: HfApi, repo: str, commit: str, entry: Any) -> str:
    if entry.lfs is not None:
        return str(entry.lfs.sha256)
    if entry.size > _SMALL_LIMIT:
        raise InputError(
            f"{entry.path} is {entry.size} bytes and not in LFS", hint="this is not a checkpoint of the usual form"
        )
    data = fetch(api, repo, commit, entry.path)
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if blob != entry.blob_id:
        raise MismatchError(
            f"the Hub gave another {entry.path} than its metadata names",
            details=[("wanted", entry.blob_id), ("found", blob)],
            hint="try again; a mirror may be out of date",
        )
    return hashlib.sha256(data).hexdigest()
