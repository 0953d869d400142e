"""All evidence about a built image: per platform an SBOM, and provenance and the lock for every manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.documents.lock import Lock
from builder.documents.verdict import read_verdict
from builder.image.built import Built
from builder.oci.artifact import LOCK, OUTCOME, PROVENANCE, SBOM, SOURCES, VERDICT, Evidence
from builder.oci.types import Descriptor
from builder.patch.model import Overlay
from builder.release.evidence.provenance import make_provenance, recipe_source
from builder.release.evidence.repository import Repository
from builder.release.evidence.sbom import make_sbom
from builder.release.evidence.sources import make_sources
from builder.util.errors import MismatchError
from builder.util.files import read_regular, unreadable
from builder.util.journal import write_files

_VERDICT_LIMIT = 16 << 20


def make_evidence(
    lock: Lock, built: Built, overlays: Sequence[Overlay], repository: Repository | None = None
) -> list[Evidence]:
    """Everything that follows from the lock and the image's digests, always the same: documents, lock and sources.

    `repository` is where the recipe is kept, for the provenance.
    """
    platforms = list(built.images)
    found = travelling(lock, built, overlays)
    for platform, image in built.images.items():
        found.append(_provenance(lock, image.manifest, [platform], repository))
        found.append(Evidence("sbom.cdx.json", SBOM, image.manifest, make_sbom(lock, platform, image.manifest)))
    if built.index is not None:
        found.append(_provenance(lock, built.top, platforms, repository))
    return found


def travelling(lock: Lock, built: Built, overlays: Sequence[Overlay]) -> list[Evidence]:
    """The lock and its sources for every manifest and the index: what others need to derive the image again."""
    subjects = [image.manifest for image in built.images.values()]
    if built.index is not None:
        subjects.append(built.top)
    sources = make_sources(lock, (each.diff.canonical for each in overlays), (i.base for i in built.images.values()))
    document = lock.dump()
    return [
        evidence
        for subject in subjects
        for evidence in (
            Evidence("lock.yaml", LOCK, subject, document),
            Evidence("sources.tar", SOURCES, subject, sources),
        )
    ]


def _provenance(lock: Lock, subject: Descriptor, platforms: list[str], repository: Repository | None) -> Evidence:
    """The provenance; what a registry shows of it without reading it is where the recipe is, in the OCI's own names."""
    source = recipe_source(repository) if repository is not None else None
    annotations = {}
    if repository is not None:
        annotations = {"org.opencontainers.image.revision": repository.commit}
        if repository.remote:
            annotations["org.opencontainers.image.source"] = repository.remote
    return Evidence(
        "provenance.json", PROVENANCE, subject, make_provenance(lock, subject, platforms, recipe=source), annotations
    )


def verdict_bytes(path: Path) -> bytes:
    """The file of a verdict. Raises `InputError` when it cannot be read."""
    try:
        return read_regular(path, limit=_VERDICT_LIMIT)
    except OSError as error:
        raise unreadable(path, error) from error


def read_verdicts(files: Sequence[Path], built: Built) -> list[Evidence]:
    """Verdicts from files, each with its outcome.

    Raises `MismatchError` for one that is about another image, `InputError` for a file that cannot be read. One that does
    not have the schema of a result is about the image that is published, and unreadable.
    """
    subjects = {each.digest: each for each in (built.top, *(image.manifest for image in built.images.values()))}
    found = []
    for path in files:
        data = verdict_bytes(path)
        verdict = read_verdict(data)
        subject = next((subjects[each] for each in verdict.subjects if each in subjects), None)
        if verdict.outcome == "unreadable":
            subject = built.top
        if subject is None:
            raise MismatchError(
                f"{path} is not about this image",
                details=[
                    ("wanted", f"a verdict about {built.top.digest}"),
                    ("found", ", ".join(verdict.subjects) or "no image"),
                ],
                hint="run the checks on this image, then publish with their result",
            )
        found.append(Evidence(path.name, VERDICT, subject, data, {OUTCOME: verdict.outcome}))
    return found


def write_evidence(folder: Path, evidence: Sequence[Evidence]) -> None:
    """Write evidence as files, all or none, in a folder per subject when there are several."""
    subjects = {each.subject.digest for each in evidence}
    files = {}
    for each in evidence:
        place = folder if len(subjects) == 1 else folder / each.subject.digest.removeprefix("sha256:")[:12]
        files[place / each.name] = each.data
    write_files(files)
