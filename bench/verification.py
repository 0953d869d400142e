"""Verification of a published image on a base with over 1 GB of layers, against a warm build and a bare look at the manifest."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.measure import ROOT, Row, run
from bench.publication import large_base

_ROUNDS = 9
_LIMIT = 1.5
"""What a verification may cost, in warm builds."""


def verification() -> list[Row]:
    """`verify REF` with the image's own lock, each beside a warm `build --engine oci` and `skopeo inspect --raw`, in one run."""
    from tests.support.published import patched_project
    from tests.support.registry import registry, skopeo_copy

    with tempfile.TemporaryDirectory() as name, registry(Path(name) / "registry") as host:
        place = Path(name)
        skopeo_copy(f"oci:{large_base(place / 'layout')}:base", f"docker://{host}/vllm/base:v1")
        shutil.rmtree(place / "layout")
        project = patched_project(place / "project", f"{host}/vllm/base:v1")
        env = {"BUILDER_CACHE_DIR": str(place / "cache"), "PYTHONPATH": str(ROOT)}
        ours = (sys.executable, "-m", "builder")
        run(*ours, "publish", "small", "--to", f"{host}/team/x", "--tag", "latest", cwd=project, env=env)
        run(*ours, "build", "small", "--engine", "oci", cwd=project, env=env)
        reference = f"{host}/team/x:latest"
        commands = {
            "build": (*ours, "build", "small", "--engine", "oci"),
            "registry": (*ours, "verify", reference),
            "layout": (*ours, "verify", "oci:dist/small"),
            "quick": (*ours, "verify", reference, "--quick"),
            "skopeo": ("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"),
        }
        times = _interleaved(commands, project, env)
    build = median(times["build"])
    rows: list[Row] = []
    for label, what, limit in (
        ("verify, registry", "registry", f" (at most {_LIMIT} x)"),
        ("verify, layout", "layout", f" (at most {_LIMIT} x)"),
        ("verify --quick, registry", "quick", ""),
    ):
        ratio = median(ours / other for ours, other in zip(times[what], times["build"], strict=True))
        rows.append((label, f"{median(times[what]):.0f} ms", f"build, warm: {build:.0f} ms", f"{ratio:.2f} x{limit}"))
    peer = median(times["skopeo"])
    beside = f"skopeo inspect --raw: {peer:.0f} ms"
    rows.append(
        ("verify, registry", f"{median(times['registry']):.0f} ms", beside, f"{median(times['registry']) / peer:.0f} x")
    )
    return rows


def _interleaved(commands: dict[str, tuple[str, ...]], folder: Path, env: dict[str, str]) -> dict[str, list[float]]:
    """Milliseconds of each command in each round: one after another, so that a busy machine is busy for all of them."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(_ROUNDS):
        for name, argv in commands.items():
            begun = time.perf_counter()
            run(*argv, cwd=folder, env=env)
            found[name].append((time.perf_counter() - begun) * 1000)
    return found
