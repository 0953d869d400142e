"""The evidence of an image: is it there, is it about this image, and does it say what the lock says?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.documents.lock import Lock, parse_lock
from builder.documents.statement import parse_statement
from builder.documents.verdict import read_verdict
from builder.oci.artifact import OUTCOME
from builder.oci.types import Descriptor
from builder.release.evidence.provenance import RECIPE, make_provenance
from builder.release.evidence.sbom import make_sbom
from builder.release.evidence.sources import read_sources
from builder.release.verify.compare import json_differences, key_differences, object_of
from builder.release.verify.problem import MISSING, Problem
from builder.release.verify.reader import Attachment
from builder.util.errors import BuilderError, InputError, MismatchError
from builder.util.files import sha256

_SIGNED = ("provenance", "SBOM")
"""What a signer is asked for: the lock and the sources follow from the provenance, which names them by digest."""


@dataclass(frozen=True)
class NamedLock:
    """A lock and the SHA-256 of its bytes."""

    lock: Lock
    digest: str


def lock_digest(lock: Lock) -> str:
    return f"sha256:{sha256(lock.dump())}"


def travelling_lock(attached: Sequence[Attachment], pin: str | None) -> NamedLock | None:
    """The lock that is attached to an image, or the one with the digest `pin`; None when there is none.

    Raises `MismatchError` when there are several, when it cannot be read, or when the pinned one is not among them.
    """
    found = {
        f"sha256:{sha256(each.document)}": each.document
        for each in attached
        if each.kind == "lock" and not each.problem
    }
    if pin is not None:
        if pin not in found:
            raise MismatchError(
                "the lock that was named does not travel with this image",
                details=[("wanted", pin), *(("found", digest) for digest in found)],
                hint="the image was made from another lock: find out who made it",
            )
        found = {pin: found[pin]}
    if len(found) > 1:
        raise MismatchError(
            f"{len(found)} locks travel with this image",
            details=[("lock", digest) for digest in found],
            hint="somebody attached another lock: name the one that you trust with --lock DIGEST, or use --recipe",
        )
    if not found:
        return None
    (digest, document), *_ = found.items()
    try:
        lock = parse_lock(document, "the attached lock")
    except InputError as error:
        raise MismatchError(
            f"evidence lock: {error.message}",
            details=[*error.details, ("lock", digest)],
            hint="publish the image again",
        ) from error
    if lock.dump() != document:
        raise MismatchError(
            "evidence lock: it is not in the form in which locks are written",
            details=[("wanted", lock_digest(lock)), ("found", digest)],
            hint="publish the image again",
        )
    return NamedLock(lock, digest)


def travelling_sources(attached: Sequence[Attachment], lock: Lock) -> dict[str, bytes] | None:
    """The blobs of the sources that travel with the image, by SHA-256; None when there are none that `lock` asks for."""
    for each in attached:
        if each.kind == "sources" and not each.problem:
            try:
                return read_sources(each.document, lock)
            except MismatchError:
                continue
    return None


def check_evidence(
    attached: Sequence[Attachment],
    subject: Descriptor,
    lock: Lock,
    platforms: list[str],
    *,
    index: bool,
    complete: bool,
    pinned: bool = False,
) -> list[Problem]:
    """Compare what is attached to a manifest with what follows from `lock`.

    An index has no SBOM of its own. Without `complete`, only lock and sources are expected. With `pinned`, one provenance and
    one SBOM must be signed by a signer that counts.
    """
    lock = _as_published(attached, lock)
    checks: dict[str, Callable[[bytes], list[Problem]]] = {
        "lock": lambda data: _lock(lock, data),
        "sources": lambda data: _sources(lock, data),
    }
    if complete:
        checks["provenance"] = lambda data: _provenance(lock, subject, platforms, data)
        if not index:
            checks["SBOM"] = lambda data: _sbom(lock, platforms[0], subject, data)
    problems: list[Problem] = []
    seen = set()
    for each in attached:
        if each.problem:
            problems.append(
                Problem(f"evidence {each.kind} {each.digest[:19]}", "a document that can be read", each.problem)
            )
        elif each.subject != subject.digest:
            problems.append(Problem(f"evidence {each.kind}, subject", subject.digest, each.subject))
        elif each.signed.state == "broken":
            problems.append(Problem(f"evidence {each.kind}, signature", f"what {each.signed.who} signed", "edited"))
        elif each.kind in checks:
            seen.add(each.kind)
            problems += checks[each.kind](each.document)
        elif each.kind == "promotion" and subject.digest not in parse_statement(each.document).digests:
            problems.append(Problem("evidence promotion, its image", subject.digest, "another image"))
    problems += [
        Problem(f"evidence {kind} of {subject.digest[:19]}", "attached", "missing")
        for kind in checks
        if kind not in seen
    ]
    return problems + (_unpinned(attached, [kind for kind in checks if kind in _SIGNED]) if pinned else [])


def _as_published(attached: Sequence[Attachment], lock: Lock) -> Lock:
    """`lock` with the mirrors of the attached one: where the base is kept as well may change after a publication."""
    for each in attached:
        if each.kind == "lock" and not each.problem:
            try:
                found = parse_lock(each.document, "the attached lock")
            except BuilderError:
                continue
            if found.inputs == lock.inputs:
                return lock.model_copy(update={"base": lock.base.model_copy(update={"mirrors": found.base.mirrors})})
    return lock


def _unpinned(attached: Sequence[Attachment], wanted: Sequence[str]) -> list[Problem]:
    """The kinds of evidence that no signer who counts has signed."""
    problems = []
    for kind in wanted:
        signers = [each.signed for each in attached if each.kind == kind and not each.problem]
        if all(each.state != "verified" for each in signers):
            found = ", ".join(dict.fromkeys(str(each) for each in signers)) or MISSING
            problems.append(Problem(f"evidence {kind}, signer", "a signature by a --signer", found))
    return problems


def check_verdicts(attached: Sequence[Attachment], digests: Collection[str]) -> tuple[Counter[str], list[Problem]]:
    """How many verdicts passed, warned, failed or cannot be read, and those that are about another image or hide their outcome."""
    counts: Counter[str] = Counter(passed=0, warned=0, failed=0, unreadable=0)
    problems = []
    for each in attached:
        if each.kind != "verdict" or each.problem or each.signed.state == "broken":
            continue
        verdict = read_verdict(each.document)
        counts[verdict.outcome] += 1
        if verdict.outcome != "unreadable" and not set(verdict.subjects) & set(digests):
            found = ", ".join(verdict.subjects) or "no image"
            problems.append(Problem("evidence verdict, its image", " or ".join(sorted(digests)), found))
        # A statement says its outcome itself; the annotation is for whoever only lists what is attached.
        if each.annotations.get(OUTCOME, verdict.outcome) != verdict.outcome:
            problems.append(Problem("evidence verdict, outcome", verdict.outcome, str(each.annotations[OUTCOME])))
    return counts, problems


def _lock(lock: Lock, data: bytes) -> list[Problem]:
    wanted = lock.dump()
    if data == wanted:
        return []
    try:
        found = parse_lock(data, "the attached lock").document()
        problems = list(key_differences("evidence lock,", lock.document(), found))
    except BuilderError as error:
        return [Problem("evidence lock", "a lock", error.message)]
    return problems or [Problem("evidence lock, its bytes", f"sha256:{sha256(wanted)}", f"sha256:{sha256(data)}")]


def _sources(lock: Lock, data: bytes) -> list[Problem]:
    try:
        read_sources(data, lock)
    except BuilderError as error:
        return [Problem("evidence sources", "the diffs and the base's manifest and config", error.message)]
    return []


def _provenance(lock: Lock, subject: Descriptor, platforms: list[str], data: bytes) -> list[Problem]:
    """Who built and where the recipe is kept are free, in a fixed form; everything else follows from the lock."""
    run = _get(object_of(data), "predicate", "runDetails", "builder")
    who, version = _get(run, "id"), _get(run, "version", "overlay-image-builder")
    if not isinstance(who, str) or not isinstance(version, str):
        who, version = "a URI", "a version"
    wanted = make_provenance(lock, subject, platforms, builder=(who, version), recipe=_recipe(data))
    return json_differences("evidence provenance,", wanted, data)


def _recipe(data: bytes) -> dict[str, Any] | None:
    """What a provenance says of the recipe's repository, when it has the form that this tool writes."""
    listed = _get(object_of(data), "predicate", "buildDefinition", "resolvedDependencies")
    last = listed[-1] if isinstance(listed, list) and listed else None
    commit, uri = _get(last, "digest", "gitCommit"), _get(last, "uri")
    if _get(last, "name") != RECIPE or not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40,64}", commit):
        return None
    if not isinstance(uri, str) or not uri.startswith("git+") or not uri.endswith(f"@{commit}"):
        return None
    dirty = _get(last, "annotations", "dirty") is True
    return {"name": RECIPE, "uri": uri, "digest": {"gitCommit": commit}, "annotations": {"dirty": dirty}}


def _sbom(lock: Lock, platform: str, subject: Descriptor, data: bytes) -> list[Problem]:
    """The keys of two SBOMs, but for the versions of the tools that wrote them."""
    found = object_of(data)
    if not found:
        return [Problem("evidence SBOM", "a JSON object", "another document")]
    return list(
        key_differences(
            "evidence SBOM,", _no_versions(json.loads(make_sbom(lock, platform, subject))), _no_versions(found)
        )
    )


def _no_versions(bom: dict[str, Any]) -> dict[str, Any]:
    tools = _get(bom, "metadata", "tools", "components")
    if isinstance(tools, list):
        for tool in tools:
            if isinstance(tool, dict):
                tool.pop("version", None)
    return bom


def _get(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
