"""Attaching evidence to an image in a registry, and finding what is attached.

Registries without the referrers API get the tag schema of the distribution spec: the tag `sha256-HEX` names an index of
what refers to the manifest. Two publishers can write that tag at once, so it is read again after it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from builder.oci.artifact import Referrer
from builder.oci.registry.client import PARALLEL, Registry
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import OCI_INDEX, OCI_MANIFEST, Descriptor, encode
from builder.util.errors import InputError, UnreachableError
from builder.util.files import sha256

_ROUNDS = 5


def attach(registry: Registry, repository: str, referrers: Sequence[Referrer]) -> int:
    """Store referrers whose subjects are there already; how many bytes went up. Storing them again changes nothing."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        stored = list(pool.map(lambda each: _store(registry, repository, each), referrers))
    by_subject: dict[str, list[Referrer]] = {}
    for each, (_, listed) in zip(referrers, stored, strict=True):
        if not listed:
            by_subject.setdefault(each.subject, []).append(each)
    for subject, unlisted in by_subject.items():
        _list_by_tag(registry, repository, subject, [each.descriptor for each in unlisted])
    return sum(size for size, _ in stored)


def _store(registry: Registry, repository: str, each: Referrer) -> tuple[int, bool]:
    """Bytes that went up, and whether the registry lists the referrer by itself."""
    sent = 0
    for digest, data in each.blobs.items():
        if not registry.has_blob(repository, digest):
            upload(registry, repository, Descriptor("", digest, len(data)), at_hand(data))
            sent += len(data)
    # Also when the manifest is there: the answer says whether the registry has the referrers API.
    listed = registry.put_manifest(repository, each.descriptor.digest, each.manifest, OCI_MANIFEST)
    return sent + len(each.manifest), listed


def fallback_tag(digest: str) -> str:
    """The tag under which a registry without the referrers API lists what refers to a manifest."""
    return digest.replace(":", "-")


def _list_by_tag(registry: Registry, repository: str, subject: str, new: Sequence[Descriptor]) -> None:
    tag = fallback_tag(subject)
    for _ in range(_ROUNDS):
        listed = _listed_by_tag(registry, repository, tag)
        known = {each.get("digest") for each in listed}
        missing = [each.as_json() for each in new if each.digest not in known]
        if not missing:
            return
        manifests = sorted([*listed, *missing], key=lambda each: str(each.get("digest")))
        index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
        registry.put_manifest(repository, tag, index, OCI_INDEX)
    raise UnreachableError(
        f"the list of evidence {repository}:{tag} keeps changing",
        hint="somebody else publishes the same image at this moment: try again",
    )


def _listed_by_tag(registry: Registry, repository: str, tag: str) -> list[dict[str, Any]]:
    found = registry.find_manifest(repository, tag)
    if found is None:
        return []
    try:
        manifests = json.loads(found[0])["manifests"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the tag {tag} is no list of referrers", hint="somebody gave an image this name: delete that tag"
        ) from error
    return [each for each in manifests if isinstance(each, dict)] if isinstance(manifests, list) else []


def find_referrers(registry: Registry, repository: str, subject: str) -> list[Descriptor]:
    """What refers to a manifest: by the API, and by the tag where there is none."""
    listed = registry.referrers(repository, subject)
    if listed is None:
        listed = _listed_by_tag(registry, repository, fallback_tag(subject))
    return [Descriptor.from_json(each) for each in listed]


def read_referrer(registry: Registry, repository: str, descriptor: Descriptor) -> tuple[dict[str, Any], bytes]:
    """A referrer's manifest and the document in it. Raises `InputError` when it does not have exactly one."""
    data = registry.manifest(repository, descriptor.digest)[0]
    manifest = json.loads(data)
    layers: Iterable[Any] = manifest.get("layers") or []
    documents = [Descriptor.from_json(each) for each in layers]
    if len(documents) != 1:
        raise InputError(f"evidence {descriptor.digest} has {len(documents)} documents instead of one")
    document = registry.read_blob(repository, documents[0])
    assert sha256(data) == descriptor.digest.removeprefix("sha256:")  # noqa: S101  the client has checked it
    return manifest, document
