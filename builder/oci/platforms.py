"""Choosing the image of one platform from an index, as the clients that run it do.

Source: containerd's `platforms` package (`Normalize`, `Only`) and `images.Manifest`, which Docker's pull follows: of
the entries that match, the best variant is taken, and of equal ones the first; entries without a platform come last, and
their config decides. `linux/amd64` is plain amd64 (v1), never v2 or v3. Containerd's fall-back from amd64 to 386 and from
arm64 to arm is left out: a recipe names the platform that it means.

Where a client would take what it cannot run, another entry for the platform is taken: an artifact, or an entry that needs
`os.features` (Nydus images beside the plain one), comes after the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builder.documents.reference import Platform
from builder.oci.document import read_config, read_index, read_manifest
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from builder.util.errors import InputError

FetchBlob = Callable[[Descriptor], bytes]
"""Reads a small blob (index, manifest, config), checked against its descriptor."""

_DEPTH = 4
_MAX_LOOKS = 200
"""Entries without a platform, and nested indexes, that are fetched to find out what they are."""
_ATTESTATION = "vnd.docker.reference.type"
CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    # What Docker pushed before it had a type of its own.
    "application/octet-stream",
)
"""Media types of an image's config. A manifest with another one is an artifact."""
_UNKNOWN = ("", None)


def preference(platform: Platform, found: Mapping[str, Any]) -> int | None:
    """How well an entry's or config's platform suits `platform`: 0 is best, None means that it does not run there."""
    if (_lower(found.get("os")), _architecture(found.get("architecture"))) != (
        platform.os,
        _architecture(platform.architecture),
    ):
        return None
    variant = _variant(platform.architecture, _lower(found.get("variant")) or "")
    accepted = _accepted(platform.architecture, _variant(platform.architecture, platform.variant))
    return accepted.index(variant) if variant in accepted else None


def _lower(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


def _architecture(name: object) -> object:
    return {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(str(_lower(name)), _lower(name))


def _variant(architecture: str, variant: object) -> str:
    plain = {"amd64": ("v1", "1"), "arm64": ("v8", "8", "v8.0"), "x86_64": ("v1",), "aarch64": ("v8",)}.get(
        architecture, ()
    )
    if variant in plain or not isinstance(variant, str):
        return ""
    if architecture == "arm":
        return "v7" if variant in ("", "7") else f"v{variant.removeprefix('v')}"
    return variant


def _accepted(architecture: str, variant: str) -> list[str]:
    """The variants that run where `variant` does, the best first."""
    number = re.fullmatch(r"v([0-9]{1,2})", variant)
    if number is None or architecture not in ("amd64", "arm"):
        return [variant]
    lowest = 1 if architecture == "amd64" else 5
    names = [f"v{each}" for each in range(int(number[1]), lowest - 1, -1)]
    return [_variant(architecture, name) for name in names] or [variant]


def choose_image(
    top: Descriptor, data: bytes, platform: Platform, name: str, fetch: FetchBlob
) -> tuple[Descriptor, bytes]:
    """The manifest for `platform` at or below `top`, whose bytes are `data`; with its own bytes.

    Raises `InputError` when there is none. What a manifest's own config says of its platform is the caller's to check.
    """
    if top.media_type not in INDEX_TYPES:
        return top, data
    search = _Search(platform, name, fetch)
    found = search.below(data, 1)
    if found is not None:
        return found
    known = sorted(each for each in search.known if "unknown" not in each) or sorted(search.known)
    raise InputError(
        f"{name} has no image for {platform}",
        hint=f"it has: {', '.join(known) or 'none'}; change the recipe's platforms, or the base",
    )


def is_artifact(descriptor: Descriptor) -> bool:
    """Whether a descriptor says that its manifest is something other than an image (a signature, an SBOM, a chart)."""
    return bool(descriptor.artifact_type) and descriptor.artifact_type not in CONFIG_TYPES


def _named(platform: Mapping[str, Any]) -> str:
    return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))


def _said(entry: Descriptor) -> Mapping[str, Any] | None:
    """The platform that an index entry names; None where system or processor is missing or empty."""
    said = entry.platform or {}
    return None if said.get("os") in _UNKNOWN or said.get("architecture") in _UNKNOWN else said


class _Search:
    """One search in an index and those nested in it. `known` are the platforms that were met."""

    def __init__(self, platform: Platform, name: str, fetch: FetchBlob) -> None:
        self._platform = platform
        self._name = name
        self._fetch = fetch
        self._looks = 0
        self.known: set[str] = set()

    def below(self, data: bytes, depth: int) -> tuple[Descriptor, bytes] | None:
        """The image for the platform in the index `data`, or None. Raises `InputError` for an index without bounds."""
        if depth > _DEPTH:
            raise InputError(f"{self._name} has indexes nested more than {_DEPTH} deep", hint="do not use this base")
        for entry in self._ordered(read_index(data, f"the index of {self._name}")):
            self._looks += 1
            if self._looks > _MAX_LOOKS:
                raise InputError(
                    f"{self._name} has more than {_MAX_LOOKS} entries without a platform",
                    hint="name an image by digest",
                )
            content = self._fetch(entry)
            if entry.media_type in INDEX_TYPES:
                found = self.below(content, depth + 1)
                if found is not None:
                    return found
            elif self._suits(entry, content):
                return entry, content
        return None

    def _ordered(self, entries: Sequence[Descriptor]) -> list[Descriptor]:
        """The entries that may be for the platform: by what they say, the best first, then those that do not say."""
        matching: list[tuple[tuple[bool, int, bool], Descriptor]] = []
        silent: list[Descriptor] = []
        for entry in entries:
            if entry.media_type not in (*INDEX_TYPES, *MANIFEST_TYPES) or _ATTESTATION in entry.annotations:
                continue
            said = _said(entry)
            if said is None:
                silent.append(entry)
                continue
            self.known.add(_named(said))
            rank = preference(self._platform, said)
            if rank is not None:
                matching.append(((is_artifact(entry), rank, bool(said.get("os.features"))), entry))
        return [entry for _, entry in sorted(matching, key=lambda pair: pair[0])] + sorted(silent, key=is_artifact)

    def _suits(self, entry: Descriptor, data: bytes) -> bool:
        """Whether a manifest is an image, and for the platform by its config, when its entry did not say."""
        manifest = read_manifest(data, f"the manifest of {self._name}")
        if manifest.config.media_type not in CONFIG_TYPES:
            return False
        if _said(entry) is not None:
            return True
        config = read_config(self._fetch(manifest.config), f"the config of {self._name}")
        self.known.add(_named(config.platform))
        return preference(self._platform, config.platform) is not None
