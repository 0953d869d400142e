"""Choosing the image of one platform from an index, as the clients that run it do.

Source: containerd's `platforms` package (`Normalize`, `Only`) and `images.Manifest`, which Docker's pull follows: of
the entries that match, the best variant is taken, and of equal ones the first; entries without a platform come last, and
their config decides. `linux/amd64` is plain amd64 (v1), never v2 or v3. Containerd's fall-back from amd64 to 386 and from
arm64 to arm is left out: a recipe names the platform that it means.
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
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


def preference(platform: Platform, found: Mapping[str, Any]) -> int | None:
    """How well an entry's or config's platform suits `platform`: 0 is best, None means that it does not run there."""
    if (found.get("os"), _architecture(found.get("architecture"))) != (
        platform.os,
        _architecture(platform.architecture),
    ):
        return None
    variant = _variant(platform.architecture, found.get("variant") or "")
    accepted = _accepted(platform.architecture, _variant(platform.architecture, platform.variant))
    return accepted.index(variant) if variant in accepted else None


def _architecture(name: object) -> object:
    return {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(str(name), name)


def _variant(architecture: str, variant: object) -> str:
    plain = {"amd64": ("v1", "1"), "arm64": ("v8", "8"), "x86_64": ("v1",), "aarch64": ("v8",)}.get(architecture, ())
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
    looks = [0]
    seen: list[Descriptor] = []
    if top.media_type not in INDEX_TYPES:
        return top, data
    found = _below(data, platform, name, fetch, looks, seen, 1)
    if found is not None:
        return found
    known = sorted({str(_named(each.platform)) for each in seen if each.platform})
    raise InputError(
        f"{name} has no image for {platform}",
        hint=f"it has: {', '.join(known) or 'none'}; change the recipe's platforms, or the base",
    )


def _named(platform: Mapping[str, Any]) -> str:
    return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))


def _below(
    data: bytes, platform: Platform, name: str, fetch: FetchBlob, looks: list[int], seen: list[Descriptor], depth: int
) -> tuple[Descriptor, bytes] | None:
    if depth > _DEPTH:
        raise InputError(f"{name} has indexes nested more than {_DEPTH} deep", hint="do not use this base")
    for entry in _ordered(read_index(data, f"the index of {name}"), platform, seen):
        if entry.media_type not in (*INDEX_TYPES, *MANIFEST_TYPES):
            continue
        looks[0] += 1
        if looks[0] > _MAX_LOOKS:
            raise InputError(
                f"{name} has more than {_MAX_LOOKS} entries without a platform", hint="name an image by digest"
            )
        content = fetch(entry)
        if entry.media_type in INDEX_TYPES:
            found = _below(content, platform, name, fetch, looks, seen, depth + 1)
            if found is not None:
                return found
        elif entry.platform is not None or _config_matches(content, platform, name, fetch):
            return entry, content
    return None


def _ordered(entries: Sequence[Descriptor], platform: Platform, seen: list[Descriptor]) -> list[Descriptor]:
    """The entries that may be for `platform`: by their platform, the best first, then those that do not say."""
    matching: list[tuple[int, Descriptor]] = []
    silent: list[Descriptor] = []
    for entry in entries:
        if _ATTESTATION in entry.annotations:
            continue
        seen.append(entry)
        if not entry.platform:
            silent.append(entry)
        elif (rank := preference(platform, entry.platform)) is not None:
            matching.append((rank, entry))
    return [entry for _, entry in sorted(matching, key=lambda pair: pair[0])] + silent


def _config_matches(data: bytes, platform: Platform, name: str, fetch: FetchBlob) -> bool:
    manifest = read_manifest(data, f"the manifest of {name}")
    if manifest.config.media_type not in _CONFIG_TYPES:
        return False
    config = read_config(fetch(manifest.config), f"the config of {name}")
    return preference(platform, config.platform) is not None
