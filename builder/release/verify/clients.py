"""Which entry of an image index a client takes for a platform. What is verified is what a client runs.

Sources: Docker (moby, `filterManifests`) and containerd (`images.Manifest`) take the first entry that matches, the most
specific variant before others; podman and skopeo (containers/image, `ChooseInstance`) go through the variants that the
machine can run, and take the first entry with exactly that variant. Each is held by a test with the real program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from builder.documents.reference import Platform

CLIENTS: Final = ("Docker and containerd", "podman and skopeo")

# Which variants a machine of one variant runs, the best first. An amd64 without one is v1.
_RUNS: Final[Mapping[str, Sequence[str]]] = {"amd64": ("", "v1"), "arm64": ("v8", ""), "arm": ("v7", "v6", "v5", "")}


def entries_taken(index: Mapping[str, Any], platform: Platform) -> dict[str, str | None]:
    """Client -> digest of the entry that it takes; None when it finds none. `index` may have any shape."""
    listed = index.get("manifests")
    entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    variants = [platform.variant] if platform.variant else list(_RUNS.get(platform.architecture, ("",)))
    return {CLIENTS[0]: _first(entries, platform, variants), CLIENTS[1]: _best(entries, platform, variants)}


def matching(index: Mapping[str, Any], platform: Platform) -> list[str]:
    """The digests of all entries for a platform, whatever their variant."""
    listed = index.get("manifests")
    entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [str(each.get("digest")) for each in entries if _is_for(each, platform)]


def _first(entries: Sequence[Mapping[str, Any]], platform: Platform, variants: Sequence[str]) -> str | None:
    found = [each for each in entries if _is_for(each, platform) and _variant(each) in (*variants, "")]
    return str(found[0].get("digest")) if found else None


def _best(entries: Sequence[Mapping[str, Any]], platform: Platform, variants: Sequence[str]) -> str | None:
    for variant in dict.fromkeys([*variants, ""]):
        for each in entries:
            if _is_for(each, platform) and _variant(each) == variant:
                return str(each.get("digest"))
    return None


def _is_for(entry: Mapping[str, Any], platform: Platform) -> bool:
    named = entry.get("platform")
    return isinstance(named, dict) and (named.get("os"), named.get("architecture")) == (
        platform.os, platform.architecture,
    )  # fmt: skip


def _variant(entry: Mapping[str, Any]) -> str:
    named = entry.get("platform")
    return str(named.get("variant") or "") if isinstance(named, dict) else ""
