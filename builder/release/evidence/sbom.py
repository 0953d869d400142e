"""The SBOM of an image, as CycloneDX 1.6: the base's Python packages, and the package with its patches as its pedigree."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING

from builder import __version__
from builder.documents.lock import Lock, LockedOverlay, LockedPlatform
from builder.oci.types import Descriptor
from builder.util.errors import InputError
from builder.util.extras import install_hint

if TYPE_CHECKING:
    from cyclonedx.model.component import Component, Patch

_PREFIX = "overlay-image-builder"


def check_sbom() -> None:
    """Raise `InputError` when an SBOM cannot be made. Nothing is imported: that takes a tenth of a second."""
    if any(find_spec(name) is None for name in ("cyclonedx", "packageurl")):
        raise InputError("an SBOM needs the extra 'evidence'", hint=install_hint("evidence"))


def make_sbom(lock: Lock, platform: str, subject: Descriptor) -> bytes:
    """The SBOM of one platform's image, the same bytes for the same lock.

    Each overlay is a patch of the component of each package that it may change: kind (a merged pull request is a backport, anything else
    unofficial), the canonical diff's SHA-256 and address, and the pull request that it resolves.
    """
    check_sbom()
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    locked = lock.base.platforms[platform]
    root = Component(
        type=ComponentType.CONTAINER,
        name=lock.name,
        version=lock.inputs[:12],
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.digest.removeprefix("sha256:"))],
        properties=[
            Property(name=f"{_PREFIX}:base", value=lock.base.reference),
            Property(name=f"{_PREFIX}:base:digest", value=lock.base.digest),
            Property(name=f"{_PREFIX}:packages", value="those in the layers that were read to find the package"),
        ],
    )
    owners = locked.distributions(lock.package)
    brought = {f"{each.name}=={each.version}": each for each in locked.installed if each.version is not None}
    names = dict.fromkeys([*(f"{each.name}=={each.version}" for each in owners.values()), *_others(locked), *brought])
    components = []
    for spelled in names:
        name, _, version = spelled.partition("==")
        component = Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=PackageURL("pypi", None, name.lower().replace("_", "-"), version),
            bom_ref=f"pypi:{spelled}",
        )
        if (installed := brought.get(spelled)) is not None:
            component.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=str(installed.sha256)))
            component.properties.add(Property(name=f"{_PREFIX}:wheel", value=str(installed.file)))
            component.properties.add(Property(name=f"{_PREFIX}:native", value=str(installed.native).lower()))
            if installed.replaces is not None:
                component.properties.add(Property(name=f"{_PREFIX}:replaces", value=installed.replaces))
        packages = [package for package, each in owners.items() if f"{each.name}=={each.version}" == spelled]
        if packages:
            _patch(component, lock, packages)
        components.append(component)
    for file in locked.added:
        components.append(
            Component(
                type=ComponentType.FILE,
                name=f"/{file.path}",
                bom_ref=f"file:{file.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
            )
        )
    bom = Bom(components=components, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, subject.digest))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(lock.epoch, UTC)
    bom.metadata.tools.components.add(
        Component(type=ComponentType.APPLICATION, name="overlay-image-builder", version=__version__, bom_ref="tool")
    )
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode() + b"\n"


def _others(locked: LockedPlatform) -> list[str]:
    """What was seen beside the packages; a distribution of one that is spelled in another way is not another one."""
    further = {f"{_plain(each.distribution.name)}=={each.distribution.version}" for each in locked.further}
    gone = {_plain(each.name) for each in locked.installed}
    split = [spelled.partition("==") for spelled in locked.packages]
    split = [each for each in split if _plain(each[0]) not in gone]
    return [f"{name}=={version}" for name, _, version in split if f"{_plain(name)}=={version}" not in further]


def _plain(name: str) -> str:
    """A distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _patch(component: Component, lock: Lock, packages: Collection[str]) -> None:
    """The overlays that may change one of `packages`, as patches of their distribution."""
    from cyclonedx.model import Property
    from cyclonedx.model.component import Pedigree

    mine = {
        number: overlay
        for number, overlay in enumerate(lock.overlays, 1)
        if not set(packages).isdisjoint(overlay.package or (lock.package,))
    }
    patches = [_pedigree(overlay) for overlay in mine.values()]
    if patches:
        component.pedigree = Pedigree(patches=patches)
    for number, overlay in mine.items():
        component.properties.add(Property(name=f"{_PREFIX}:overlay:{number}", value=overlay.id))
        component.properties.add(Property(name=f"{_PREFIX}:overlay:{number}:sha256", value=overlay.digest))
        for key, value in overlay.about().items():
            if value:
                component.properties.add(Property(name=f"{_PREFIX}:overlay:{number}:{key}", value=value))


def _pedigree(overlay: LockedOverlay) -> Patch:
    from cyclonedx.model import AttachedText, XsUri
    from cyclonedx.model.component import Diff, Patch, PatchClassification
    from cyclonedx.model.issue import IssueClassification, IssueType

    merged = overlay.state == "merged"
    issues = []
    if overlay.url is not None:
        issues.append(
            IssueType(
                type=IssueClassification.ENHANCEMENT,
                id=overlay.id,
                name=overlay.title,
                references=[XsUri(overlay.url)],
            )
        )
    return Patch(
        type=PatchClassification.BACKPORT if merged else PatchClassification.UNOFFICIAL,
        diff=Diff(
            text=AttachedText(content=f"sha256:{overlay.digest}"),
            url=XsUri(f"{overlay.url}.diff" if overlay.url else overlay.diff),
        ),
        resolves=issues,
    )
