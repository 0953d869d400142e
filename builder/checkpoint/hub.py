"""The checkpoint digest of a repository on the Hub, from its metadata: large files are not downloaded.

Source: the Hub's tree API gives the SHA-256 of every LFS (and xet) file; the few others are fetched and checked against
their git blob id.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.checkpoint.digest import combine, is_served
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
    try:
        import httpx
        from huggingface_hub import HfApi, RepoFile
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise InputError(
            "a checkpoint on the Hub needs the extra 'checkpoint'",
            hint="pip install 'overlay-image-builder[checkpoint]'",
        ) from error
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
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
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not a repository's name", hint="write it as OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise UnreachableError(
            f"the Hub refuses {repo}: {str(error).splitlines()[0]}",
            hint="check name and revision; private ones need HF_TOKEN",
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise UnreachableError(
            f"the Hub does not answer: {type(error).__name__}", hint="check the network, or HF_ENDPOINT"
        ) from error
    if not files:
        raise InputError(f"{repo} has no checkpoint files at {commit}", hint="check the revision")
    found = combine(files)
    return HubDigest(found.digest, commit, found.files)


def _sha256(api: HfApi, repo: str, commit: str, entry: Any) -> str:
    if entry.lfs is not None:
        return str(entry.lfs.sha256)
    if entry.size > _SMALL_LIMIT:
        raise InputError(
            f"{entry.path} is {entry.size} bytes and not in LFS", hint="this is not a checkpoint of the usual form"
        )
    data = _fetch(api, repo, commit, entry.path)
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if blob != entry.blob_id:
        raise MismatchError(
            f"the Hub gave another {entry.path} than its metadata names",
            details=[("wanted", entry.blob_id), ("found", blob)],
            hint="try again; a mirror may be out of date",
        )
    return hashlib.sha256(data).hexdigest()


def _fetch(api: HfApi, repo: str, commit: str, path: str) -> bytes:
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(repo, path, revision=commit, endpoint=api.endpoint)
    answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True, timeout=60)
    hf_raise_for_status(answer)
    return bytes(answer.content)
