"""Where publication and verification are measured: a base like the real image, in a registry behind a proxy that counts.

Its layers: a userland with a shell and python3; four of noise, 1.12 GB, that no compressor makes smaller; the whole vLLM
wheel with its native libraries, some 260 MB as gzip; and a small one on top. It is made once for a machine.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import OURS, run
from bench.proxy import Counter, counting

LAYERS = 4
LAYER_BYTES = 280_000_000
_VERSION = "1"
VLLM = "usr/local/lib/python3.12/dist-packages"


@dataclass(frozen=True)
class Place:
    """A locked project on the base, and the registry that has it. `host` is the proxy's address."""

    folder: Path
    host: str
    wire: Counter
    project: Path
    env: dict[str, str]

    def forget(self) -> None:
        """Empty the caches: the next command is a machine's first one."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)


def _userland() -> bytes:
    """The stand-in base's bottom layer, uncompressed: something with a shell, for docker and buildah."""
    from tests.support.standin import standin_base

    layout = standin_base()
    index = json.loads((layout / "index.json").read_bytes())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    data = (blobs / manifest["layers"][0]["digest"][7:]).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _whole_wheel() -> bytes:
    """Every member of the vLLM wheel where the image has it, as a tar."""
    from tests.support.wheels import wheel

    made = io.BytesIO()
    with zipfile.ZipFile(wheel("0.20.0")) as archive, tarfile.open(fileobj=made, mode="w") as layer:
        for name in sorted(archive.namelist()):
            if not name.endswith("/"):
                entry = tarfile.TarInfo(f"{VLLM}/{name}")
                data = archive.read(name)
                entry.size, entry.mtime = len(data), 1_700_000_000
                layer.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def real_base() -> Path:
    """The base as an OCI layout, kept between runs (1.5 GB)."""
    from tests.support.standin import tar_of, write_layout
    from tests.support.wheels import folder

    path = folder().parent / f"bench-base-{_VERSION}"
    with (folder().parent / ".bench-base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            temporary = path.with_suffix(".part")
            shutil.rmtree(temporary, ignore_errors=True)
            noise = [tar_of({f"opt/noise/{number}": os.urandom(LAYER_BYTES)}) for number in range(LAYERS)]
            top = tar_of({"vllm-workspace/.keep": b""})
            layers = [gzip.compress(each, 1, mtime=0) for each in (_userland(), *noise, _whole_wheel(), top)]
            write_layout(temporary, layers, compress="")
            _as_gzip(temporary)
            temporary.rename(path)
    return path


def _as_gzip(layout: Path) -> None:
    """Name the layers what they are; their diff IDs are those of the tars inside."""
    import hashlib

    blobs = layout / "blobs/sha256"

    def put(document: object) -> tuple[str, int]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return f"sha256:{digest}", len(data)

    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    for number, each in enumerate(manifest["layers"]):
        each["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
        inner = hashlib.sha256()
        with gzip.open(blobs / each["digest"][7:]) as stream:
            while piece := stream.read(1 << 20):
                inner.update(piece)
        config["rootfs"]["diff_ids"][number] = f"sha256:{inner.hexdigest()}"
    manifest["config"]["digest"], manifest["config"]["size"] = put(config)
    index["manifests"][0]["digest"], index["manifests"][0]["size"] = put(manifest)
    (layout / "index.json").write_text(json.dumps(index))


@contextmanager
def published() -> Iterator[Place]:
    """The base in a registry, and a locked project with one changed file of vLLM on it."""
    from tests.support.registry import registry, skopeo_copy
    from tests.support.smallwheel import make_project
    from tests.support.trees import git_diff
    from tests.support.wheels import some_files

    path = "vllm/collect_env.py"
    before = some_files("0.20.0", [path])
    after = {path: before[path].replace(b"\nimport ", b"\nimport this\nimport ", 1)}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, registry(Path(name) / "registry") as direct:
        folder = Path(name)
        print("putting the base into a registry", file=sys.stderr, flush=True)
        skopeo_copy(f"oci:{real_base()}:base", f"docker://{direct}/vllm/base:v1")
        with counting(direct) as (host, wire):
            diff = git_diff(folder / "git", before, after)
            project = make_project(folder / "project", {"one.diff": diff}, base=f"{host}/vllm/base:v1")
            env = {"BUILDER_CACHE_DIR": str(folder / "cache")}
            print("locking", file=sys.stderr, flush=True)
            run(*OURS, "lock", "small", cwd=project, env=env)
            yield Place(folder, host, wire, project, env)
