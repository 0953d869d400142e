"""Attaching statements to an image in a registry, signed or not. `builder attest`, `gate --attest` and `promote` end here.

A signed statement is a referrer exactly as cosign's BUNDLE_SPEC has it: the bundle's artifact and media type, one layer, the
empty config, and three annotations. An unsigned one is a referrer with the media type of in-toto statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from builder.documents.reference import Reference
from builder.documents.statement import CYCLONEDX, Statement, json_object, make_statement, parse_statement
from builder.documents.verdict import PREDICATE as TEST_RESULT
from builder.documents.verdict import Verdict, read_verdict
from builder.oci.artifact import BUNDLE, IN_TOTO, OUTCOME, SBOM, VERDICT, Evidence, referrer
from builder.oci.referrers import attach, find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.oci.types import INDEX_TYPES, Descriptor
from builder.release.attest.bundle import parse_bundle
from builder.release.attest.signing import Signing
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, MismatchError
from builder.util.files import sha256

CONTENT: Final = "dev.sigstore.bundle.content"
PREDICATE_TYPE: Final = "dev.sigstore.bundle.predicateType"
CREATED: Final = "org.opencontainers.image.created"


@dataclass(frozen=True)
class Attested:
    """A statement that is attached now. `referrer` is the digest of its manifest, `document` that of what was stored.

    `signed_by` is "unsigned" without a signature; `present` says that the registry had it already.
    """

    image: str
    predicate_type: str
    referrer: str
    document: str
    signed_by: str
    present: bool


def statement_of(data: bytes, name: str, digest: str) -> Statement:
    """The statement in a document: it is one, or it is a CycloneDX SBOM about `digest`.

    Raises `InputError` for anything else and for a verdict that names no image, `MismatchError` for another image's SBOM.
    """
    document = json_object(data, name=name)
    if document.get("bomFormat") == "CycloneDX":
        return _of_sbom(document, name, digest)
    statement = parse_statement(data, name=name)
    if statement.predicate_type == TEST_RESULT and not Verdict.parse(data, name=name).bound:
        raise InputError(
            f"{name} is unbound: it does not name the image that responded",
            hint="run it on a container or a recipe, so that the image's digest is known: builder gate RECIPE PROFILE --suite NAME",
        )
    return statement


def check_document(data: bytes, name: str) -> None:
    """Raise `InputError` for a document that is about no image at all, whatever a registry has."""
    document = json_object(data, name=name)
    if document.get("bomFormat") != "CycloneDX":
        statement_of(data, name, "")


def _of_sbom(document: dict[str, Any], name: str, digest: str) -> Statement:
    component = (document.get("metadata") or {}).get("component") or {}
    hashes = [each.get("content") for each in component.get("hashes") or [] if isinstance(each, dict)]
    if digest.removeprefix("sha256:") not in hashes:
        raise MismatchError(
            f"{name} is not an SBOM of this image", details=[("wanted", digest), *(("found", str(each)) for each in hashes)],
            hint="`builder publish RECIPE --evidence DIR` writes the one of each image",
        )  # fmt: skip
    return parse_statement(make_statement([(str(component.get("name") or name), digest)], CYCLONEDX, document))


def envelope(
    statement: Statement, name: str, subject: Descriptor, signing: Signing | None, context: Context
) -> Evidence:
    """A statement as evidence about `subject`: in a signed bundle, or as it is. `name` is its file's name."""
    if signing is None:
        if statement.predicate_type == TEST_RESULT:
            return Evidence(name, VERDICT, subject, statement.data, {OUTCOME: read_verdict(statement.data).outcome})
        return Evidence(name, IN_TOTO, subject, statement.data)
    created = datetime.fromtimestamp(context.limits.clock.wall(), UTC).isoformat(timespec="seconds")
    notes = {
        CONTENT: "dsse-envelope",
        PREDICATE_TYPE: statement.predicate_type,
        CREATED: created.replace("+00:00", "Z"),
    }
    return Evidence("", BUNDLE, subject, signing.sign(statement.data), notes)


def sign_evidence(
    evidence: Sequence[Evidence], signing: Signing, registry: Registry, repository: str
) -> list[Evidence]:
    """Evidence with each statement and each SBOM in a signed envelope, but those that this signer has attached before.

    Lock and sources stay as they are: the provenance names them by digest.
    """
    found = []
    listed: dict[str, list[Descriptor]] = {}
    for each in evidence:
        if each.kind not in (IN_TOTO, SBOM, VERDICT) or each.annotations.get(OUTCOME) == "unreadable":
            found.append(each)
            continue
        statement = statement_of(each.data, each.name, each.subject.digest)
        subject = each.subject.digest
        if subject not in listed:
            listed[subject] = find_referrers(registry, repository, subject)
        if _among(listed[subject], registry, repository, statement, signing) is None:
            found.append(envelope(statement, each.name, each.subject, signing, registry.context))
    return found


def present(
    registry: Registry, repository: str, subject: str, statement: Statement, signing: Signing
) -> Descriptor | None:
    """The bundle of this very statement that `signing` has attached before."""
    return _among(find_referrers(registry, repository, subject), registry, repository, statement, signing)


def _among(
    listed: Sequence[Descriptor], registry: Registry, repository: str, statement: Statement, signing: Signing
) -> Descriptor | None:
    for each in listed:
        if each.artifact_type != BUNDLE or each.annotations.get(PREDICATE_TYPE) != statement.predicate_type:
            continue
        try:
            found = parse_bundle(read_referrer(registry, repository, each)[1])
        except InputError:
            continue  # somebody else's, and not what was asked for
        if found is not None and found.payload == statement.data and signing.own.check(found).state == "verified":
            return each
    return None


def attest(data: bytes, name: str, image: str, *, signing: Signing | None, context: Context) -> Attested:
    """Attach a document to an image in a registry.

    `data` is an in-toto statement or a CycloneDX SBOM that names the image's digest; `image` is REGISTRY/REPOSITORY with a tag
    or a digest. Raises `MismatchError` when the document is about another image.
    """
    reference = Reference.parse(image)
    registry = Registry(reference.registry, context=context)
    manifest, media_type, digest = registry.manifest(
        reference.repository, reference.digest or reference.tag or "latest"
    )
    statement = statement_of(data, name, digest)
    subject = _subject(statement, Descriptor(media_type, digest, len(manifest)), manifest, name)
    return attach_statement(registry, reference, subject, statement, name, signing=signing)


def attach_statement(
    registry: Registry,
    reference: Reference,
    subject: Descriptor,
    statement: Statement,
    name: str,
    *,
    signing: Signing | None,
) -> Attested:
    """Attach a statement to the manifest `subject`, unless this signer has attached it before."""
    held = present(registry, reference.repository, subject.digest, statement, signing) if signing is not None else None
    evidence = envelope(statement, name, subject, signing, registry.context) if held is None else None
    made = referrer(evidence) if evidence is not None else None
    sent = attach(registry, reference.repository, [made]) if made is not None else 0
    found = made.descriptor if made is not None else held
    assert found is not None  # noqa: S101  one of both
    return Attested(
        f"{reference.name}@{subject.digest}",
        statement.predicate_type,
        found.digest,
        f"sha256:{sha256(evidence.data)}" if evidence is not None else "",
        signing.who if signing is not None else "unsigned",
        not sent,
    )


def _subject(statement: Statement, top: Descriptor, manifest: bytes, name: str) -> Descriptor:
    """What a statement is about: the manifest or index that was named, or a manifest of that index."""
    if top.digest in statement.digests:
        return top
    if top.media_type in INDEX_TYPES:
        for each in json_object(manifest, name="the index").get("manifests") or []:
            try:
                descriptor = Descriptor.from_json(each)
            except BuilderError:
                continue
            if descriptor.digest in statement.digests:
                return descriptor
    raise MismatchError(
        f"{name} is not about this image",
        details=[("wanted", top.digest), *(("found", digest) for digest in statement.digests)],
        hint="name the image that it is about with --image",
    )
