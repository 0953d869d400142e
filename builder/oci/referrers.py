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
from builder.oci.registry.client import PARALLEL, Registry, UnsupportedManifestError
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import OCI_INDEX, OCI_MANIFEST, Descriptor, encode
from builder.util.errors import InputError, UnreachableError
from builder.util.files import sha256

_ROUNDS = 5
_SHARED = 2
"""Bytes of the empty config."""


def attach(registry: Registry, repository: str, referrers: Sequence[Referrer]) -> int:
    """Store referrers whose subjects the registry has; the bytes that went up. Storing them again changes nothing.

    What is attached already costs one request for each subject. Raises `UnreachableError` with the way to publish without
    evidence when the registry does not accept it.
    """
    by_subject: dict[str, list[Referrer]] = {}
    for each in referrers:
        by_subject.setdefault(each.subject, []).append(each)
    missing: list[Referrer] = []
    with_api: set[str] = set()
    for subject, group in by_subject.items():
        listed_by_api = registry.referrers(repository, subject)
        with_api |= {subject} if listed_by_api is not None else set()
        missing += _absent(registry, repository, subject, group, listed_by_api)
    # Several referrers share the empty config.
    blobs = {digest: data for each in missing for digest, data in each.blobs.items()}
    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            sent = list(pool.map(lambda blob: _store_blob(registry, repository, *blob), blobs.items()))
            listed = list(pool.map(lambda each: _store(registry, repository, each), missing))
        # ECR sends the header of a registry that lists referrers although it does not (sigstore/sigstore-js#1183).
        unlisted = [
            each for each, known in zip(missing, listed, strict=True) if not (known and each.subject in with_api)
        ]
        for subject in {each.subject: None for each in unlisted}:
            new = [each.descriptor for each in unlisted if each.subject == subject]
            _list_by_tag(registry, repository, subject, new)
    except UnsupportedManifestError as error:
        raise UnreachableError(
            f"{registry.name} does not accept evidence: a manifest with `artifactType` and `subject`, or the list of them",
            details=error.details,
            hint="publish with --no-evidence, or let the registry's administrator allow OCI artifacts",
        ) from error
    return sum(sent) + sum(len(each.manifest) for each in missing)


def _absent(
    registry: Registry,
    repository: str,
    subject: str,
    wanted: Sequence[Referrer],
    by_api: list[dict[str, Any]] | None,
) -> list[Referrer]:
    """Those of `wanted` that are not attached yet."""
    listed = by_api if by_api is not None else _listed_by_tag(registry, repository, subject)
    known = {each.get("digest") for each in listed}

    def absent(each: Referrer) -> bool:
        if each.descriptor.digest not in known:
            return True
        # A tag may list what somebody has deleted.
        return by_api is None and registry.has_manifest(repository, each.descriptor.digest) is None

    with ThreadPoolExecutor(PARALLEL) as pool:
        return [each for each, missing in zip(wanted, pool.map(absent, wanted), strict=True) if missing]


def _store_blob(registry: Registry, repository: str, digest: str, data: bytes) -> int:
    """The bytes that went up. Only what many referrers share is likely to be present: the rest is sent without asking."""
    if len(data) <= _SHARED and registry.has_blob(repository, digest):
        return 0
    upload(registry, repository, Descriptor("", digest, len(data)), at_hand(data))
    return len(data)


def _store(registry: Registry, repository: str, each: Referrer) -> bool:
    """Whether the registry lists the referrer by itself."""
    return registry.put_manifest(repository, each.descriptor.digest, each.manifest, OCI_MANIFEST)


def fallback_tag(digest: str) -> str:
    """The tag under which a registry without the referrers API lists what refers to a manifest."""
    return digest.replace(":", "-")


def _list_by_tag(registry: Registry, repository: str, subject: str, new: Sequence[Descriptor]) -> None:
    tag = fallback_tag(subject)
    for _ in range(_ROUNDS):
        listed = _listed_by_tag(registry, repository, subject)
        known = {each.get("digest") for each in listed}
        missing = [each.as_json() for each in new if each.digest not in known]
        if not missing:
            return
        manifests = sorted([*listed, *missing], key=lambda each: str(each.get("digest")))
        index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
        registry.put_manifest(repository, tag, index, OCI_INDEX)
    raise UnreachableError(
        f"the list of evidence {repository}:{tag} keeps changing",
        hint="somebody else is publishing the same image: try again",
    )


def _listed_by_tag(registry: Registry, repository: str, subject: str) -> list[dict[str, Any]]:
    tag = fallback_tag(subject)
    found = registry.find_manifest(repository, tag)
    # GitLab resolves the tag to the subject itself while nothing has that tag (oras-project/oras-go#1396).
    if found is None or found[2] == subject:
        return []
    try:
        manifests = json.loads(found[0])["manifests"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"the tag {tag} is not a list of referrers", hint="somebody gave an image this name: delete that tag"
        ) from error
    return [each for each in manifests if isinstance(each, dict)] if isinstance(manifests, list) else []


def find_referrers(registry: Registry, repository: str, subject: str) -> list[Descriptor]:
    """What refers to a manifest: by the API, and by the tag where there is none."""
    listed = registry.referrers(repository, subject)
    if listed is None:
        listed = _listed_by_tag(registry, repository, subject)
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
