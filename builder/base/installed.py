"""What is installed in a base beside the packages that are patched: every distribution, by what it says of itself.

Sources: the PyPA specifications "Recording installed projects" and "Core metadata".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser

from builder.base.model import Base, PackageTree
from builder.base.record import read_record
from builder.base.wheel import WheelBase
from builder.documents.reference import Platform

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
# The C library of a distribution's release, as the release notes and package lists of each have it.
_GLIBC: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "ubuntu": {"20.04": (2, 31), "22.04": (2, 35), "24.04": (2, 39), "25.04": (2, 41), "25.10": (2, 42), "26.04": (2, 43)},
    "debian": {"11": (2, 31), "12": (2, 36), "13": (2, 41)},
    "rhel": {"8": (2, 28), "9": (2, 34), "10": (2, 39)},
    "amzn": {"2": (2, 26), "2023": (2, 34)},
}  # fmt: skip
_LIKE_RHEL = frozenset({"rocky", "almalinux", "centos", "ol", "rhel"})
OS_RELEASE = ("etc/os-release", "usr/lib/os-release")


@dataclass(frozen=True)
class InstalledDistribution:
    """A distribution in the base. `requires` are its `Requires-Dist`; `files` RECORD's paths, relative to the packages' folder."""

    name: str
    version: str
    dist_info: str
    requires: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name as PEP 503 normalises it."""
        return normal(self.name)


@dataclass(frozen=True)
class Environment:
    """All distributions of a base by normalised name. `whole` says that there is no other one."""

    distributions: Mapping[str, InstalledDistribution]
    whole: bool
    libc: Libc


@dataclass(frozen=True)
class Libc:
    """The C library: `glibc` or `musl`, and a version that it has at least; None where nothing tells."""

    kind: str
    version: tuple[int, int] | None
    source: str = ""


def normal(name: str) -> str:
    """A distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements_of(metadata: bytes) -> tuple[str, ...]:
    """The `Requires-Dist` lines of METADATA."""
    return tuple(str(each) for each in BytesHeaderParser().parsebytes(metadata).get_all("Requires-Dist") or ())


def read_environment(base: Base, tree: PackageTree, platform: Platform) -> Environment:
    """Read every distribution of a base; `tree` was opened with `listing`."""
    if isinstance(base, WheelBase):
        found = [
            _distribution(each.dist_info, each.own("METADATA"), each.own("RECORD"), each.own("WHEEL"))
            for each in base.every(platform)
        ]
        return Environment({each.key: each for each in found}, whole=False, libc=_libc(found, {}))
    infos = sorted(
        name for name, kind in tree.children("").items() if name.endswith(".dist-info") and kind == "directory"
    )
    read = tree.read([f"{info}/{name}" for info in infos for name in ("METADATA", "RECORD", "WHEEL")])
    data = {path: entry.data for path, entry in read.items() if entry.kind == "file"}
    found = [
        _distribution(info, *(data.get(f"{info}/{name}", b"") for name in ("METADATA", "RECORD", "WHEEL")))
        for info in infos
    ]
    outside = tree.outside(OS_RELEASE)
    system = next((entry.data for path in OS_RELEASE if (entry := outside.get(path)) is not None and entry.data), b"")
    return Environment({each.key: each for each in found}, whole=True, libc=_libc(found, _fields(system)))


def _distribution(dist_info: str, metadata: bytes, record: bytes, wheel: bytes) -> InstalledDistribution:
    headers = BytesHeaderParser().parsebytes(metadata)
    name, _, version = dist_info.removesuffix(".dist-info").rpartition("-")
    rows = read_record(record, f"{dist_info}/RECORD in the base") if record else ()
    tags = [
        line.partition(":")[2].strip()
        for line in wheel.decode("utf-8", "replace").splitlines()
        if line.startswith("Tag:")
    ]
    return InstalledDistribution(
        str(headers.get("Name") or name).strip(),
        str(headers.get("Version") or version).strip(),
        dist_info,
        requirements_of(metadata),
        {row.path: row.digest for row in rows},
        tuple(tags),
    )


def _fields(data: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _libc(found: Sequence[InstalledDistribution], system: Mapping[str, str]) -> Libc:
    """By the system's release, else by what the base's own compiled distributions need: it must have at least that."""
    name, release = system.get("ID", ""), system.get("VERSION_ID", "")
    if name in ("alpine", "wolfi"):
        return Libc("musl", (1, 2), f"{name} {release}")
    name = "rhel" if name in _LIKE_RHEL else name
    known = _GLIBC.get(name, {}).get(release.partition(".")[0] if name in ("rhel", "debian") else release)
    if known is not None:
        return Libc("glibc", known, f"{system.get('ID')} {release}")
    needed = sorted(((version, each.name) for each in found for version in _needed(each.tags)), reverse=True)
    if needed:
        return Libc("glibc", needed[0][0], f"what the base's {needed[0][1]} needs")
    return Libc("glibc", None)


def _needed(tags: Sequence[str]) -> Iterator[tuple[int, int]]:
    for tag in tags:
        platforms = tag.rpartition("-")[2].split(".")
        versions = [(int(match[1]), int(match[2])) for each in platforms if (match := _MANYLINUX.match(each))]
        versions += [version for each in platforms for name, version in _OLD.items() if each.startswith(f"{name}_")]
        if versions:
            # A tag set is met by the least of its platforms.
            yield min(versions)
