"""A real base image without a GPU, as an OCI layout: Debian with Python, vLLM for CPUs and torch, a `vllm` program.

Package folders and entrypoint are those of the official image. Made once per machine; no Docker is needed.
"""

from __future__ import annotations

import base64
import csv
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from builder.util.errors import MismatchError, UnreachableError
from builder.util.files import file_sha256
from tests.support.engine.packages import KEPT, Release, Say, cache, require_disk, site_packages
from tests.support.engine.server import ENVIRONMENT, PROGRAM

ROOT = "usr/local/lib/python3.11/dist-packages"
_FORMAT, _DEBIAN_FORMAT = "2", "1"
# Debian's packages have no hashes to pin that a mirror keeps: the root file system as it was when this was written.
_DEBIAN_SHA256 = "e592cf443f4a10360e534d0362125e3daaafc634679d949d19ef400dc5179699"
_EPOCH = 1_700_000_000
# Without bytecode a start takes three times as long; what one container compiles, the next one finds in its cache.
_BYTECODE = "PYTHONPYCACHEPREFIX=/cache/python"
_DISK_BYTES = 6_000_000_000
# What Python, torch and vLLM's own library are linked with.
_DEBIAN = ("python3", "libgomp1", "libnuma1", "libstdc++6")


def has_userland() -> bool:
    """Whether this machine can make a Debian root file system."""
    return shutil.which("mmdebstrap") is not None


def debian(say: Say) -> Path:
    """A Debian 12 root file system as a tar of about 170 MB. Raises `UnreachableError` when mmdebstrap cannot make it.

    Equal bytes for equal packages: a point release of Debian is another image.
    """
    path = cache() / f"debian-{_DEBIAN_FORMAT}.tar"
    if not path.is_file():
        say("Debian 12 with Python: about 40 MB to download")
        temporary = path.with_suffix(".part.tar")
        command = [
            "mmdebstrap", "--variant=essential", f"--include={','.join(_DEBIAN)}", "--quiet",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")), "bookworm", str(temporary),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH)}
        )
        if done.returncode != 0:
            raise UnreachableError(
                "mmdebstrap could not make a Debian root file system", details=[("why", done.stderr.strip()[-400:])]
            )
        if file_sha256(temporary) != _DEBIAN_SHA256:
            say("Debian's packages have moved since this was written: the image has another digest than elsewhere")
        temporary.replace(path)
    return path


def base_image(release: Release, say: Say = lambda _: None, *, userland: bool = True) -> Path:
    """The OCI layout of the release's base image; made when it is not there yet.

    Without `userland` it has the packages and the program only: files for a build, not for `docker run`.
    """
    site = site_packages(release, say)
    path = cache() / f"base-{release.version}-{release.key}-{_FORMAT}{'' if userland else '-files'}"
    with (cache() / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            require_disk(_DISK_BYTES // 2)
            root = debian(say) if userland else None
            say("writing the base image, 2.4 GB")
            temporary = path.with_suffix(".part")
            shutil.rmtree(temporary, ignore_errors=True)
            write_image(temporary, site, root)
            temporary.rename(path)
    return path


def write_image(path: Path, site: Path, root: Path | None) -> str:
    """Write the layout and return its manifest's digest. `root` is a root file system's tar."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers = []
    if root is not None:
        layers.append(_stored(blobs, lambda stream: shutil.copyfileobj(root.open("rb"), stream, 1 << 20)))
    layers.append(_stored(blobs, lambda stream: _packages(stream, site)))
    layers.append(_stored(blobs, _program))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
                *(f"{name}={value}" for name, value in ENVIRONMENT.items()), _BYTECODE,
            ],
            "Entrypoint": ["vllm", "serve"],
            "WorkingDir": "/vllm-workspace",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest, _ in layers]},
        "history": [{"created_by": "overlay-image-builder: the engine without a GPU"} for _ in layers],
    }  # fmt: skip
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _descriptor(f"{kind}.config.v1+json", *_json(blobs, config)),
        "layers": [_descriptor(f"{kind}.layer.v1.tar", *layer) for layer in layers],
    }
    digest, size = _json(blobs, manifest)
    entry = _descriptor(f"{kind}.manifest.v1+json", digest, size)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"sha256:{digest}"


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _json(blobs: Path, document: object) -> tuple[str, int]:
    data = json.dumps(document, sort_keys=True).encode()
    return _stored(blobs, lambda stream: stream.write(data))


class _Hashed:
    """A file that knows its SHA-256 while it is written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self.size


def _stored(blobs: Path, write: Callable[[Any], object]) -> tuple[str, int]:
    """(SHA-256, size) of a blob that `write` writes."""
    temporary = blobs / "part"
    with temporary.open("wb") as stream:
        hashed = _Hashed(stream)
        write(hashed)
    temporary.rename(blobs / hashed.digest.hexdigest())
    return hashed.digest.hexdigest(), hashed.size


def _packages(stream: Any, site: Path) -> None:
    """A layer with the packages, without the folders above them, which Debian's python3 has.

    Bytecode is left out: what the tests leave in `site` differs from run to run. Raises `MismatchError` when another file
    is not what its wheel's RECORD says.
    """
    wanted = _recorded(site)
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as archive:
        for name, found in _walk(site, ""):
            kept = site / KEPT / name
            path = kept if kept.is_file() else found
            info = _entry(f"{ROOT}/{name}", None if path.is_dir() else path.stat().st_size)
            if info.isdir():
                archive.addfile(info)
                continue
            if name in wanted and file_sha256(path) != wanted[name]:
                raise MismatchError(
                    f"{name} is not as it was unpacked",
                    details=[("where", str(site))],
                    hint=f"remove the folder: rm -r {site}",
                )
            with path.open("rb") as file:
                archive.addfile(info, file)


def _recorded(site: Path) -> dict[str, str]:
    """The SHA-256 of each file that a RECORD has one for."""
    found: dict[str, str] = {}
    for record in sorted(site.glob("*.dist-info/RECORD")):
        with record.open(newline="", encoding="utf-8") as stream:
            for name, digest, *_ in csv.reader(stream):
                if digest.startswith("sha256="):
                    code = digest.removeprefix("sha256=")
                    found[name] = base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)).hex()
    return found


def _walk(folder: Path, above: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.name not in ("__pycache__", KEPT):
            name = f"{above}{path.name}"
            yield name, path
            if path.is_dir():
                yield from _walk(path, f"{name}/")


def _program(stream: Any) -> None:
    """A layer with `vllm`, and the folder that the image works in."""
    data = PROGRAM.format(python="/usr/bin/python3").encode()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        info = _entry("usr/local/bin/vllm", len(data))
        info.mode = 0o755
        archive.addfile(info, BytesIO(data))
        archive.addfile(_entry("vllm-workspace", None))


def _entry(name: str, size: int | None) -> tarfile.TarInfo:
    """A file of `size` bytes, or a folder."""
    info = tarfile.TarInfo(name)
    info.mtime = _EPOCH
    if size is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = size, 0o644
    return info
