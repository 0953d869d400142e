"""Verification by re-derivation: what is published is a function of the lock, so it is computed again and compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.documents.lock import Lock
from builder.documents.reference import Platform
from builder.image.built import Built
from builder.image.tags import make_tags
from builder.oci.platforms import preference
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from builder.patch.model import Overlay
from builder.release.attest.signed import SignedBy
from builder.release.evidence.sources import overlays_of
from builder.release.verify.clients import entries_taken, matching
from builder.release.verify.compare import Parts, json_differences, object_of, part_differences
from builder.release.verify.derive import Derived, Given, derive, derive_without_base
from builder.release.verify.evidence import (
    NamedLock,
    check_evidence,
    check_verdicts,
    lock_digest,
    travelling_lock,
    travelling_sources,
)
from builder.release.verify.problem import MISSING, Problem, short
from builder.release.verify.reader import Attachment, Reader
from builder.util.context import Context
from builder.util.errors import ApplyError, BuilderError, InputError, MismatchError, UnreachableError
from builder.util.files import ContentCache


@dataclass(frozen=True)
class Request:
    """What the caller brings. `lock` and `overlays` are a recipe's own, `pin` the digest of the lock that must travel along.

    `root` is what a base's folder or wheel is relative to.
    """

    lock: Lock | None = None
    overlays: Sequence[Overlay] | None = None
    pin: str | None = None
    root: Path = field(default_factory=Path.cwd)
    evidence: bool = True
    quick: bool = False
    pinned: bool = False
    """Whether signers were named, who must have signed provenance and SBOM."""


@dataclass(frozen=True)
class Verified:
    """What was found about one image."""

    lock: NamedLock
    problems: tuple[Problem, ...]
    platforms: tuple[Mapping[str, Any], ...]
    evidence: int
    """How many documents were compared."""
    verdicts: Mapping[str, int]
    overlays: tuple[Mapping[str, Any], ...]
    signed: tuple[tuple[str, SignedBy], ...] = ()
    """The kind of each statement and SBOM that is attached, and who signed it."""
    not_verified: BuilderError | None = None
    """Why the base could not be reached, so that only the image's own part was compared."""


@dataclass(frozen=True)
class _Found:
    """One platform's image as it is: where it was found, and its parts as far as they can be read."""

    descriptor: Descriptor
    parts: Parts


def no_lock(reference: str) -> MismatchError:
    """The error for an image without a lock."""
    return MismatchError(
        f"{reference} is not verified: no lock travels with it",
        details=[("why", "without a lock nothing says what its layer, config and manifest should be")],
        hint="name the recipe that it was built from with --recipe; builds and publications attach the lock",
    )


def choose_lock(reader: Reader, request: Request) -> NamedLock:
    """The recipe's lock, else the one that travels with the image. Raises `MismatchError` when there is none."""
    if request.lock is not None and request.pin is not None and lock_digest(request.lock) != request.pin:
        raise MismatchError(
            "the recipe's lock is not the one that was named",
            details=[("wanted", request.pin), ("found", lock_digest(request.lock))],
            hint="leave out --lock or --recipe, or take the recipe at another commit",
        )
    if request.lock is not None:
        return NamedLock(request.lock, lock_digest(request.lock))
    named = travelling_lock(reader.evidence(reader.top.digest), request.pin)
    if named is None:
        raise no_lock(reader.reference)
    if named.lock.base.parsed.kind == "docker":
        # Such a base is read by running it: nothing that travels with an image may ask for that.
        raise MismatchError(
            f"the lock that travels with {reader.reference} names a base in Docker",
            details=[("base", named.lock.base.reference), ("lock", named.digest)],
            hint="an image on such a base is never published: find out who made this one",
        )
    return named


def verify(reader: Reader, named: NamedLock, request: Request, *, context: Context) -> Verified:
    """Derive the image again from the lock `named`, and compare every byte of it and of what is attached to it."""
    lock = named.lock
    attached = reader.evidence(reader.top.digest)
    problems, found = _read(reader, lock)
    parts = {name: each.parts for name, each in found.items()}
    derived, error = _derive(lock, parts, attached, request, context)
    problems += [*derived.problems]
    if derived.built is not None:
        problems += _compare(reader, derived.built, found)
    problems += check_tag(reader.tag, lock)
    digests = {reader.top.digest, *(each.descriptor.digest for each in found.values())}
    count, counts, signed, about = _check_attached(reader, lock, found, attached, digests, request)
    return Verified(
        named,
        tuple(dict.fromkeys([*problems, *about])),
        tuple(
            {"platform": name, "digest": each.descriptor.digest, "files": len(lock.base.platforms[name].files)}
            for name, each in found.items()
        ),
        count,
        counts,
        tuple(overlay.summary() for overlay in lock.overlays),
        signed,
        error,
    )


def _derive(
    lock: Lock, parts: Mapping[str, Parts], attached: Sequence[Attachment], request: Request, context: Context
) -> tuple[Derived, BuilderError | None]:
    """The image as it should be; when the base cannot be reached, our own part of it and why."""
    try:
        if request.quick:
            return derive_without_base(lock, parts), None
        sources = travelling_sources(attached, lock)
        for blob in (sources or {}).values():
            ContentCache().put(blob)
        overlays = request.overlays if request.overlays is not None else overlays_of(lock, sources) if sources else None
        try:
            return derive(Given(lock, overlays, request.root, context), parts), None
        except (InputError, UnreachableError) as error:
            return derive_without_base(lock, parts), error
    except (MismatchError, ApplyError) as error:
        details = "; ".join(f"{label} {text}" for label, text in error.details)
        return Derived(
            None, (Problem("the lock", "a lock that gives this image", f"{error.message} {details}".rstrip()),)
        ), None
    except (InputError, AttributeError, KeyError, TypeError, ValueError) as error:
        # The base's part is taken from the image itself here, which may have any shape.
        why = error.message if isinstance(error, BuilderError) else short(repr(error))
        return Derived(None, (Problem("manifest or config", "those of an image", why),)), None


def _read(reader: Reader, lock: Lock) -> tuple[list[Problem], dict[str, _Found]]:
    """The image of each of the lock's platforms, as a client would take it."""
    problems: list[Problem] = []
    found: dict[str, _Found] = {}
    top = reader.read(reader.top)
    document = object_of(top)
    is_index = reader.top.media_type in INDEX_TYPES or "manifests" in document
    names = list(lock.base.platforms)
    if is_index and len(names) == 1:
        listed = document.get("manifests")
        count = len(listed) if isinstance(listed, list) else 0
        problems.append(
            Problem("index", f"the manifest for {names[0]} itself", f"an index of {count} entries around it")
        )
    if not is_index and len(names) > 1:
        problems.append(Problem("index", f"an index for {', '.join(names)}", "one manifest"))
    for name in names:
        descriptor: Descriptor | None = reader.top
        if is_index:
            descriptor = _entry(document, Platform.parse(name), problems)
        elif len(names) > 1 and preference(Platform.parse(name), _config_platform(reader, top)) is None:
            descriptor = None
        if descriptor is not None:
            found[name] = _Found(descriptor, _parts(reader, descriptor, problems))
    if reader.top.platform is not None and not is_index:
        problems += _platform("layout entry", reader.top.platform, found)
    return problems, found


def _config_platform(reader: Reader, manifest: bytes) -> Mapping[str, Any]:
    try:
        return object_of(reader.read(Descriptor.from_json(object_of(manifest)["config"])))
    except (BuilderError, KeyError, TypeError, AttributeError):
        return {}


def _platform(where: str, platform: Mapping[str, Any], found: Mapping[str, _Found]) -> list[Problem]:
    for name in found:
        if preference(Platform.parse(name), platform) is None:
            held = "/".join(str(platform.get(key)) for key in ("os", "architecture", "variant") if platform.get(key))
            return [Problem(f"{where}, platform", name, held)]
    return []


def _entry(index: Mapping[str, Any], platform: Platform, problems: list[Problem]) -> Descriptor | None:
    """The entry of an index that clients take for a platform; several, or a nested index, are problems."""
    where = f"index entry for {platform}"
    digests = matching(index, platform)
    taken = entries_taken(index, platform)
    if len(digests) != 1:
        problems.append(Problem(where, "one entry", f"{len(digests)}: {', '.join(digests) or 'none'}"))
    if len(set(taken.values())) > 1:
        choices = "; ".join(f"{client} take {digest}" for client, digest in taken.items())
        problems.append(Problem(where, "the same for every client", choices))
    chosen = next((digest for digest in taken.values() if digest is not None), None)
    for each in index.get("manifests") or []:
        if isinstance(each, dict) and each.get("digest") == chosen:
            try:
                descriptor = Descriptor.from_json(each)
            except InputError as error:
                problems.append(Problem(where, "a descriptor", error.message))
                return None
            if descriptor.media_type not in MANIFEST_TYPES:
                problems.append(
                    Problem(where, "a manifest", f"{descriptor.media_type}: an index inside an index, or no image")
                )
                return None
            return descriptor
    return None


def _parts(reader: Reader, descriptor: Descriptor, problems: list[Problem]) -> Parts:
    """Manifest, config and last layer as far as they can be read; the rest is empty, and a problem."""
    manifest = config = layer = b""
    where = "manifest"
    try:
        manifest = reader.read(descriptor)
        document = object_of(manifest)
        where = "config"
        config = reader.read(Descriptor.from_json(document.get("config") or {}))
        where = "layer"
        layers = document.get("layers")
        layer = reader.read(Descriptor.from_json(layers[-1])) if isinstance(layers, list) and layers else b""
    except UnreachableError:
        raise
    except (BuilderError, AttributeError, TypeError) as error:
        why = short(error.message if isinstance(error, BuilderError) else repr(error))
        details = (
            "; ".join(f"{label} {text}" for label, text in error.details) if isinstance(error, BuilderError) else ""
        )
        problems.append(
            Problem(f"{where} of {descriptor.digest[:19]}", "what its descriptor names", f"{why} {details}".rstrip())
        )
    return Parts(manifest, config, layer)


def _compare(reader: Reader, built: Built, found: Mapping[str, _Found]) -> list[Problem]:
    """Everything that differs between the image as it should be and as it is."""
    problems: list[Problem] = []
    for name, image in built.images.items():
        if name not in found:
            problems.append(Problem(f"platform {name}", image.manifest.digest, MISSING))
            continue
        held = found[name]
        prefix = f"{name}: " if len(built.images) > 1 else ""
        wanted = Parts(image.manifest_bytes, image.config_bytes, image.layer.data)
        for each in part_differences(wanted, held.parts):
            problems.append(Problem(f"{prefix}{each.where}", each.wanted, each.found))
        if held.descriptor.digest != image.manifest.digest:
            problems.append(Problem(f"{prefix}manifest digest", image.manifest.digest, held.descriptor.digest))
        if held.descriptor.media_type != image.manifest.media_type:
            problems.append(
                Problem(f"{prefix}manifest media type", image.manifest.media_type, held.descriptor.media_type)
            )
    if built.index is not None:
        problems += json_differences("index", built.index, reader.read(reader.top))
        if reader.top.media_type != built.top.media_type:
            problems.append(Problem("index media type", built.top.media_type, reader.top.media_type))
    return problems


def _check_attached(
    reader: Reader,
    lock: Lock,
    found: Mapping[str, _Found],
    attached: Sequence[Attachment],
    digests: set[str],
    request: Request,
) -> tuple[int, dict[str, int], tuple[tuple[str, SignedBy], ...], list[Problem]]:
    """Evidence of the index and of every manifest: how many documents, the verdicts' outcomes, signers, and what is wrong."""
    problems: list[Problem] = []
    signed: list[tuple[str, SignedBy]] = []
    totals: Counter[str] = Counter(passed=0, failed=0, unreadable=0)
    if not request.evidence:
        return 0, dict(totals), (), []
    subjects: list[tuple[Descriptor, list[str], bool]] = [
        (each.descriptor, [name], False) for name, each in found.items()
    ]
    if reader.top.media_type in INDEX_TYPES:
        subjects.append((reader.top, list(lock.base.platforms), True))
    number = 0
    for subject, platforms, index in subjects:
        documents = attached if subject.digest == reader.top.digest else reader.evidence(subject.digest)
        # A layout that came without lock and sources is compared with the recipe's alone.
        if documents or reader.complete or request.lock is None:
            problems += check_evidence(
                documents, subject, lock, platforms, index=index, complete=reader.complete, pinned=request.pinned
            )
        counts, wrong = check_verdicts(documents, digests)
        totals.update(counts)
        problems += wrong
        number += len(documents)
        signed += [(each.kind, each.signed) for each in documents if each.kind not in ("lock", "sources")]
    return number, dict(totals), tuple(signed), problems


def check_tag(tag: str | None, lock: Lock) -> list[Problem]:
    """A tag that follows from digests must be this image's; other names promise nothing."""
    own = make_tags(lock.checkpoint.digest if lock.checkpoint is not None else None, lock.inputs)
    if tag is None or not re.fullmatch(r"ckpt-[0-9a-f]{12}(-[0-9a-f]{12})?|inputs-[0-9a-f]{12}", tag) or tag in own.all:
        return []
    return [Problem(f"tag {tag}", " or ".join(own.all), tag)]
