"""Every smoke check seen to pass and to fail: the stand-in server in an image of ours, on the real Docker engine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.profile import load_profile
from builder.documents.verdict import Verdict
from builder.serve.container import free_port
from tests.support.cli import Ran, builder
from tests.support.realstack import overlay_diffs
from tests.support.services import require
from tests.support.smallwheel import make_project
from tests.support.standin import standin_base

PROFILES = Path(__file__).parents[2] / "profiles"
NAMES = ("smoke", "production-ceiling", "envelope-16k")


@dataclass(frozen=True)
class Bench:
    """A project whose image is in Docker, and the engine's address."""

    project: Path
    engine: str
    image: str
    model: Path
    document: Any

    def smoke(self, profile: str, *options: str, **how: object) -> Ran:
        """Run `builder smoke` on a stand-in that behaves as `how` says."""
        (self.model / "standin.json").write_text(json.dumps(how))
        return builder(
            "smoke", "small", profile, "--json", "--gpus", "none", "--network", "host", "--model", str(self.model),
            *options, cwd=self.project, env={"DOCKER_HOST": self.engine},
        )  # fmt: skip

    def docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "-H", self.engine, *arguments], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, docker_engine: str) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("smoke")
    first, _ = overlay_diffs()
    project = make_project(
        root / "project", {"20-1.diff": first}, base=f"oci:{standin_base()}", profiles=list(NAMES),
        default_profile="smoke", checkpoint={"digest": "c0" * 32},
    )  # fmt: skip
    for name in NAMES:
        (project / "profiles" / f"{name}.yaml").write_bytes((PROFILES / f"{name}.yaml").read_bytes())
    done = builder("build", "small", "--load", "--json", cwd=project, env={"DOCKER_HOST": docker_engine})
    assert done.code == 0, done.err
    model = root / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    yield Bench(project, docker_engine, f"small:{done.document['tags'][0]}", model, done.document)


def checks(done: Ran) -> dict[str, dict[str, Any]]:
    """The checks of a result by name, whether it passed or failed."""
    document = done.document
    found = document.get("tests") or document["error"]["tests"]
    return {check["name"]: check for check in found}


def failures(done: Ran) -> dict[str, str]:
    return {name: check["found"] for name, check in checks(done).items() if check["outcome"] == "failed"}


def test_a_good_server_passes_and_the_result_is_bound_to_the_image(bench: Bench) -> None:
    done = bench.smoke("smoke")
    assert done.code == 0, done.out + done.err
    document = done.document
    assert document["result"] == "WARNED"
    image = json.loads(bench.docker("inspect", bench.image))[0]
    assert document["image"]["id"] == image["Id"]
    assert document["image"]["inputs"] == image["Config"]["Labels"]["dev.overlay-image-builder.inputs"]
    assert (document["profile"], document["gpu"], document["vllm"]) == ("smoke", "rtx-5090", "0.20.0")
    assert document["command"][0] == "smoke"
    assert document["flags"] == load_profile(PROFILES / "smoke.yaml").argv()
    assert document["figures"]["kv_cache_tokens"] == 16640
    assert document["figures"]["free_gib"] == 2.59
    assert list(document["phases"])[-1] == "ready"
    found = checks(done)
    assert {name for name, check in found.items() if check["outcome"] == "passed"} == {
        "healthy in time", "weights loaded", "KV cache", "maximum concurrency", "free GPU memory",
        "log says 'TQ hybrid: full-attention layers'", "deterministic prompt", "concurrent prompts", "reasoning",
        "no fatal line in the log",
    }  # fmt: skip
    # As the model card pins it: a parser without the flag that uses it. Not passed, and not hidden.
    assert found["tool call"]["outcome"] == "warned"
    assert "enable-auto-tool-choice" in found["tool call"]["found"]
    files = {kind: Path(path) for kind, path in document["files"].items()}
    saved = Verdict.parse(files["json"].read_bytes())
    assert (saved.suite, saved.profile, saved.gpu, saved.bound) == ("smoke:smoke", "smoke", "rtx-5090", True)
    assert saved.image_digests == (document["image"]["digest"],)
    assert saved.config("lock") == hashlib.sha256((bench.project / "images/small.lock.yaml").read_bytes()).hexdigest()
    assert saved.config("checkpoint") == "c0" * 32
    assert "saw SIGTERM" not in files["log"].read_text()
    page = files["html"].read_text()
    assert document["image"]["digest"] in page
    assert "2+2 je 4." in page
    assert bench.docker("ps", "-aq").strip() == ""


def test_a_profile_with_auto_tool_choice_makes_the_round_trip(bench: Bench) -> None:
    done = bench.smoke("envelope-16k")
    assert done.code == 0, done.out + done.err
    found = checks(done)
    assert found["tool call"]["outcome"] == "passed"
    # No figures were published for this profile: none are invented.
    assert found["start-up figures"]["outcome"] == "warned"
    assert not {"weights loaded", "KV cache"} & found.keys()


@pytest.mark.parametrize(
    ("how", "check", "why"),
    [
        ({"unequal": True}, "deterministic prompt", "the second answer is another one"),
        ({"answer": "Ř§Ř§ ůůů"}, "deterministic prompt", "not the expected one"),
        ({"at_four": "dies"}, "concurrent prompts", "died under 4 requests"),
        ({"at_four": "oom"}, "concurrent prompts", "were not answered"),
        ({"at_four": "oom"}, "no fatal line in the log", "fatal lines"),
        ({"answer": ""}, "concurrent prompts", "4 of 4 were not answered"),
        ({"reasoning": "left"}, "reasoning", "has no reasoning"),
        ({"reasoning": "endless"}, "reasoning", "did not end within 2,014 tokens"),
        ({"loaded": "27.69"}, "weights loaded", "27.69 GiB, expected 25 to 26.6"),
        ({"tokens": "28,203"}, "KV cache", "28,203 tokens, expected 14,560 to 18,720"),
        ({"concurrency": "3.18"}, "maximum concurrency", "3.18 x, expected 6 to 8"),
        ({"free_mib": 500}, "free GPU memory", "0.49 GiB, expected at least 1.5"),
        ({"unpatched": True}, "log says 'TQ hybrid: full-attention layers'", "no line says so"),
    ],
)
def test_each_check_fails(bench: Bench, how: dict[str, object], check: str, why: str) -> None:
    done = bench.smoke("smoke", **how)
    assert done.code == 6, done.err
    failed = failures(done)
    assert why in failed[check]
    # Nothing else fails than what this misbehaviour touches.
    assert failed.keys() <= {check, "concurrent prompts", "no fatal line in the log", "deterministic prompt"}
    assert done.document["error"]["result"] == "FAILED"
    assert Path(done.document["error"]["files"]["json"]).is_file()
    assert bench.docker("ps", "-aq").strip() == ""


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"tool": "text"}, "has no tool call"),
        ({"tool": "broken"}, "not JSON"),
        ({"tool": "ignored"}, "does not use the tool's result"),
    ],
)
def test_a_tool_call_that_goes_wrong(bench: Bench, how: dict[str, object], why: str) -> None:
    done = bench.smoke("envelope-16k", **how)
    assert done.code == 6
    assert list(failures(done)) == ["tool call"]
    assert why in failures(done)["tool call"]


def test_skipped_tensors_end_the_start_at_once(bench: Bench) -> None:
    done = bench.smoke("smoke", skips=True)
    assert done.code == 6
    failed = failures(done)
    assert "the log is fatal" in failed["healthy in time"]
    assert "no fatal line in the log" in failed
    assert "nonsense" in done.err
    assert checks(done)["deterministic prompt"]["outcome"] == "warned"


def test_a_server_that_never_gets_healthy_and_one_that_ends(bench: Bench) -> None:
    never = bench.smoke("smoke", "--limit", "3", unhealthy=True)
    assert never.code == 6
    assert "not within 3 s, in the phase 'ready': status 503" in failures(never)["healthy in time"]
    ends = bench.smoke("smoke", exits=7)
    assert ends.code == 6
    assert "exit code 7" in failures(ends)["healthy in time"]
    details = dict(checks(ends)["healthy in time"]["details"])
    # The last line of the log, which is fatal too, is only the consequence.
    assert details["cause"] == "ValueError: something is wrong with this model"
    assert details["raised"] == "vllm/model_executor/models/utils.py:339 in f"
    assert "something is wrong with this model" in ends.err


def test_a_start_that_fails_in_a_changed_file_names_its_overlay(bench: Bench) -> None:
    record = yaml.safe_load((bench.project / "images/small.lock.yaml").read_text())
    changed = record["base"]["platforms"]["linux/amd64"]["files"][0]
    done = bench.smoke("smoke", exits=7, raised=changed["path"].removeprefix("vllm/"))
    details = dict(checks(done)["healthy in time"]["details"])
    assert details["overlay"] == f"{', '.join(changed['overlays'])} changes {changed['path']}"


def test_what_is_kept_and_has_exited_is_not_said_to_run(bench: Bench) -> None:
    done = bench.smoke("smoke", "--keep", exits=7)
    try:
        assert "it runs on" not in done.err
        assert "the container ended with exit code 7; its log: docker logs" in done.err
    finally:
        for name in bench.docker("ps", "-aq").split():
            bench.docker("rm", "-f", name)


def test_another_gpu_and_a_wrong_image(bench: Bench) -> None:
    other = bench.smoke("smoke", "--gpu", "rtx-4090", tokens="1")
    assert other.code == 0, other.err
    assert "0.20.0 on rtx-5090" in checks(other)["start-up figures"]["found"]
    base = next(
        line for line in bench.docker("images", "--format", "{{.ID}} {{.Repository}}").splitlines() if "small" in line
    )
    bench.docker("build", "-q", "-t", "stranger:1", "--label", "dev.overlay-image-builder.inputs=sha256:00", "-f", _dockerfile(bench, base.split()[0]), str(bench.model))  # fmt: skip
    wrong = bench.smoke("smoke", "--image", "stranger:1")
    assert wrong.code == 4
    assert "not built from this lock" in wrong.err
    assert bench.smoke("smoke", "--image", "nothing:here").code == 2
    refused = builder(
        "smoke", "small", "smoke", "--network", "host", "--model", str(bench.model), cwd=bench.project,
        env={"DOCKER_HOST": bench.engine},
    )  # fmt: skip
    assert refused.code == 5
    assert "--gpus none" in refused.err
    assert bench.docker("ps", "-aq").strip() == ""


def _dockerfile(bench: Bench, base: str) -> str:
    path = bench.model.parent / "Dockerfile"
    path.write_text(f"FROM {base}\n")
    return str(path)


def test_another_user_on_a_read_only_root(bench: Bench) -> None:
    done = bench.smoke("smoke", "--read-only", "--user", "1234:1234", writes=True)
    assert done.code == 0, done.err
    log = Path(done.document["files"]["log"]).read_text()
    for folder in ("/cache/.cache/vllm", "/cache/torchinductor", "/tmp/standin"):
        assert f"wrote {folder} as 1234" in log
    assert "root: Read-only file system" in log


def test_kept_containers_run_on_and_results_never_replace_each_other(bench: Bench, tmp_path: Path) -> None:
    done = bench.smoke("smoke", "--keep", "--output", str(tmp_path))
    name = bench.docker("ps", "-q").strip()
    try:
        assert done.code == 0, done.err
        assert name
        assert "it runs on at http://127.0.0.1:" in done.err
        again = [builder("smoke", done.document["target"], "--output", str(tmp_path), cwd=bench.project) for _ in "12"]
        assert [each.code for each in again] == [0, 0]
    finally:
        bench.docker("rm", "-f", name)
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.html"))) == 3


def test_a_running_container_by_its_url(bench: Bench) -> None:
    (bench.model / "standin.json").write_text("{}")
    shown = builder(
        "run", "small", "smoke", "--print", "--json", "--gpus", "none", "--network", "host", "--port", "18431",
        "--model", str(bench.model), cwd=bench.project, env={"DOCKER_HOST": bench.engine},
    )  # fmt: skip
    words = shown.document["argv"]
    name = bench.docker(*["--detach" if word == "--rm" else word for word in words[1:]]).strip()
    try:
        done = builder(
            "smoke", "http://127.0.0.1:18431/v1/", "smoke", "--container", name, "--json", cwd=bench.project,
            env={"DOCKER_HOST": bench.engine},
        )  # fmt: skip
        assert done.code == 0, done.err
        assert done.document["gpu"] == "rtx-5090"
        assert done.document["image"]["reference"] == bench.image
        assert "--port 18431" in bench.docker("inspect", "-f", "{{json .Config.Healthcheck.Test}}", name)
        health = bench.docker("exec", name, "/opt/builder/serve", "health", "--port", "18431")
        assert "status 200" in health
        # Two seconds are all it gets: Docker kills what is still there then, and the exit code would be 137.
        bench.docker("stop", "-t", "2", name)
        assert "saw SIGTERM" in bench.docker("logs", name)
        assert bench.docker("inspect", "-f", "{{.State.ExitCode}}", name).strip() == "0"
    finally:
        bench.docker("rm", "-f", name)


def test_a_gate_is_bound_to_the_image_that_it_starts(bench: Bench) -> None:
    rows = [
        {"id": f"r{n}", "messages": [{"role": "user", "content": f"2+2? ({n})"}], "expected": {"answer": "2+2 je 4."}}
        for n in range(6)
    ]
    gates = bench.project / "gates"
    gates.mkdir(exist_ok=True)
    (gates / "sums.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (gates / "sums.yaml").write_text(
        "name: sums\nrows: sums.jsonl\nanswer: {exact: true}\nsampling: {max_tokens: 64, thinking: false}\n"
        "metrics:\n  sum: {kind: equal, field: answer}\nrequire:\n  - {metric: sum, min: 1.0}\n"
    )
    (bench.model / "standin.json").write_text("{}")
    done = builder(
        "gate", "small", "smoke", "--suite", "sums", "--json", "--gpus", "none", "--network", "host", "--model", str(bench.model),
        cwd=bench.project, env={"DOCKER_HOST": bench.engine},
    )  # fmt: skip
    assert done.code == 0, done.err
    found = Verdict.parse(Path(done.document["verdicts"][0]["files"]["json"]).read_bytes())
    image = json.loads(bench.docker("inspect", bench.image))[0]
    assert (found.bound, found.result, found.profile, found.gpu) == (True, "PASSED", "smoke", "rtx-5090")
    assert found.image_digests == (image["Id"],)
    assert found.details.image is not None
    assert found.details.image.inputs == image["Config"]["Labels"]["dev.overlay-image-builder.inputs"]
    assert found.config("profile") == load_profile(PROFILES / "smoke.yaml").sha256
    assert found.config("lock") == hashlib.sha256((bench.project / "images/small.lock.yaml").read_bytes()).hexdigest()
    assert bench.docker("ps", "-aq").strip() == ""


def test_what_compose_starts_is_healthy_as_nobody_in_particular(bench: Bench, tmp_path: Path) -> None:
    """The rendered file on the engine, less what this machine lacks: the registry, a GPU and a bridge network."""
    require("docker-compose")
    (bench.model / "standin.json").write_text(json.dumps({"writes": True}))
    done = builder(
        "deploy", "compose", "small", "smoke", "--image", f"registry.example/x@sha256:{'0' * 64}", "--output", "-",
        "--model", str(bench.model), cwd=bench.project,
    )  # fmt: skip
    assert done.code == 0, done.err
    document, port = yaml.safe_load(done.out), str(free_port())
    server = document["services"]["small-smoke"]
    assert server.pop("deploy")["resources"]["reservations"]["devices"]
    assert server.pop("ports")
    for service in document["services"].values():
        service["image"] = bench.image
    server |= {"network_mode": "host", "command": [*server["command"], "--port", port]}
    server["healthcheck"] |= {"test": [*server["healthcheck"]["test"][:-1], port], "interval": "1s"}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(document))

    def compose(*arguments: str) -> None:
        ran = subprocess.run(
            ["docker-compose", "-p", "smoke", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "DOCKER_HOST": bench.engine}, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr

    try:
        compose("up", "-d")
        name = bench.docker("ps", "-q").strip()
        for _ in range(100):
            if bench.docker("inspect", "-f", "{{.State.Health.Status}}", name).strip() == "healthy":
                break
            time.sleep(0.2)
        log = bench.docker("logs", name)
        assert bench.docker("inspect", "-f", "{{.State.Health.Status}}", name).strip() == "healthy", log
        assert "wrote /cache/torchinductor as 1000" in log
        assert "root: Read-only file system" in log
    finally:
        compose("down", "--volumes", "--timeout", "2")


def test_the_environment_and_kubernetes_args_in_a_real_container(bench: Bench) -> None:
    """Kubernetes leaves the entrypoint alone and replaces CMD by `args:`, as arguments of `docker run` do."""
    confined = ("--network=none", "--read-only", "--user", "4321:4321", "--cap-drop", "ALL")

    def argv(*arguments: str, **env: str) -> list[str]:
        given = [part for name, text in env.items() for part in ("-e", f"{name}={text}")]
        output = bench.docker("run", "--rm", *confined, *given, bench.image, *arguments)
        found: list[str] = json.loads(next(line for line in output.splitlines() if line.startswith("argv: "))[6:])
        return found

    flags = {name: load_profile(PROFILES / f"{name}.yaml").argv() for name in NAMES}
    hub = {"BUILDER_MODEL": "Qwen/Qwen3-8B"}
    assert argv("smoke", "--exit", **hub) == ["serve", "Qwen/Qwen3-8B", *flags["smoke"], "--exit"]
    chosen = {**hub, "BUILDER_PROFILE": "envelope-16k"}
    assert argv(BUILDER_EXTRA_ARGS="--exit --chat-template 'a b'", **chosen) == [
        "serve", "Qwen/Qwen3-8B", *flags["envelope-16k"], "--exit", "--chat-template", "a b",
    ]  # fmt: skip
    assert argv("--port", "9000", "--exit", **chosen) == [
        "serve", "Qwen/Qwen3-8B", *flags["envelope-16k"], "--port", "9000", "--exit",
    ]  # fmt: skip
    shown = bench.docker("run", "--rm", *confined, bench.image, "smoke", "--print", "--max-num-seqs", "2")
    assert shown.startswith("vllm serve /model --quantization fp8")
    assert shown.strip().endswith("--max-num-seqs 2")
    assert "argv:" not in shown
