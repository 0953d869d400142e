"""What is kept of a layer: the package and its distribution, and what decides which package a Python imports."""

from __future__ import annotations

import re
from collections.abc import Collection

from builder.util.files import sha256

# What is kept of a file's content. vLLM's largest Python file is 300 kB; RECORD of 0.20.0 is 388 kB.
KEPT_BYTES = 8 << 20
_SMALL = 64 << 10
_SKELETON_DEPTH = 2
_FORMAT = 5
COMPILED = (".so", ".pyc", ".a", ".cubin", ".ptx")


class Filter:
    """Which entries of a layer are kept: the package's folder, its dist-info, the names of others, the top of the tree,
    all symlinks, and what decides which package a Python imports.

    `places` are folders besides `site-packages` and `dist-packages` that may hold the package (those of PYTHONPATH),
    `extra` single paths (the targets of hard links), `further` other packages of which the same is kept. With `listing`,
    what every distribution says of itself is kept (METADATA, RECORD, WHEEL), and which system the image is.
    """

    def __init__(
        self, package: str, places: Collection[str] = (), extra: Collection[str] = (), further: Collection[str] = (),
        *, listing: bool = False,
    ) -> None:  # fmt: skip
        self.package = package
        self.places = tuple(sorted({each for each in places if each}))
        self.extra = frozenset(extra)
        self.further = tuple(dict.fromkeys(each for each in further if each != package))
        self.listing = listing
        names = (package, *self.further)
        name = f"(?:{'|'.join(map(re.escape, names))})"
        # Distribution names may be spelt with dots, dashes and underscores (PEP 503).
        info = f"(?:{'|'.join(re.sub(r'[-_.]+', '[-_.]+', each) for each in names)})"
        site = r"(?:^|.*/)(?:site|dist)-packages"
        folder = "|".join([site, *(re.escape(place) for place in self.places)])
        self._package = re.compile(rf"(?:{folder})(?:/{name}(?:/.*)?|/{info}-[^/]+\.dist-info(?:/.*)?)?", re.I | re.S)
        self._distribution = re.compile(rf"{site}/[^/]+\.dist-info(?:/METADATA)?", re.S)
        self._import = re.compile(
            rf"(?:{folder})/(?:[^/]+\.pth|__editable__[^/]*|{info}[^/]*\.(?:egg-link|egg)(?:/EGG-INFO|/{name}/__init__\.py)?)"
            r"|(?:.*/)?(?:python(?:3(?:\.\d+)?)?|pyvenv\.cfg)",
            re.I | re.S,
        )
        # uv and pip link files out of their caches, which have the package's folder under another name.
        self._elsewhere = re.compile(rf"(?:^|.*/)(?:{name}|{info}-[^/]+\.dist-info)/.*", re.I | re.S)
        # In a cache file's name: what is kept decides what the file holds.
        more = sha256("\n".join([*self.places, "", *sorted(self.extra)]).encode("utf-8", "surrogateescape"))[:16]
        self.key = f"{'+'.join(names)}-{_FORMAT}" + (f"-{more}" if self.places or self.extra else "")
        self.key += "-listing" if listing else ""
        self._listed = re.compile(
            rf"(?:{folder})/[^/]+\.dist-info/(?:METADATA|RECORD|WHEEL)|(?:etc|usr/lib)/os-release", re.S
        )
        self._record = re.compile(rf"(?:{folder})/[^/]+\.dist-info/RECORD", re.S)
        self._rows = tuple(f"\n{each}/__init__.py,".encode() for each in names)

    def with_extra(self, extra: Collection[str]) -> Filter:
        return Filter(self.package, self.places, self.extra | frozenset(extra), self.further, listing=self.listing)

    def inside(self, path: str) -> bool:
        """Whether a path belongs to the package or its dist-info."""
        return self._package.fullmatch(path) is not None

    def is_place(self, folder: str) -> bool:
        """Whether packages in a folder are kept: by its name, or because it was named."""
        return folder in self.places or folder.rpartition("/")[2] in ("site-packages", "dist-packages")

    def wants(self, path: str) -> bool:
        return (
            path.count("/") < _SKELETON_DEPTH
            or path in self.places
            or path in self.extra
            or self.inside(path)
            or self._lists(path)
            or self._distribution.fullmatch(path) is not None
            or self._import.fullmatch(path) is not None
        )

    def keeps_content(self, path: str, size: int) -> bool:
        if size > KEPT_BYTES:
            return False
        if path in self.extra or (self.inside(path) and not path.endswith(COMPILED)) or self._lists(path):
            return True
        return size <= _SMALL and path.endswith((".pth", "pyvenv.cfg"))

    def _lists(self, path: str) -> bool:
        return self.listing and self._listed.fullmatch(path) is not None

    def is_record(self, path: str, *, installed: bool = False) -> bool:
        """Whether a file is a distribution's RECORD; with `installed`, only where a Python may import from."""
        return path.endswith(".dist-info/RECORD") and (not installed or self._record.fullmatch(path) is not None)

    def is_listed(self, record: bytes) -> bool:
        """Whether a RECORD lists the package: a distribution may have any name (`flashinfer` is of `flashinfer-python`)."""
        return any(row in b"\n" + record for row in self._rows)

    def may_be_linked(self, path: str) -> bool:
        """Whether a file elsewhere looks like one of the package's, which may follow as a hard link to it."""
        return self._elsewhere.fullmatch(path) is not None
