"""All evidence about a built image: per platform an SBOM, and provenance and the lock for every manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.documents.lock import Lock
from builder.oci.artifact import LOCK, PROVENANCE, SBOM, VERDICT, Evidence
from builder.oci.types import Descriptor
from builder.pipeline.build import Built
from builder.release.evidence.provenance import make_provenance
from builder.release.evidence.sbom import make_sbom
from builder.util.errors import InputError, MismatchError
from builder.util.files import write_file


def make_evidence(lock: Lock, built: Built) -> list[Evidence]:
    """What can be told from the lock and the image's digests, always the same."""
    platforms = list(built.images)
    found: list[Evidence] = []
    for platform, image in built.images.items():
        found += _about(lock, image.manifest, [platform])
        found.append(Evidence("sbom.cdx.json", SBOM, image.manifest, make_sbom(lock, platform, image.manifest)))
    if built.index is not None:
        found += _about(lock, built.top, platforms)
    return found


def _about(lock: Lock, subject: Descriptor, platforms: list[str]) -> list[Evidence]:
    return [
        Evidence("provenance.json", PROVENANCE, subject, make_provenance(lock, subject, platforms)),
        Evidence("lock.yaml", LOCK, subject, lock.dump()),
    ]


def read_verdicts(files: Sequence[Path], built: Built) -> list[Evidence]:
    """Verdicts from files. Raises `MismatchError` for one that is not about this image."""
    subjects = [built.top, *(image.manifest for image in built.images.values())]
    found = []
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        about = [subject for subject in subjects if subject.digest.encode() in data]
        if not about:
            raise MismatchError(
                f"{path} is not about this image",
                details=[("wanted", f"a verdict that names {built.top.digest}")],
                hint="run the checks on this image, then publish with their result",
            )
        found.append(Evidence(path.name, VERDICT, about[0], data))
    return found


def write_evidence(folder: Path, evidence: Sequence[Evidence]) -> None:
    """Write evidence as files, in a folder per subject when there are several."""
    subjects = {each.subject.digest for each in evidence}
    for each in evidence:
        place = folder if len(subjects) == 1 else folder / each.subject.digest.removeprefix("sha256:")[:12]
        place.mkdir(parents=True, exist_ok=True)
        write_file(place / each.name, each.data)
