"""Attaching evidence to an image in a registry, and finding what is attached.

Registries without the referrers API get the tag schema of the distribution spec: the tag `sha256-HEX` names an index of
what refers to the manifest. Two publishers can write that tag at once, so it is read again after it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
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
    with_api: dict[str, bool] = {}
    for subject, group in by_subject.items():
        listed_by_api = registry.referrers(repository, subject)
        with_api[subject] = listed_by_api is not None
        missing += _absent(registry, repository, subject, group, listed_by_api)
    with ThreadPoolExecutor(PARALLEL) as pool:
        sent = list(pool.map(lambda blob: send_document(registry, repository, *blob), documents(missing).items()))
        return sum(sent) + _attach(pool, registry, repository, missing, with_api.__getitem__, None)


def attach_first(
    pool: Executor, registry: Registry, repository: str, referrers: Sequence[Referrer], subjects: Callable[[], None]
) -> int:
    """Store the manifests of referrers that nobody can have stored before, and whose documents are there; their bytes.

    Nothing is asked first, and their subjects need not be there (distribution spec 1.1, "Pushing Manifests with Subject"):
    `subjects` stores these, and is called for a registry that refuses a referrer without. Raises as `attach` does.
    """

    def has_api(subject: str) -> bool:
        return registry.referrers(repository, subject) is not None

    return _attach(pool, registry, repository, referrers, has_api, subjects)


def documents(referrers: Iterable[Referrer]) -> dict[str, bytes]:
    """The blobs of referrers by digest. Several referrers share the empty config, and some a document."""
    return {digest: data for each in referrers for digest, data in each.blobs.items()}


def send_document(registry: Registry, repository: str, digest: str, data: bytes) -> int:
    """Send a blob of a referrer; the bytes that went up. Only what many share is likely to be present."""
    location = registry.mount(repository, digest, repository) if len(data) <= _SHARED else ""
    if location is None:
        return 0
    upload(registry, repository, Descriptor("", digest, len(data)), at_hand(data), location=location or None)
    return len(data)


def _attach(
    pool: Executor,
    registry: Registry,
    repository: str,
    referrers: Sequence[Referrer],
    has_api: Callable[[str], bool],
    subjects: Callable[[], None] | None,
) -> int:
    try:
        try:
            said = list(pool.map(lambda each: _store(registry, repository, each, subjects is None), referrers))
        except UnsupportedManifestError:
            if subjects is None:
                raise
            subjects()
            said = list(pool.map(lambda each: _store(registry, repository, each, True), referrers))
        listed = {each.subject: True for each in referrers}
        for each, known in zip(referrers, said, strict=True):
            listed[each.subject] &= known
        # ECR sends the header of a registry that lists referrers although it does not (sigstore/sigstore-js#1183).
        unlisted = [subject for subject, known in listed.items() if not (known and has_api(subject))]
        for subject in unlisted:
            _list_by_tag(
                registry, repository, subject, [each.descriptor for each in referrers if each.subject == subject]
            )
    except UnsupportedManifestError as error:
        raise UnreachableError(
            f"{registry.name} does not accept evidence: a manifest with `artifactType` and `subject`, or the list of them",
            details=error.details,
            hint="publish with --no-evidence, or let the registry's administrator allow OCI artifacts",
        ) from error
    return sum(len(each.manifest) for each in referrers)


def _absent(
    registry: Registry,
    repository: str,
    subject: str,
    wanted: Sequence[Referrer],
    by_api: list[dict[str, Any]] | None,
) -> list[Referrer]:
    """Those of `wanted` that are not attached yet."""
    if by_api is not None:
        return _others(by_api, wanted)
    with ThreadPoolExecutor(PARALLEL) as pool:
        listed = pool.submit(_listed_by_tag, registry, repository, subject)
        # A tag may list what somebody has deleted: each is looked for, all at once with the list itself.
        held = pool.map(lambda each: registry.has_manifest(repository, each.descriptor.digest), wanted)
        deleted = [each for each, digest in zip(wanted, held, strict=True) if digest is None]
        unlisted = _others(listed.result(), wanted)
    return [each for each in wanted if each in deleted or each in unlisted]


def _others(listed: Iterable[dict[str, Any]], wanted: Iterable[Referrer]) -> list[Referrer]:
    known = {each.get("digest") for each in listed}
    return [each for each in wanted if each.descriptor.digest not in known]


def _store(registry: Registry, repository: str, each: Referrer, patient: bool) -> bool:
    """Whether the registry lists the referrer by itself."""
    return registry.put_manifest(repository, each.descriptor.digest, each.manifest, OCI_MANIFEST, patient=patient)


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
