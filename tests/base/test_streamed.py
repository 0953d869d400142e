"""Locked files out of a base's layers as they arrive: no more of them is read than the last file needs."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.base.model import Base, BaseImage
from builder.base.open import open_base
from builder.base.streamed import LockedLayers
from builder.documents.reference import BaseReference, Platform
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, MismatchError
from builder.util.files import cache_dir
from tests.support.standin import write_layout

ROOT = "usr/lib/python3/dist-packages"
# Noise that a gzip stream cannot make smaller, so that a layer has many chunks.
NOISE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(60_000))


def tar(members: Mapping[str, bytes | str]) -> bytes:
    """Files by path, in this order; text is the target of a hard link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.LNKTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


class Watched:
    """A base that notes how many bytes of each layer are taken."""

    def __init__(self, base: Base, damaged: bytes = b"") -> None:
        self._base = base
        self.damaged = damaged
        self.taken: dict[str, int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._base, name)

    @contextmanager
    def blob(self, image: BaseImage, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        def counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in chunks:
                for start in range(0, len(chunk), 1 << 14):
                    piece = chunk[start : start + (1 << 14)]
                    self.taken[descriptor.digest] = self.taken.get(descriptor.digest, 0) + len(piece)
                    yield piece

        with self._base.blob(image, descriptor) as chunks:
            yield counted(iter([self.damaged]) if self.damaged else chunks)


def layers(folder: Path, *contents: Mapping[str, bytes | str]) -> tuple[LockedLayers, Watched]:
    """The layers of an image, the lowest first."""
    write_layout(folder, [tar(each) for each in contents])
    base = Watched(open_base(BaseReference.parse(f"oci:{folder}"), root=folder, context=Context()))
    image = base._base.image(Platform.parse("linux/amd64"))
    return LockedLayers(base, image, Context()), base  # type: ignore[arg-type]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_reading_ends_with_the_last_file(tmp_path: Path) -> None:
    found, base = layers(
        tmp_path / "l",
        {"bottom": NOISE},
        {f"{ROOT}/x/a.py": b"a", f"{ROOT}/x/b.py": b"b", "noise": NOISE},
        {"top": b"top"},
    )
    assert found.read({"x/a.py": digest(b"a"), "x/b.py": digest(b"b")}) == {"x/a.py": b"a", "x/b.py": b"b"}
    top, package, bottom = found.layers
    assert base.taken[top.digest] == top.size
    assert base.taken[package.digest] < package.size // 4
    assert bottom.digest not in base.taken
    # Nothing is kept of a layer that was not read whole.
    assert not list(cache_dir("layers").iterdir())


def test_a_file_is_taken_by_its_content_alone(tmp_path: Path) -> None:
    """A newer file of the same name in a layer above is not it; one that a hard link names is, under its other name."""
    found, _ = layers(
        tmp_path / "l",
        {f"{ROOT}/x/a.py": b"locked"},
        {"root/.cache/uv/archive/b.py": b"linked", f"{ROOT}/x/b.py": "root/.cache/uv/archive/b.py"},
        {f"{ROOT}/x/a.py": b"newer"},
    )
    wanted = {"x/a.py": digest(b"locked"), "x/b.py": digest(b"linked"), "x/c.py": digest(b"nowhere")}
    assert found.read(wanted) == {"x/a.py": b"locked", "x/b.py": b"linked"}


def test_a_layer_that_passes_whole_must_be_the_one_that_is_named(tmp_path: Path) -> None:
    found, base = layers(tmp_path / "l", {"a.py": b"a"})
    base.damaged = tar({"other.py": b"b"})
    with pytest.raises(MismatchError):
        found.read({"a.py": digest(b"a")})


def test_a_damaged_layer_is_refused(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", [b"\x1f\x8b" + NOISE[:5000]], compress="")
    base = open_base(BaseReference.parse(f"oci:{tmp_path / 'l'}"), root=tmp_path, context=Context())
    image = base.image(Platform.parse("linux/amd64"))
    with pytest.raises(InputError, match="cannot be unpacked") as caught:
        LockedLayers(base, image, Context()).read({"a.py": digest(b"a")})
    assert isinstance(caught.value, BuilderError)


def test_what_a_layer_costs(tmp_path: Path) -> None:
    """Down to the first layer that can hold the package; nothing when an index of one is kept."""
    found, _ = layers(tmp_path / "l", {"bottom": NOISE}, {"package": NOISE}, {"top": b"top"})
    top, package, bottom = found.layers
    assert found.cost(package.size) == top.size + package.size
    assert found.cost(10 * package.size) == top.size + package.size + bottom.size
    assert not found.kept
    (cache_dir("layers") / f"{package.digest[7:]}-key.zip").write_bytes(b"")
    assert found.kept
    assert found.cost(package.size) == 0
