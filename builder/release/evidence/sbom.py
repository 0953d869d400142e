"""The SBOM of an image, as CycloneDX 1.6: the base's Python packages, and the package with its patches as its pedigree.

It is written here and not by cyclonedx-python-lib, whose import takes longer than everything else about it, and whose next
release may order or spell something in another way: the same lock would then have another SBOM. The tests have that library
read each SBOM, validate it and write it again, to the same bytes.

Lists that are sets in CycloneDX (components, hashes, properties, patches, dependencies) are sorted.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from builder import __version__
from builder.documents.lock import Lock, LockedInstall, LockedOverlay, LockedPlatform
from builder.oci.types import Descriptor

_PREFIX = "overlay-image-builder"
_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_IN_A_URI = "%/:?#@!$&()*+,;=~"
"""Characters that RFC 3987 allows in a reference, without those that cyclonedx-python-lib escapes."""

_Json = dict[str, Any]


def make_sbom(lock: Lock, platform: str, subject: Descriptor) -> bytes:
    """The SBOM of one platform's image, the same bytes for the same lock.

    Each overlay is a patch of the component of each package that it may change: kind (a merged pull request is a backport, anything else
    unofficial), the canonical diff's SHA-256 and address, and the pull request that it resolves.
    """
    components = sorted(
        _components(lock, lock.base.platforms[platform]),
        key=lambda each: (each["type"], each["name"], each.get("version", ""), each["bom-ref"]),
    )
    root = {
        "type": "container",
        "name": lock.name,
        "version": lock.inputs[:12],
        "bom-ref": "image",
        "hashes": _sha256(subject.digest.removeprefix("sha256:")),
        "properties": _properties(
            ("base", lock.base.reference),
            ("base:digest", lock.base.digest),
            ("packages", "those in the layers that were read to find the package"),
        ),
    }
    references = sorted(each["bom-ref"] for each in components)
    tool = {"type": "application", "name": "overlay-image-builder", "version": __version__, "bom-ref": "tool"}
    body = {
        "version": 1,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, subject.digest).urn,
        "metadata": {
            "timestamp": datetime.fromtimestamp(lock.epoch, UTC).isoformat(),
            "component": root,
            "tools": {"components": [tool]},
        },
        "components": components,
        "dependencies": sorted(
            [{"ref": "image", "dependsOn": references}, *({"ref": each} for each in references)],
            key=lambda each: str(each["ref"]),
        ),
    }
    what = {"$schema": _SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6"}
    # That library ends with what a document is: an image that has an SBOM of its making needs no second one.
    return f"{json.dumps(body, sort_keys=True, indent=1)[:-2]},{json.dumps(what, indent=1)[1:]}\n".encode()


def _components(lock: Lock, locked: LockedPlatform) -> Iterator[_Json]:
    owners = locked.distributions(lock.package)
    brought = {f"{each.name}=={each.version}": each for each in locked.installed if each.version is not None}
    names = dict.fromkeys([*(f"{each.name}=={each.version}" for each in owners.values()), *_others(locked), *brought])
    for spelled in names:
        name, _, version = spelled.partition("==")
        component: _Json = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": _purl(name, version),
            "bom-ref": f"pypi:{spelled}",
        }
        properties: list[tuple[str, str]] = []
        if (installed := brought.get(spelled)) is not None:
            component["hashes"] = _sha256(str(installed.sha256))
            properties += _installed(installed)
        packages = [package for package, each in owners.items() if f"{each.name}=={each.version}" == spelled]
        overlays = _concerning(lock, packages)
        if overlays:
            component["pedigree"] = {"patches": sorted(map(_patch, overlays.values()), key=_place_of_patch)}
            properties += _overlays(overlays)
        if properties:
            component["properties"] = _properties(*properties)
        yield component
    for file in locked.added:
        path = file.path
        yield {"type": "file", "name": f"/{path}", "bom-ref": f"file:{path}", "hashes": _sha256(file.sha256)}


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


def _purl(name: str, version: str) -> str:
    """The package URL of a distribution on PyPI (https://github.com/package-url/purl-spec)."""
    return f"pkg:pypi/{quote(name, safe=':').lower().replace('_', '-')}" + (
        f"@{quote(version, safe=':')}" if version else ""
    )


def _sha256(digest: str) -> list[_Json]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(*pairs: tuple[str, str]) -> list[_Json]:
    return [{"name": f"{_PREFIX}:{name}", "value": value} for name, value in sorted(pairs)]


def _installed(installed: LockedInstall) -> Iterator[tuple[str, str]]:
    yield "wheel", str(installed.file)
    yield "native", str(installed.native).lower()
    if installed.replaces is not None:
        yield "replaces", installed.replaces


def _concerning(lock: Lock, packages: Collection[str]) -> dict[int, LockedOverlay]:
    """The overlays that may change one of `packages`, by their number in the stack."""
    return {
        number: overlay
        for number, overlay in enumerate(lock.overlays, 1)
        if not set(packages).isdisjoint(overlay.package or (lock.package,))
    }


def _overlays(overlays: dict[int, LockedOverlay]) -> Iterator[tuple[str, str]]:
    for number, overlay in overlays.items():
        yield f"overlay:{number}", overlay.id
        yield f"overlay:{number}:sha256", overlay.digest
        yield from ((f"overlay:{number}:{key}", value) for key, value in overlay.about().items() if value)


def _patch(overlay: LockedOverlay) -> _Json:
    patch: _Json = {
        "type": "backport" if overlay.state == "merged" else "unofficial",
        "diff": {
            "text": {"content": f"sha256:{overlay.digest}", "contentType": "text/plain"},
            "url": _uri(f"{overlay.url}.diff") if overlay.url else quote(overlay.diff, safe="/@!$&()*+,;=~"),
        },
    }
    if overlay.url is not None:
        issue = {"type": "enhancement", "id": overlay.id, "references": [_uri(overlay.url)]}
        patch["resolves"] = [issue if overlay.title is None else {**issue, "name": overlay.title}]
    return patch


def _place_of_patch(patch: _Json) -> tuple[str, str, str]:
    return patch["type"], patch["diff"]["url"], patch["diff"]["text"]["content"]


def _uri(address: str) -> str:
    """The address as a URI reference: other characters are percent-encoded, and what is encoded already is kept."""
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", address), safe=_IN_A_URI)
