"""Promotion: judge an image, say so in a summary beside it, and only then move the tag to it.

Order: the image's digest is resolved once; its verdicts are judged; the summary is attached; the tag is set by digest and read
back. Whatever fails in between leaves the tag where it was, or at an image with its evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from builder.documents.policy import LoadedPolicy, Policy
from builder.documents.reference import Reference, check_tag
from builder.documents.statement import SUMMARY_V1, parse_statement
from builder.documents.yamlfile import parse_yaml
from builder.oci.artifact import BUNDLE, IN_TOTO, VERDICT, Referrer, referrer
from builder.oci.referrers import attach, find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.oci.types import INDEX_TYPES, Descriptor
from builder.release.attest.bundle import parse_bundle
from builder.release.attest.signing import Signing
from builder.release.attest.store import envelope
from builder.release.attest.trust import Trust
from builder.release.promote.judge import FileName, Finding, Wanted, judge, unreadable
from builder.release.promote.vsa import Input, Result, Subject, make_summary, timeless
from builder.release.tags import held_digest, set_tag
from builder.release.verify.reader import Attachment, RegistryReader, manifests
from builder.util.context import Context
from builder.util.errors import GateError, InputError, MismatchError
from builder.util.files import file_sha256, read_regular, sha256

_LIMIT = 1 << 20
_TYPES = (VERDICT, IN_TOTO, BUNDLE)
_OWN_TAG = re.compile(r"ckpt-[0-9a-f]{12}(-[0-9a-f]{12})?|inputs-[0-9a-f]{12}|sha256-[0-9a-f]{64}")


@dataclass(frozen=True)
class Order:
    """What to promote: a reference, the tag to move, the policy, and whose signatures count by it."""

    reference: str
    tag: str
    loaded: LoadedPolicy
    trust: Trust


@dataclass(frozen=True)
class Promoted:
    """What was found and done. `previous` is what the tag named before; `summary` is the referrer of the VSA, if one was made."""

    image: str
    digest: str
    tag: str
    previous: str | None
    findings: tuple[Finding, ...]
    summary: str | None
    moved: bool
    signed_by: str

    def document(self) -> dict[str, Any]:
        """The result for `--json`."""
        return {
            "image": self.image,
            "digest": self.digest,
            "tag": self.tag,
            "previous": self.previous,
            "moved": self.moved,
            "summary": self.summary,
            "signed_by": self.signed_by,
            "requirements": [_document(each) for each in self.findings],
        }


def wanted_of(loaded: LoadedPolicy) -> Wanted:
    """A policy with today's digests of its suites. Raises `InputError` for a suite that has neither a file nor a pin."""
    suites: dict[str, str] = {}
    edited: dict[str, str] = {}
    files: dict[str, dict[FileName, str]] = {}
    for each in loaded.policy.suites:
        path = loaded.root / "gates" / f"{each.name}.yaml"
        found = file_sha256(path) if path.is_file() else None
        digest = each.sha256 or found
        if digest is None:
            raise InputError(
                f"there is no suite {each.name!r}", details=[("looked", str(path.absolute()))],
                hint="work in the project that has its file, or pin its sha256 in the policy",
            )  # fmt: skip
        if found not in (None, digest):
            edited[each.name] = f"{loaded.uri} pins sha256:{digest[:16]}, gates/{each.name}.yaml is sha256:{found}"
        elif found is not None:
            files[each.name] = _files_of(path)
        suites[each.name] = digest
    return Wanted(loaded.policy, suites, edited, files)


def _files_of(path: Path) -> dict[FileName, str]:
    """The digests of the rows and the answer schema of the suite in `path`, as far as these files are present: rows may be private.

    Rows that the suite pins are not among them: its own digest covers the pin.
    """
    try:
        document = parse_yaml(read_regular(path, limit=_LIMIT).decode(), path.name).value
    except (OSError, ValueError, InputError):
        return {}  # whoever runs it is told
    if not isinstance(document, Mapping):
        return {}
    answer = document.get("answer")
    named: dict[FileName, object] = {
        "rows": None if document.get("rows_sha256") else document.get("rows"),
        "answer schema": answer.get("schema") if isinstance(answer, Mapping) else None,
    }
    return {
        kind: file_sha256(path.parent / name)
        for kind, name in named.items()
        if isinstance(name, str) and (path.parent / name).is_file()
    }


def policy_of_names(names: str, signers: Sequence[str], root: Path, *, allow_unsigned: bool) -> LoadedPolicy:
    """The policy that `--require NAMES` stands for. Raises `InputError`."""
    document = {
        "name": "required",
        "suites": [{"name": name.strip()} for name in names.split(",") if name.strip()],
        "signers": [_signer(text) for text in signers],
        "allow_unsigned": allow_unsigned,
    }
    try:
        policy = Policy.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"--require {names!r}: {first['msg'].removeprefix('Value error, ')}",
            hint="--require hard-gate-34,silver200 --signer KEY.pub; or --allow-unsigned; or --policy FILE",
        ) from error
    data = json.dumps(policy.model_dump(mode="json"), sort_keys=True).encode()
    return LoadedPolicy(policy, sha256(data), "urn:overlay-image-builder:require", root)


def _signer(text: str) -> dict[str, str]:
    identity, _, issuer = text.rpartition(",")
    return {"identity": identity, "issuer": issuer} if identity and "://" in issuer else {"key": text}


def check_order(order: Order) -> Wanted:
    """What the order asks for, without asking anybody. Raises `InputError` for a reference, a tag or a suite that cannot be used."""
    Reference.parse(order.reference)
    _check_tag(order.tag)
    return wanted_of(order.loaded)


def promote(
    order: Order, *, signing: Signing | None, dry_run: bool = False, record: bool = False, context: Context
) -> Promoted:
    """Move the tag when the policy is met.

    Raises `GateError` when it is not, with one detail for each requirement; with `record`, a FAILED summary is attached first.
    Raises `MismatchError` when somebody else moves the tag meanwhile, `UnreachableError` when the registry does not respond.
    """
    wanted = check_order(order)
    reader = RegistryReader(order.reference, context=context, trust=order.trust)
    target = Reference.parse(order.reference)
    registry, top = reader.registry, reader.top
    previous = held_digest(registry, target, order.tag, top.digest)
    attached = _attached(reader)
    now = context.limits.clock.wall()
    findings = tuple(judge(wanted, top.digest, attached, datetime.fromtimestamp(now, UTC)))
    passed = all(each.passed for each in findings)
    subject = Subject(target, top.digest, order.tag, order.loaded.uri, order.loaded.sha256)
    who = signing.who if signing is not None else "unsigned"
    done = Promoted(f"{target.name}@{top.digest}", top.digest, order.tag, previous, findings, None, False, who)
    if not passed:
        if record and not dry_run:
            _attach(registry, subject, top, findings, "FAILED", signing, now)
        raise _refused(order, done, unreadable(attached))
    if dry_run:
        return done
    if previous == top.digest:
        held = _summary_before(registry, subject, top, findings, signing)
        if held is not None:
            return replace(done, summary=held)
    made = _attach(registry, subject, top, findings, "PASSED", signing, now)
    _move(registry, target, order.tag, reader.read(top), top, previous)
    # A list of referrers by tag may have been written over by somebody who had read it before.
    attach(registry, target.repository, [made])
    return replace(done, summary=made.descriptor.digest, moved=previous != top.digest)


def _check_tag(tag: str) -> None:
    check_tag(tag)
    if _OWN_TAG.fullmatch(tag):
        raise InputError(
            f"the tag {tag!r} follows from digests, and is never promoted to", hint="name a tag such as 'production'"
        )


def _attached(reader: RegistryReader) -> list[Attachment]:
    """The statements beside an image, and beside the manifests of an index."""
    subjects = [reader.top.digest]
    if reader.top.media_type in INDEX_TYPES:
        subjects += [each.digest for each in manifests(reader)]
    return [each for subject in dict.fromkeys(subjects) for each in reader.evidence(subject, _TYPES)]


def _statement(subject: Subject, findings: tuple[Finding, ...], result: Result, now: float) -> bytes:
    inputs = [Input(each.counts.referrer, each.counts.stored) for each in findings if each.counts is not None]
    return make_summary(subject, inputs, result, now)


def _attach(
    registry: Registry,
    subject: Subject,
    top: Descriptor,
    findings: tuple[Finding, ...],
    result: Result,
    signing: Signing | None,
    now: float,
) -> Referrer:
    statement = parse_statement(_statement(subject, findings, result, now))
    made = referrer(envelope(statement, "promotion.json", top, signing, registry.context))
    attach(registry, subject.target.repository, [made])
    return made


def _summary_before(
    registry: Registry, subject: Subject, top: Descriptor, findings: tuple[Finding, ...], signing: Signing | None
) -> str | None:
    """The referrer of a summary that says the same, of an earlier time, by the same signer."""
    wanted = timeless(parse_statement(_statement(subject, findings, "PASSED", 0)).predicate)
    repository = subject.target.repository
    for each in find_referrers(registry, repository, top.digest):
        if each.artifact_type != (IN_TOTO if signing is None else BUNDLE):
            continue
        try:
            data = read_referrer(registry, repository, each)[1]
            if signing is not None:
                bundle = parse_bundle(data)
                if bundle is None or signing.own.check(bundle).state != "verified":
                    continue
                data = bundle.payload
            found = parse_statement(data)
        except InputError:
            continue  # somebody else's
        if found.predicate_type == SUMMARY_V1 and top.digest in found.digests and timeless(found.predicate) == wanted:
            return each.digest
    return None


def _move(
    registry: Registry, target: Reference, tag: str, manifest: bytes, top: Descriptor, previous: str | None
) -> None:
    """Set the tag, unless somebody has moved it since it was looked at."""
    found = held_digest(registry, target, tag, top.digest)
    if found == top.digest:
        return
    if found != previous:
        raise MismatchError(
            f"{target.name}:{tag} was moved by somebody else in the meantime",
            details=[("before", str(previous)), ("now", str(found)), ("wanted", top.digest)],
            hint="agree on who promotes, then promote again",
        )
    set_tag(registry, target, tag, manifest, top, again="promote")


def _refused(order: Order, done: Promoted, odd: list[str]) -> GateError:
    details = [
        (each.suite, line) for each in done.findings for line in (each.lines() if not each.passed else ["passed"])
    ]
    missing = sum(not each.passed for each in done.findings)
    return GateError(
        f"{done.image} is not promoted to {order.tag}: {missing} of {len(done.findings)} requirements are not met",
        details=[*details, *(("unreadable", each) for each in odd)],
        hint=f"the tag is where it was; run the gate on this image and attach its verdict: "
        f"builder attest VERDICT --image {done.image} --key KEY",
        data={**done.document(), "unreadable": odd},
    )


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "suite": finding.suite,
        "reason": finding.reason,
        "passed": finding.passed,
        "verdict": finding.counts.referrer if finding.counts is not None else None,
        "lines": finding.lines(),
    }
