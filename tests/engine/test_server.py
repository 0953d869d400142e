"""What the real engine prints and answers: the reader, smoke's expectations, and the stand-in are judged by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from builder.documents.profile import load_profile
from builder.serve.container import free_port
from builder.serve.smoke.checks.log import check_fatal, check_figures, expectation_for
from builder.serve.smoke.gpu import Gpu
from builder.serve.smoke.result import Check
from builder.serve.startup_log import StartupLog, read_startup_log
from tests.engine.conftest import Probe, packages
from tests.support.engine.contract import Reply, replies
from tests.support.engine.model import hybrid_checkpoint
from tests.support.engine.observe import Observation, observe
from tests.support.engine.packages import OLD
from tests.support.engine.server import FLAGS, environment
from tests.support.flagship import hybrid_overlay

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

STANDIN = Path(__file__).parents[1] / "support/standin_vllm.py"
PROFILE = load_profile(Path(__file__).parents[2] / "profiles/smoke-cpu.yaml")
CPU = Gpu("cpu", "cpu", -1.0)
# Marks of the stand-in's own, and what only the GPU's runner prints.
NOT_ON_CPU = ("TQ hybrid", "Model loading took", "Available KV cache memory")


def started(log: str) -> StartupLog:
    return read_startup_log(log.splitlines(), watched=("FP8 vocabulary table",))


@pytest.mark.parametrize("name", ["bf16_server", "fp8_server", "new_server"])
def test_the_start_is_read_to_its_end(name: str, request: pytest.FixtureRequest) -> None:
    observed: Observation = request.getfixturevalue(name)
    # On a busy machine vLLM 0.32.0 can call its engine dead while it ends it.
    log = started(observed.served)
    assert log.phase == "ready"
    assert log.vllm == ("0.32.0" if name == "new_server" else "0.20.0")
    assert log.figures() == {
        "vllm": log.vllm, "available_kv_gib": 1.0, "kv_cache_tokens": 1_048_576, "max_concurrency": 512.0,
        "tokens_per_request": 2048,
    }  # fmt: skip
    assert check_fatal(log).status == "passed"
    assert ("FP8 vocabulary table" in log.seen) is (name != "bf16_server")


@pytest.mark.parametrize("name", ["fp8_server", "new_server"])
def test_figures_that_a_cpu_does_not_print_are_named(name: str, request: pytest.FixtureRequest) -> None:
    observed: Observation = request.getfixturevalue(name)
    log = started(observed.log)
    found: dict[str, Check] = {
        check.name: check for check in check_figures(log, expectation_for(PROFILE, log.vllm, CPU), None)
    }
    assert (found["weights loaded"].status, found["weights loaded"].summary) == ("not checked", "not printed on CPU")
    assert found["KV cache"].status == found["maximum concurrency"].status == "passed"


@pytest.mark.parametrize("name", ["bf16_server", "fp8_server", "new_server"])
def test_smoke_passes(name: str, request: pytest.FixtureRequest) -> None:
    observed: Observation = request.getfixturevalue(name)
    assert observed.smoke is not None
    assert observed.smoke.code == 0, observed.smoke.err
    statuses = {check["name"]: check["outcome"] for check in observed.smoke.document["tests"]}
    assert statuses.pop("weights loaded") == "warned"
    assert set(statuses.values()) == {"passed"}


@pytest.mark.parametrize("name", ["bf16_server", "fp8_server", "new_server"])
def test_a_gate_passes_and_a_prompt_that_is_too_long_is_told_apart(name: str, request: pytest.FixtureRequest) -> None:
    observed: Observation = request.getfixturevalue(name)
    assert observed.gate is not None
    assert observed.gate.code == 0, observed.gate.err
    known, capped = observed.gate.document["verdicts"]
    assert (known["result"], known["bound"], known["gpu"]) == ("PASSED", False, "cpu")
    assert (known["buckets"]["answered"], known["buckets"]["over_context"]) == (42, 1)
    assert (known["metrics"][0]["numerator"], known["metrics"][0]["denominator"]) == (42, 43)
    assert (capped["buckets"]["answered"], capped["buckets"]["over_cap"]) == (42, 1)
    assert (capped["metrics"][0]["numerator"], capped["metrics"][0]["denominator"]) == (42, 42)


def test_the_image_says_which_overlays_it_has(fp8_server: Observation) -> None:
    # An unpacked image has no record at /opt/builder, but the overlays' route.
    assert set(fp8_server.overlays) == {"overlays", "patched"}


@pytest.mark.parametrize("name", ["fp8_server", "new_server"])
def test_sigterm_ends_it_well(name: str, request: pytest.FixtureRequest) -> None:
    observed: Observation = request.getfixturevalue(name)
    assert observed.exit_code in (0, -signal.SIGTERM, 143)
    # Docker waits ten seconds before it kills; on a busy machine the engine may take a little more.
    assert observed.stop_seconds < 30


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The stand-in's replies, its log, and how it ended."""
    folder = tmp_path_factory.mktemp("standin")
    port, log = free_port(), folder / "log"
    words = [sys.executable, str(STANDIN), "serve", str(folder), *FLAGS, "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=stream, env=dict(os.environ))
    url = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            requests.get(f"{url}/health", timeout=5)
            break
        except requests.RequestException:
            time.sleep(0.1)
    found: dict[str, Any] = {"replies": replies(url, str(folder))}
    process.terminate()
    found |= {"exit": process.wait(30), "log": log.read_text()}
    yield found


def test_the_stand_in_replies_as_the_real_engine_does(fp8_server: Observation, standin: dict[str, Any]) -> None:
    """One contract: the same statuses, and no field that the real engine does not have."""
    differ = {}
    for name, real in fp8_server.replies.items():
        ours: Reply = standin["replies"][name]
        extra = ours.fields - real.fields
        if ours.status != real.status or extra:
            differ[name] = (ours.status, real.status, sorted(extra), real.body)
    assert differ == {}


def test_both_releases_reply_alike(fp8_server: Observation, new_server: Observation) -> None:
    old, new = fp8_server.replies, new_server.replies
    assert {name: reply.status for name, reply in old.items()} == {name: reply.status for name, reply in new.items()}


def test_the_stand_in_prints_what_the_real_engine_prints(fp8_server: Observation, standin: dict[str, Any]) -> None:
    import re

    def texts(log: str) -> list[str]:
        lines = [line.partition("] ")[2] for line in log.splitlines() if " INFO " in line and "] " in line]
        return [re.sub(r"[\d.,]+x?", "N", line).split(" with config")[0] for line in lines]

    real = "\n".join(texts(fp8_server.log)) + "\n" + re.sub(r"[\d.,]+x?", "N", fp8_server.log)
    for text in texts(standin["log"]):
        if not text.startswith(NOT_ON_CPU):
            start = text.split("/")[0].rstrip()
            assert start in real, text


def test_both_end_on_sigterm_with_the_same_code(fp8_server: Observation, standin: dict[str, Any]) -> None:
    assert standin["exit"] == fp8_server.exit_code


def test_a_failed_start_shows_its_cause(room: Path, models: dict[str, Path]) -> None:
    """Stock vLLM and the FP8 checkpoint: three processes fail, and smoke names the one that knows why."""
    work = room / "stock-work"
    env = environment([packages(OLD)], work)
    command = [str(work / "bin/vllm"), "serve", str(models["fp8"]), *FLAGS]
    observed = observe(command, env, room / "stock.log", cwd=room)
    assert not observed.healthy
    assert observed.exit_code == 1
    cause = started(observed.log).root_cause()
    assert cause is not None
    assert cause.kind == "missing parameter"
    assert "'lm_head.weight_scale_inv'" in cause.error
    assert cause.path == "vllm/model_executor/models/utils.py"
    # The last line of the log is a consequence, and names nothing.
    assert "See root cause above" in observed.log.strip().splitlines()[-1] or "initialization failed" in observed.log


def test_39931_lets_a_hybrid_model_have_a_turboquant_cache(
    probe: Probe, room: Path, tiny: Path, tmp_path: Path
) -> None:
    """Up to the engine's configuration: to run such a layer needs a GPU."""
    import shutil

    model = hybrid_checkpoint(tmp_path / "hybrid", tiny, tables=False)
    cases = [{"do": "config", "model": str(model), "kv_cache_dtype": kind} for kind in ("auto", "turboquant_k8v4")]
    plain, refused = probe(cases, [packages(OLD)])
    assert plain["hybrid"] is True
    assert refused["error"] == "NotImplementedError"
    assert "not supported for hybrid" in refused["message"]
    diff = tmp_path / "39931.diff"
    diff.write_bytes(hybrid_overlay())
    target = tmp_path / "patched"
    shutil.copytree(packages(OLD) / "vllm", target / "vllm", copy_function=os.link)
    words = ["patch", "--batch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--input", str(diff)]
    subprocess.run(words, cwd=target, check=True, capture_output=True)
    plain, passed = probe(cases, [target, packages(OLD)])
    assert plain["hybrid"] is passed.get("hybrid") is True, passed
    assert "TQ hybrid: full-attention layers [3]" in passed["log"]
