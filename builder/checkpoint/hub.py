"""The checkpoint digest of a repository on the Hub, from its metadata: large files are not downloaded.

Source: the Hub's tree API gives the SHA-256 of every LFS (and xet) file; the few others are fetched and checked against
their git blob id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.checkpoint.digest import combine, is_served
from builder.checkpoint.hub_access import fetch, open_hub
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Files that are not in LFS are fetched whole; the Hub takes none above 10 MiB.
SMALL_LIMIT = 16 << 20
_ENTRY_LIMIT = 200_000


@dataclass(frozen=True)
class HubDigest:
    """A digest, the commit that the revision stood for, and the files as (path, SHA-256, size)."""

    digest: str
    revision: str
    files: tuple[tuple[str, str, int], ...]


def digest_hub(repo: str, revision: str | None, *, context: Context) -> HubDigest:
    """Digest `repo` at `revision` (a commit, branch or tag). `HF_ENDPOINT` and tokens follow huggingface_hub's rules.

    Raises `UnreachableError` when the Hub does not answer or refuses, `InputError` when there is nothing to digest.
    """
    with open_hub(repo) as api:
        from huggingface_hub import RepoFile

        commit = _commit(api, repo, revision)
        tree = api.list_repo_tree(repo, revision=commit, recursive=True)
        entries = [entry for entry in _once_each(tree) if isinstance(entry, RepoFile) and is_served(entry.path)]
        with context.console.progress("reading the checkpoint's metadata", total=len(entries), unit="files") as bar:
            files = []
            for entry in entries:
                files.append((entry.path, _sha256(api, repo, commit, entry), entry.size))
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
            return _commit(api, repo, revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None


def _commit(api: HfApi, repo: str, revision: str | None) -> str:
    found = api.model_info(repo, revision=revision).sha
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", found):
        raise UnreachableError(f"the Hub names no commit for {repo}", hint="try again")
    return found


def _once_each(tree: Iterable[Any]) -> Iterator[Any]:
    """The tree's entries, refused where pages repeat themselves or never end: a digest of that would be nobody's."""
    seen: set[str] = set()
    for entry in tree:
        if entry.path in seen or len(seen) == _ENTRY_LIMIT:
            raise MismatchError(
                f"the Hub lists {entry.path} twice" if entry.path in seen else f"more than {_ENTRY_LIMIT:,} files",
                hint="try again; a mirror may be out of date",
            )
        seen.add(entry.path)
        yield entry


def _sha256(api: HfApi, repo: str, commit: str, entry: Any) -> str:
    if not isinstance(entry.size, int) or entry.size < 0:
        raise ValueError(f"a size of {entry.size!r}")
    if entry.lfs is not None:
        if not re.fullmatch("[0-9a-f]{64}", entry.lfs.sha256):
            raise ValueError(f"a SHA-256 of {entry.lfs.sha256!r}")
        return str(entry.lfs.sha256)
    if entry.size > SMALL_LIMIT:
        raise InputError(
            f"{entry.path} is {entry.size} bytes and not in LFS", hint="this is not a checkpoint of the usual form"
        )
    data = fetch(api, repo, commit, entry.path)
    # In two steps: joined, they would be a second copy in memory.
    git = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    git.update(data)
    blob = git.hexdigest()
    if blob != entry.blob_id:
        raise MismatchError(
            f"the Hub gave another {entry.path} than its metadata names",
            details=[("wanted", entry.blob_id), ("found", blob)],
            hint="try again; a mirror may be out of date",
        )
    return hashlib.sha256(data).hexdigest()
