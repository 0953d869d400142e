"""The published image with the real engine in a container: gated and promoted, `docker run`, and what else it can be asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from builder.documents.verdict import Verdict
from builder.oci.layout import REF_NAME, Layout
from builder.serve.container import free_port
from tests.engine.conftest import Docker
from tests.support.cli import builder
from tests.support.engine.server import healthy, serving
from tests.support.services import require, require_root

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

USER = "1000:1000"
GATES = Path(__file__).parents[2] / "gates"


@pytest.fixture(scope="session")
def container(docker: Docker, project: Path, cache: Path) -> Any:
    """One start for all tests: by another user, on a read-only root, with a flag of the caller's and one by environment."""
    port = free_port()
    words = [
        "run", "--detach", "--name", "real", "--network", "host", "--user", USER, "--read-only",
        "--tmpfs", "/tmp:rw,exec,mode=1777", "--security-opt", "no-new-privileges", "--shm-size", "1g",
        "--volume", f"{project / 'model'}:/model:ro", "--volume", f"{cache}:/cache", "--env", "HOME=/cache",
        "--env", "USER=vllm", "--env", "TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor",
        "--env", "BUILDER_EXTRA_ARGS=--served-model-name tiny", docker.image, "smoke-cpu", "--port", str(port),
        "--max-num-seqs", "4",
    ]  # fmt: skip
    docker.run(*words)
    yield port
    docker.run("rm", "--force", "real", check=False)


def test_the_suite_sample_from_the_gate_to_the_tag(docker: Docker, project: Path, cache: Path) -> None:
    """The suite as it ships: a run in the container, a signed verdict, a promotion, and the tag verified."""
    for path in GATES.glob("sample.*"):
        shutil.copyfile(path, project / "gates" / path.name)
    policy = {
        "name": "production", "suites": [{"name": "sample"}], "profile": "smoke-cpu", "gpu": "cpu",
        "signers": [{"key": "gates/team.pub"}], "max_age_days": 7,
    }  # fmt: skip
    (project / "gates/production.yaml").write_text(yaml.safe_dump(policy))
    key = str(docker.key)
    gate = builder(
        "gate", "run", "engine", "smoke-cpu", "--suite", "sample", "--image", docker.image, "--gpus", "none", "--gpu", "cpu",
        "--network", "host", "--user", USER, "--read-only", "--attest", docker.image, "--key", key, "--json",
        cwd=project, env={"DOCKER_HOST": docker.address, "BUILDER_CACHE_DIR": str(cache.parents[1])},
    )  # fmt: skip
    assert gate.code == 0, gate.out + gate.err
    (shown,) = gate.document["verdicts"]
    verdict = Verdict.parse(Path(shown["files"]["json"]).read_bytes())
    assert (verdict.result, verdict.image_digests) == ("PASSED", (docker.image.partition("@")[2],))
    assert (verdict.details.buckets["answered"], verdict.details.rows) == (38, 38)
    assert (verdict.details.vllm, verdict.details.max_model_len, verdict.gpu) == ("0.20.0", 2048, "cpu")
    # The tiny model knows the rows by heart: what is not right was not asked, read or counted well.
    fractions = {each.name: (each.numerator, each.denominator) for each in verdict.details.metrics}
    assert fractions == {
        "language": (38, 38), "topic": (38, 38), "urgent_recall": (8, 8), "urgent_precision": (8, 8), "false_alarm": (0, 30),
    }  # fmt: skip
    assert cache.is_dir() and any(cache.iterdir())
    promoted = builder(
        "promote", docker.image, "--to", "production", "--policy", "gates/production.yaml", "--key", key, cwd=project
    )
    assert promoted.code == 0, promoted.err
    name = docker.image.partition("@")[0]
    checked = builder("verify", f"{name}:production", "--signer", "gates/team.pub", "--json", cwd=project)
    assert checked.code == 0, checked.err
    assert checked.document["digest"] == docker.image.partition("@")[2]
    assert {(each["kind"], each["state"]) for each in checked.document["signed"]} == {
        (kind, "verified") for kind in ("provenance", "SBOM", "verdict", "promotion")
    }
    assert checked.document["verdicts"] == {"passed": 1, "warned": 0, "failed": 0, "unreadable": 0}


def test_it_serves_by_another_user_on_a_read_only_root(docker: Docker, container: int, project: Path) -> None:
    url = f"http://127.0.0.1:{container}"
    done = builder(
        "smoke", url, "smoke-cpu", "--container", "real", "--gpu", "cpu", "--limit", "600", "--json", cwd=project,
        env={"DOCKER_HOST": docker.address},
    )  # fmt: skip
    logs = docker.run("logs", "real")
    assert done.code == 0, done.err + (logs.stdout + logs.stderr)[-3000:]
    # The caller's flag wins over the profile's, and those of the environment are there too.
    assert requests.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"] == "tiny"
    assert requests.get(f"{url}/overlays", timeout=30).json()["overlays"] == [
        "overlays/demo/collect-env.diff", "overlays/demo/overlays-endpoint.diff", "overlays/fp8-vocab/fp8-vocab.diff",
    ]  # fmt: skip
    top = docker.run("exec", "real", "cat", "/proc/1/cmdline").stdout.split("\0")
    assert top[:5] == ["/usr/bin/python3", "/usr/local/bin/vllm", "serve", "/model", "--dtype"]
    assert top[top.index("--max-num-seqs") + 1] == "4"
    assert top.count("--max-num-seqs") == 1
    assert "1000" in docker.run("exec", "real", "cat", "/proc/1/status").stdout.partition("Uid:")[2].split("\n")[0]
    health = docker.run("exec", "real", "/opt/builder/serve", "health", "--port", str(container))
    assert "status 200" in health.stdout
    begun = time.monotonic()
    docker.run("stop", "--time", "60", "real")
    seconds = time.monotonic() - begun
    state = json.loads(docker.run("inspect", "real").stdout)[0]["State"]
    # Not killed: the engine ends by itself within the time that it takes without a container.
    assert state["ExitCode"] in (0, 143)
    assert seconds < 50


def test_looking_inside(docker: Docker, project: Path, cache: Path) -> None:
    def asked(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        mount = ("--volume", f"{cache}:/cache:ro")
        return docker.run("run", "--rm", "--network", "none", *mount, docker.image, *words, check=check)

    assert "files are as recorded" in asked("verify").stdout
    assert "* smoke-cpu" in asked("profiles").stdout
    assert "--max-model-len" in json.loads(asked("show", "smoke-cpu").stdout)["argv"]
    printed = asked("smoke-cpu", "--print", "--json").stdout
    assert json.loads(printed)[:3] == ["vllm", "serve", "/model"]
    # Anything else is the base's own entrypoint: the real parser refuses, not ours.
    passed_on = asked("Qwen/Nothing", "--no-such-flag", check=False)
    assert passed_on.returncode == 2
    assert "unrecognized arguments: --no-such-flag" in passed_on.stderr


def test_a_checkpoint_that_would_be_garbage_is_refused(docker: Docker, models: dict[str, Path]) -> None:
    done = docker.run(
        "run", "--rm", "--network", "none", "--volume", f"{models['source']}:/model:ro", docker.image, check=False
    )
    assert done.returncode == 4
    assert "is not one that this image can serve" in done.stderr


def test_under_podman(project: Path, cache: Path) -> None:
    """podman reads the OCI layout itself, without a daemon; what runs is the same entrypoint, and the same engine."""
    require("podman", "runc")
    require_root()
    # podman refuses long paths.
    folder = Path(tempfile.mkdtemp(prefix="pm", dir="/var/tmp"))
    words = [
        "podman", "--runtime", "/usr/sbin/runc", f"--root={folder}/s", f"--runroot={folder}/r",
        "--storage-driver=overlay", "--cgroup-manager=cgroupfs",
    ]  # fmt: skip
    limits = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=2000:2000"]
    tag = Layout(project / "dist/engine").resolve().annotations[REF_NAME]

    def podman(*rest: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*words, *rest], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0 or not check, done.stderr[-1500:]
        return done

    def asked(*rest: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return podman(
            "run", *limits, "--rm", "--network=none", f"--volume={cache}:/cache:ro", image, *rest, check=check
        )

    try:
        image = podman("pull", "--quiet", f"oci:{project / 'dist/engine'}:{tag}").stdout.strip()
        assert "files are as recorded" in asked("verify").stdout
        assert "--max-model-len" in json.loads(asked("show", "smoke-cpu").stdout)["argv"]
        assert json.loads(asked("smoke-cpu", "--print", "--json").stdout)[:3] == ["vllm", "serve", "/model"]
        passed_on = asked("Qwen/Nothing", "--no-such-flag", check=False)
        assert passed_on.returncode != 0
        assert "unrecognized arguments: --no-such-flag" in passed_on.stderr
        port = free_port()
        run = [
            *words, "run", *limits, "--name=real", "--network=host", "--shm-size=1g", f"--user={USER}", "--read-only",
            "--tmpfs=/tmp:rw,exec,mode=1777", "--security-opt=no-new-privileges", f"--volume={project / 'model'}:/model:ro",
            f"--volume={cache}:/cache", "--env=HOME=/cache", "--env=USER=vllm", "--env=TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor",
            "--env=BUILDER_EXTRA_ARGS=--served-model-name tiny", image, "smoke-cpu",
        ]  # fmt: skip
        with serving(run, env=dict(os.environ), log=project / "podman.log", port=port) as server:
            assert healthy(server), server.text()[-3000:]
            assert requests.get(f"{server.url}/v1/models", timeout=30).json()["data"][0]["id"] == "tiny"
            assert len(requests.get(f"{server.url}/overlays", timeout=30).json()["overlays"]) == 3
            top = podman("exec", "real", "cat", "/proc/1/cmdline").stdout.split("\0")
            assert top[:4] == ["/usr/bin/python3", "/usr/local/bin/vllm", "serve", "/model"]
            assert "status 200" in podman("exec", "real", "/opt/builder/serve", "health", "--port", str(port)).stdout
            podman("stop", "--time", "60", "real")
            assert json.loads(podman("inspect", "real").stdout)[0]["State"]["ExitCode"] in (0, 143)
    finally:
        subprocess.run([*words, "rm", "--all", "--force"], capture_output=True, check=False, timeout=100)
        subprocess.run([*words, "umount", "--all"], capture_output=True, check=False, timeout=100)
        shutil.rmtree(folder, ignore_errors=True)
