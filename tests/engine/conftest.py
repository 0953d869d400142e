"""The real engine, started once for each kind of server: what it said is kept, and all tests of a run look at that.

Two engines never run at the same time: they are started by one lock, and ended before their answers are looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.documents.lock import read_lock
from builder.serve.container import cache_name, local_platform
from builder.util.errors import BuilderError
from tests.support.cli import builder
from tests.support.engine.base import base_image
from tests.support.engine.model import fp8_source, hybrid_checkpoint, tiny_model
from tests.support.engine.observe import Observation, observe
from tests.support.engine.packages import NEW, OLD, Release, site_packages
from tests.support.engine.project import DEMO, make_project, own_layer
from tests.support.engine.rootfs import command, unpacked
from tests.support.engine.server import FLAGS, environment, interpreter
from tests.support.registry import registry
from tests.support.services import STRICT, leave_out
from tests.support.signing import key_pair

HERE = Path(__file__).parents[2]
VOCABULARY = {
    "file": "overlays/fp8-vocab/fp8-vocab.diff",
    "requires": {
        "opt_ins": ["lm_head", "embed_tokens", "embeddings"],
        "tensors": {
            f"{name}.weight_scale_inv": {"dtype": "BF16", "shape": [8, 2]} for name in ("lm_head", "model.embed_tokens")
        },
    },
}
Probe = Callable[[list[dict[str, Any]], list[Path]], list[dict[str, Any]]]


def packages(release: Release) -> Path:
    """The release's packages; the test is left out where they are not, unless the real parts are required."""
    if not release.site.is_dir() and not STRICT:
        leave_out(f"needs vLLM {release.version} for CPUs, {release.download_bytes() / 1e6:,.0f} MB: `make demo-serve` or BUILDER_REQUIRE_SERVICES=1")  # fmt: skip
    try:
        return site_packages(release)
    except BuilderError as error:
        leave_out(f"{error.message}: {error.hint}")


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="session")
def tiny() -> Path:
    packages(OLD)
    return tiny_model()


@pytest.fixture(scope="session")
def models(room: Path, tiny: Path) -> dict[str, Path]:
    """The tiny model and its twins by name, those in FP8 made by `builder checkpoint quantize`."""
    found = {"bf16": tiny, "source": fp8_source(room / "source", tiny), "hybrid": hybrid_checkpoint(room / "hybrid", tiny, tables=False)}  # fmt: skip
    found["hybrid-source"] = hybrid_checkpoint(room / "hybrid-source", tiny)
    for name, source, more in (
        ("fp8", "source", []),
        ("hybrid-fp8", "hybrid-source", []),
        ("hybrid-embed", "hybrid-source", ["--tensor", "model.embed_tokens.weight"]),
    ):
        done = builder("checkpoint", "quantize", str(found[source]), str(room / name), *more, cwd=room)
        assert done.code == 0, done.err
        found[name] = room / name
    return found


def edited(source: Path, target: Path, **quantization: Any) -> Path:
    """A copy of a checkpoint with other values in its quantization_config; None takes a key out."""
    shutil.copytree(source, target)
    path = target / "config.json"
    config = json.loads(path.read_text())
    for name, value in quantization.items():
        if value is None:
            del config["quantization_config"][name]
        else:
            config["quantization_config"][name] = value
    path.unlink()
    path.write_text(json.dumps(config))
    return target


@pytest.fixture(scope="session")
def project(room: Path, models: dict[str, Path]) -> Path:
    """A project whose image has the demo's overlays and the FP8 vocabulary's, and serves the FP8 checkpoint."""
    try:
        base = base_image(OLD)
    except BuilderError as error:
        leave_out(f"{error.message}: {error.hint}")
    made = make_project(room / "project", base=base, model=models["fp8"], name="engine", overlays=[*DEMO, VOCABULARY])
    done = builder("build", "engine", "--engine", "oci", "--output", "oci:dist/engine", "--json", cwd=made)
    assert done.code == 0, done.err
    return made


@dataclass
class Docker:
    """The tests' own daemon; the image in it, pulled by its digest from a registry; and the key that has signed its evidence."""

    address: str
    image: str
    key: Path

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "-H", self.address, *words], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0 or not check, done.stderr
        return done


@pytest.fixture(scope="session")
def docker(room: Path, project: Path, docker_engine: str) -> Iterator[Docker]:
    """The image is published with signed evidence, and pulled. The registry holds 2.4 GB until the end."""
    private, public = key_pair(room / "team")
    (project / "gates").mkdir()
    shutil.copyfile(public, project / "gates/team.pub")
    try:
        with registry(room / "registry") as host:
            words = ("publish", "engine", "--to", f"{host}/team/engine", "--sign", "--key", str(private), "--json")
            done = builder(*words, cwd=project)
            assert done.code == 0, done.err
            made = Docker(docker_engine, done.document["reference"], private)
            made.run("pull", "--quiet", made.image)
            yield made
    finally:
        shutil.rmtree(room / "registry", ignore_errors=True)


@pytest.fixture(scope="session")
def cache(room: Path, project: Path) -> Path:
    """What `run`, `smoke` and `gate` mount at /cache for the user 1000 when BUILDER_CACHE_DIR is two folders up: all containers' one."""
    lock = read_lock(project / "images/engine.lock.yaml")
    path = room / "cache/serving" / f"{cache_name(lock, local_platform(lock))}-1000"
    path.mkdir(parents=True)
    os.chown(path, 1000, 1000)
    return path


@pytest.fixture(scope="session")
def image(room: Path, project: Path) -> Path:
    """The image, unpacked: its entrypoint."""
    return unpacked(packages(OLD), own_layer(project / "dist/engine"), room / "root")


@pytest.fixture(scope="session")
def root(image: Path) -> Path:
    """The package folder of the unpacked image."""
    return image.parents[2] / "usr/local/lib/python3.11/dist-packages"


@pytest.fixture(scope="session")
def new_packages(room: Path) -> Path:
    """vLLM of the newer release, with the overlay's diff for it."""
    target = room / "new"
    shutil.copytree(packages(NEW), target, copy_function=os.link)
    diff = HERE / "overlays/fp8-vocab/fp8-vocab-0.32.diff"
    words = ["patch", "--forward", "--batch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--input", str(diff)]
    done = subprocess.run(words, cwd=target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="session")
def bf16_server(room: Path, image: Path, root: Path, models: dict[str, Path]) -> Observation:
    """vLLM 0.20.0 with all overlays, by its own program: the BF16 checkpoint under the overlay."""
    work = room / "bf16-work"
    env = environment([root], work)
    return observe([str(work / "bin/vllm"), "serve", str(models["bf16"]), *FLAGS], env, room / "bf16.log", cwd=room)


@pytest.fixture(scope="session")
def fp8_server(room: Path, image: Path, root: Path, models: dict[str, Path]) -> Observation:
    """The same with the FP8 checkpoint, by the image's entrypoint and the profile smoke-cpu."""
    env = environment([root], room / "fp8-work") | {"BUILDER_MODEL": str(models["fp8"])}
    return observe(command(image, "smoke-cpu"), env, room / "fp8.log", cwd=room)


@pytest.fixture(scope="session")
def new_server(room: Path, new_packages: Path, models: dict[str, Path]) -> Observation:
    """The newer release with the overlay's diff for it, and the FP8 checkpoint."""
    work = room / "new-work"
    env = environment([new_packages], work)
    return observe([str(work / "bin/vllm"), "serve", str(models["fp8"]), *FLAGS], env, room / "new.log", cwd=room)


@pytest.fixture(scope="session")
def probe(room: Path, tiny: Path) -> Probe:
    """Ask the engine in one process, with these folders of packages: see tests/support/engine/probe.py."""

    def ask(cases: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
        where = room / f"cases-{len(list(room.glob('cases-*')))}.json"
        where.write_text(json.dumps(cases))
        words = [interpreter(), "-S", str(HERE / "tests/support/engine/probe.py"), str(where)]
        env = environment(folders, room / "probe-work")
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=290, cwd=room)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert len(lines) == len(cases), done.stdout[-2000:] + done.stderr[-2000:]
        results: list[dict[str, Any]] = [json.loads(line.removeprefix("RESULT ")) for line in lines]
        for result in results:
            result["log"] = done.stdout + done.stderr
        return results

    return ask
