"""Publication on a base with over 1 GB of layers: against docker build and push, against buildah, and against bare HTTP."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from bench.measure import ROOT, Row, Used, median_ms, run, used

# Four layers of 280 MB that no compressor makes smaller.
LAYERS = 4
LAYER_BYTES = 280_000_000


def _large_base(folder: Path) -> Path:
    from tests.support.published import ROOT as PACKAGES
    from tests.support.smallwheel import FILES
    from tests.support.standin import standin_base, tar_of, write_layout

    userland = _userland(standin_base())
    files = {f"{PACKAGES}/{path}": data for path, data in FILES.items()}
    files |= {f"{PACKAGES}/vllm-0.0.1.dist-info/RECORD": "".join(f"{path},,\n" for path in FILES).encode()}
    noise = [tar_of({f"opt/noise/{number}": os.urandom(LAYER_BYTES)}) for number in range(LAYERS)]
    return write_layout(folder, [userland, *noise, tar_of(files)], compress="")


def _userland(layout: Path) -> bytes:
    """The stand-in base's bottom layer, uncompressed: something with a shell, for docker and buildah."""
    import gzip
    import json

    index = json.loads((layout / "index.json").read_bytes())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    data = (blobs / manifest["layers"][0]["digest"][7:]).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _row(label: str, ours: Used, peer: str, other: Used) -> Row:
    return (
        label,
        f"{ours.seconds:.2f} s, {ours.moved / 1e6:.2f} MB",
        f"{peer}: {other.seconds:.1f} s, {other.moved / 1e6:.0f} MB",
        f"{ours.seconds / other.seconds:.3f} x time, {100 * ours.moved / other.moved:.2f} % bytes",
    )


def publication() -> list[Row]:
    """Cold and warm publication beside docker and buildah, memory while streaming, and the share of bare HTTP."""
    from tests.support.dockerd import engine
    from tests.support.published import patched_project
    from tests.support.registry import registry, skopeo_copy

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, registry(Path(name) / "registry") as host:
        place = Path(name)
        skopeo_copy(f"oci:{_large_base(place / 'layout')}:base", f"docker://{host}/vllm/base:v1")
        shutil.rmtree(place / "layout")
        project = patched_project(place / "project", f"{host}/vllm/base:v1")
        env = {"BUILDER_CACHE_DIR": str(place / "cache"), "PYTHONPATH": str(ROOT)}
        ours = (sys.executable, "-m", "builder")
        run(*ours, "lock", "small", cwd=project, env=env)
        run(*ours, "render", "small", "--output", str(place / "context"), cwd=project, env=env)
        shutil.rmtree(place / "cache")
        cold = used(*ours, "publish", "small", "--to", f"{host}/team/cold", cwd=project, env=env)
        with engine() as daemon:
            rows.append(_row("publish, cold", cold, "docker build and push", _docker(place, daemon, host)))
        rows.append(_row("publish, cold", cold, "buildah build and push", _buildah(place, host)))
        profile = project / "profiles/tiny.yaml"
        profile.write_text(profile.read_text().replace("16", "32"))
        run(*ours, "lock", "small", cwd=project, env=env)
        warm = used(*ours, "publish", "small", "--to", f"{host}/team/cold", cwd=project, env=env)
        rows.append(("publish, warm, one change", f"{warm.seconds:.2f} s, {warm.moved / 1e6:.2f} MB", "", ""))
        rows.append(_bare_http(project, host, env["BUILDER_CACHE_DIR"]))
        with registry(place / "other") as elsewhere:
            copy = used(*ours, "publish", "small", "--to", f"{elsewhere}/team/copy", cwd=project, env=env)
        rows.append(
            (
                f"publish to another registry, {LAYERS * LAYER_BYTES / 1e9:.2f} GB streamed",
                f"{copy.seconds:.1f} s",
                f"peak memory {copy.peak / 1e6:.0f} MB",
                "",
            )
        )
    return rows


def _docker(place: Path, daemon: str, host: str) -> Used:
    script = f"docker build -q -t {host}/team/docker:x {place}/context && docker push -q {host}/team/docker:x"
    env = {"DOCKER_HOST": daemon, "DOCKER_BUILDKIT": "1", "PATH": f"/usr/bin:{os.environ['PATH']}"}
    return used("sh", "-c", script, env=env)


def _buildah(place: Path, host: str) -> Used:
    program = f"buildah --storage-driver vfs --root {place}/b --runroot {place}/r"
    script = (
        f"{program} build --tls-verify=false --isolation chroot -q -t x {place}/context && "
        f"{program} push --tls-verify=false -q x docker://{host}/team/buildah:x"
    )
    found = used("sh", "-c", script)
    shutil.rmtree(place / "b", ignore_errors=True)
    return found


def _bare_http(project: Path, host: str, cache: str) -> Row:
    """A publication in this process, and the same requests without anything around them, in one run."""
    from builder.oci.registry.client import Registry
    from builder.release.publish import Wishes, publish
    from tests.support.published import QUIET, prepared, retarget

    os.environ["BUILDER_CACHE_DIR"] = cache
    image = prepared(project, to=f"{host}/team/first")
    calls: list[tuple[str, str, bytes | None, Any]] = []
    original = Registry.send

    def recording(self: Registry, method: str, url: str, scopes: Any, **options: Any) -> Any:
        calls.append((method, url, options.get("data"), options.get("headers")))
        return original(self, method, url, scopes, **options)

    Registry.send = recording  # type: ignore[method-assign]
    publish(retarget(image, f"{host}/team/record"), Wishes(), context=QUIET)
    Registry.send = original  # type: ignore[method-assign]
    number = iter(range(1000))

    def replay() -> None:
        target = f"team/replay{next(number)}"
        session = requests.Session()
        location = ""
        for method, url, data, headers in calls:
            where = url.replace("team/record", target)
            if "/uploads/" in url and "?" in url and method == "PUT":
                found = re.search(r"digest=(sha256:[0-9a-f]{64})", url)
                assert found is not None
                where = f"{location}{'&' if '?' in location else '?'}digest={found[1]}"
            answer = session.request(method, where, data=data, headers=headers, timeout=30)
            location = urljoin(answer.url, answer.headers.get("Location", location))

    def ours() -> None:
        publish(retarget(image, f"{host}/team/ours{next(number)}"), Wishes(), context=QUIET)

    begun = time.perf_counter()
    first = median_ms(ours, times=7)
    second = median_ms(replay, times=7)
    return (
        "the publication's own time",
        f"{first:.0f} ms",
        f"its {len(calls)} requests alone: {second:.0f} ms",
        f"{first / second:.2f} x ({time.perf_counter() - begun:.0f} s measured)",
    )
