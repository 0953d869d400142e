"""The real vLLM wheels, cached outside the repository and checked by digest."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path

from builder.base.wheel import WheelTree, choose_wheel
from builder.documents.reference import Platform
from builder.util.errors import UnreachableError
from builder.util.files import file_sha256, sha256
from tests.support.services import leave_out

# As PyPI lists them; file names differ in the build tag.
WHEELS = {
    "0.20.0": ("vllm-0.20.0-cp38-abi3-manylinux_2_35_x86_64.whl", "24d28892e210200f6e1bd13f699c42a74cd2bb7364c11248e2348f677c7f6dfb"),
    "0.20.1": ("vllm-0.20.1-1-cp38-abi3-manylinux_2_35_x86_64.whl", "11907857c94c226caf82ada92ab09b1e0dbf538b5b80a93aed74be29e861020c"),
    "0.20.2": ("vllm-0.20.2-cp38-abi3-manylinux_2_35_x86_64.whl", "22a7dd06eb03371298e13d6100f3dedbf307352342aaf08e87c929c60aae9b4d"),
}  # fmt: skip


def folder() -> Path:
    """The cache of the tests, kept between runs: not the builder's own, which tests point elsewhere."""
    root = Path(os.environ.get("BUILDER_TEST_CACHE") or Path.home() / ".cache" / "overlay-image-builder")
    path = root / "wheels"
    path.mkdir(parents=True, exist_ok=True)
    return path


def plain_wheel(requirement: str, name: str, digest: str) -> Path:
    """A pure Python wheel, downloaded once per machine by pip and checked by its digest."""
    path = folder() / name
    with (folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _verified(path, digest):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            done = subprocess.run(
                [*command, "--dest", str(folder()), requirement], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                leave_out(f"needs {requirement}, which pip could not download: {done.stderr.strip()[-300:]}")
            if not _verified(path, digest):
                raise AssertionError(f"{path.name} does not have the digest that is pinned")
    return path


def wheel(version: str) -> Path:
    """The path of the vLLM wheel of `version`, downloaded once per machine by pip."""
    name, digest = WHEELS[version]
    path = folder() / name
    with (folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path.is_file() and _verified(path, digest)):
            command = [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                "--python-version", "3.12", "--implementation", "cp", "--abi", "abi3",
                "--platform", "manylinux_2_31_x86_64", "--platform", "manylinux_2_35_x86_64",
                "--dest", str(folder()), f"vllm=={version}",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                leave_out(f"needs the vLLM {version} wheel, which pip could not download: {done.stderr.strip()[-300:]}")
            if not _verified(path, digest):
                raise AssertionError(f"{path.name} does not have the digest that is pinned in {__name__}")
    return path


def _verified(path: Path, digest: str) -> bool:
    """Check a wheel's digest once; a stamp with its size and mtime spares the 244 MB read afterwards."""
    if not path.is_file():
        return False
    stat = path.stat()
    stamp = path.with_suffix(".verified")
    text = f"{digest} {stat.st_size} {stat.st_mtime_ns}"
    if stamp.is_file() and stamp.read_text() == text:
        return True
    if file_sha256(path) != digest:
        return False
    stamp.write_text(text)
    return True


def python_files(version: str) -> dict[str, bytes]:
    """All `vllm/**/*.py` of a wheel, by path (1,723 files for 0.20.0)."""
    with zipfile.ZipFile(wheel(version)) as archive:
        names = [name for name in archive.namelist() if name.startswith("vllm/") and name.endswith(".py")]
        return {name: archive.read(name) for name in names}


# A release of which only some files are needed: read by range, and kept.
RANGED = {
    "0.21.0": ("vllm-0.21.0-1-cp38-abi3-manylinux_2_24_x86_64.whl", "f4a75b1391f44c67dc1ca268f5ffed9f6b7fdbc657c93db64e6892c5d1bc320b"),
}  # fmt: skip


def some_files(version: str, paths: Collection[str]) -> dict[str, bytes]:
    """Those of `paths` that the release has; from the whole wheel when it is here, else by range, once per machine."""
    if version in WHEELS:
        with zipfile.ZipFile(wheel(version)) as archive:
            return {name: archive.read(name) for name in sorted(set(paths) & set(archive.namelist()))}
    name, digest = RANGED[version]
    key = sha256("\n".join(sorted(paths)).encode())[:12]
    kept = folder() / f"some-{version}-{key}.zip"
    with (folder() / ".some.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_file():
            try:
                link = choose_wheel("vllm", version, Platform.parse("linux/amd64"))
                assert (link.filename, link.sha256) == (name, digest)
                found = WheelTree(link, "vllm").read(sorted(paths))
            except UnreachableError as error:
                leave_out(f"needs files of the vLLM {version} wheel: {error.message}")
            temporary = kept.with_suffix(".tmp")
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for path, entry in found.items():
                    archive.writestr(path, entry.data)
            temporary.replace(kept)
    with zipfile.ZipFile(kept) as archive:
        return {path: archive.read(path) for path in archive.namelist()}
