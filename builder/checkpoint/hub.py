"""The checkpoint digest of a repository on the Hub, from its metadata: large files are not downloaded.

Source: the Hub's tree API gives the SHA-256 of every LFS (and xet) file; the few others are fetched and checked against
their git blob id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from builder.checkpoint.digest import combine, is_served
from builder.checkpoint.hub_access import Hub, open_hub
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError

# Files that are not in LFS are fetched whole; the Hub takes none above 10 MiB.
SMALL_LIMIT = 16 << 20
_ENTRY_LIMIT = 200_000


@dataclass(frozen=True)
class HubDigest:
    """A digest, the commit of the revision, and the files as (path, SHA-256, size in bytes)."""

    digest: str
    revision: str
    files: tuple[tuple[str, str, int], ...]


def digest_hub(repo: str, revision: str | None, *, context: Context) -> HubDigest:
    """Digest `repo` at `revision` (a commit, branch or tag). `HF_ENDPOINT` and tokens follow huggingface_hub's rules.

    Raises `UnreachableError` when the Hub does not respond or refuses, `InputError` when there is nothing to digest,
    `MismatchError` when it contradicts itself.
    """
    with open_hub(repo, context=context) as hub:
        commit = hub.required_commit(revision)
        entries = [
            entry for entry in _once_each(hub, commit) if entry.get("type") == "file" and is_served(entry["path"])
        ]
        with context.console.progress("reading the checkpoint's metadata", total=len(entries), unit="files") as bar:
            files = []
            for entry in entries:
                files.append((entry["path"], _sha256(hub, commit, entry), entry["size"]))
                bar.advance(1)
    if not files:
        raise InputError(f"{repo} has no checkpoint files at {commit}", hint="check the revision")
    found = combine(files)
    return HubDigest(found.digest, commit, found.files)


def hub_commit(repo: str, revision: str | None, *, context: Context) -> str | None:
    """The commit of a revision now; None when the Hub has no such repository or revision.

    Raises `UnreachableError` when the Hub does not respond or refuses.
    """
    with open_hub(repo, context=context) as hub:
        return hub.commit(revision)


def _once_each(hub: Hub, commit: str) -> Iterator[dict[str, Any]]:
    """The tree's entries, refused where pages repeat themselves or never end: no repository has such a tree."""
    seen: set[str] = set()
    for entry in hub.tree(commit):
        path = entry.get("path")
        if not isinstance(path, str) or not _is_text(path):
            raise hub.shapeless("a path is not text")
        if path in seen or len(seen) == _ENTRY_LIMIT:
            raise MismatchError(
                f"the Hub lists {path} repeatedly" if path in seen else f"more than {_ENTRY_LIMIT:,} files",
                hint="try again; a mirror may be out of date",
            )
        seen.add(path)
        yield entry


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(hub: Hub, commit: str, entry: dict[str, Any]) -> str:
    path, size, lfs = entry["path"], entry.get("size"), entry.get("lfs")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise hub.shapeless("a size is not a number of bytes")
    if lfs is not None:
        found = lfs.get("oid") if isinstance(lfs, dict) else None
        if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{64}", found):
            raise hub.shapeless("an LFS file has no SHA-256")
        return found
    if size > SMALL_LIMIT:
        raise InputError(f"{path} is {size} bytes and not in LFS", hint="this is not a checkpoint of the usual form")
    data = hub.file(commit, path)
    # In two steps: joined, they would be a second copy in memory.
    git = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    git.update(data)
    if git.hexdigest() != entry.get("oid"):
        raise MismatchError(
            f"the Hub gave another {path} than its metadata names",
            details=[("wanted", str(entry.get("oid"))[:100]), ("found", git.hexdigest())],
            hint="try again; a mirror may be out of date",
        )
    return hashlib.sha256(data).hexdigest()
