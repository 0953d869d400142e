"""A stand-in for `vllm/vllm-openai:v0.20.0`: Debian with python3, the real wheel's Python files, and a `vllm` program.

Three layers, as an OCI layout: the root file system, the package with its RECORD and some bytecode, the program. Made
once per machine, outside the repository; the Debian part by mmdebstrap from the package mirror that apt uses.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.services import leave_out, require, require_root
from tests.support.wheels import folder, wheel

ROOT = "usr/local/lib/python3.11/dist-packages"
INFO = "vllm-0.20.0.dist-info"
_VERSION = "3"
STALE = f"{ROOT}/vllm/__pycache__/collect_env.cpython-311.pyc"


def debian() -> Path:
    """A Debian 12 root file system with python3, as a tar (about 70 MB)."""
    require("mmdebstrap")
    require_root()
    path = folder().parent / f"debian-{_VERSION}.tar"
    with (folder().parent / ".debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            temporary = path.with_suffix(".part.tar")
            done = subprocess.run(
                [
                    "mmdebstrap", "--variant=essential", "--include=python3-minimal,libpython3-stdlib,python3", "--quiet",
                    "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
                    "--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm", str(temporary),
                ],
                capture_output=True, text=True, check=False, timeout=280,
            )  # fmt: skip
            if done.returncode != 0:
                leave_out(f"needs a Debian root file system, which mmdebstrap could not make: {done.stderr[-300:]}")
            temporary.replace(path)
    return path


def tar_of(files: Mapping[str, bytes], *, executable: frozenset[str] = frozenset()) -> bytes:
    """A layer's tar of files with their folders, as `docker build` makes one."""
    buffer = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            parts = path.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                if parent not in made:
                    made.add(parent)
                    info = tarfile.TarInfo(parent)
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                    archive.addfile(info)
            info = tarfile.TarInfo(path)
            info.size, info.mtime = len(files[path]), 1_700_000_000
            info.mode = 0o755 if path in executable else 0o644
            archive.addfile(info, io.BytesIO(files[path]))
    return buffer.getvalue()


def package_files() -> dict[str, bytes]:
    """The real wheel's Python files and dist-info, and one stale bytecode file, by path from `/`."""
    with zipfile.ZipFile(wheel("0.20.0")) as archive:
        names = [
            n for n in archive.namelist() if (n.endswith(".py") and n.startswith("vllm/")) or n.startswith(f"{INFO}/")
        ]
        files = {f"{ROOT}/{name}": archive.read(name) for name in names}
    files[STALE] = b"stale bytecode"
    return files


def write_layout(
    path: Path, layers: list[bytes], *, compress: str = "gzip", config: Mapping[str, object] | None = None
) -> Path:
    """An OCI layout with one image of these layers (tars, bottom first)."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return f"sha256:{digest}", len(data)

    descriptors, diff_ids = [], []
    for data in layers:
        diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        if compress == "zstd":
            import zstandard

            digest, size = put(zstandard.compress(data, 1))
        else:
            digest, size = put(gzip.compress(data, 1, mtime=0) if compress == "gzip" else data)
        suffix = f"+{compress}" if compress else ""
        descriptors.append(
            {"mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}", "digest": digest, "size": size}
        )
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-04-20T10:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Entrypoint": ["vllm", "serve"],
            "WorkingDir": "/vllm-workspace",
            **(config or {}),
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"layer {n}"} for n in range(len(layers))],
    }
    digest, size = put(json.dumps(document).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
        "layers": descriptors,
    }
    digest, size = put(json.dumps(manifest).encode())
    entry = {
        "mediaType": manifest["mediaType"],
        "digest": digest,
        "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "base"},
    }
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def standin_base() -> Path:
    """The stand-in base as an OCI layout that runs."""
    program = Path(__file__).with_name("standin_vllm.py").read_bytes()
    key = hashlib.sha256(program + b"2" + _VERSION.encode()).hexdigest()[:12]
    path = folder().parent / f"standin-{key}"
    root = debian()
    with (folder().parent / ".standin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            temporary = path.with_suffix(".part")
            shutil.rmtree(temporary, ignore_errors=True)
            layers = [
                root.read_bytes(),
                tar_of(package_files()),
                tar_of(
                    {"usr/local/bin/vllm": program, "usr/bin/nvidia-smi": program, "vllm-workspace/.keep": b""},
                    executable=frozenset({"usr/local/bin/vllm", "usr/bin/nvidia-smi"}),
                ),
            ]
            write_layout(temporary, layers)
            temporary.rename(path)
    return path
