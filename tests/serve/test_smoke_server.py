"""Smoke runs against servers that are not ours, and the parts of a run by themselves."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from builder.documents.profile import Profile, load_profile
from builder.documents.verdict import Verdict
from builder.serve.container import free_port
from builder.serve.smoke.checks.determinism import normal
from builder.serve.smoke.checks.log import check_fatal, check_figures, expectation_for
from builder.serve.smoke.client import Server, UnansweredError
from builder.serve.smoke.gpu import Gpu, parse, short_name
from builder.serve.smoke.result import SmokeResult, failed, page
from builder.serve.smoke.subject import check_serves, without_keys
from builder.serve.startup_log import StartupLog, read_startup_log
from builder.util.errors import InputError
from tests.support.chatserver import ChatServer, chatting
from tests.support.cli import builder

PROGRAM = Path(__file__).parents[1] / "support/standin_vllm.py"
PROFILES = Path(__file__).parents[2] / "profiles"
SMOKE = load_profile(PROFILES / "smoke.yaml")
CARD = Gpu("NVIDIA GeForce RTX 5090", "rtx-5090", 2.59)


@contextmanager
def server(folder: Path, *flags: str, env: dict[str, str] | None = None, **how: object) -> Iterator[tuple[str, Path]]:
    """The stand-in as a process of this machine: its address and its log."""
    (folder / "standin.json").write_text(json.dumps(how))
    port, log = free_port(), folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "serve", str(folder), "--port", str(port), *flags],
            stdout=stream, stderr=stream, env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        for _ in range(100):
            try:
                requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=1)
                break
            except requests.RequestException:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.wait(10)


def test_a_server_without_vllms_own_routes_and_fields(tmp_path: Path) -> None:
    """No /health, no /version, and a 400 for fields that OpenAI's API does not have."""
    with server(tmp_path, strict=True) as (url, _):
        done = builder("smoke", f"{url}/v1", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = {check["name"]: check["outcome"] for check in done.document["tests"]}
    assert found["deterministic prompt"] == found["concurrent prompts"] == "passed"
    assert found["reasoning"] == found["tool call"] == found["start-up figures"] == "warned"
    assert found["no fatal line in the log"] == "warned"
    assert done.document["image"] is None
    assert done.document["result"] == "WARNED"
    verdict = Verdict.parse(Path(tmp_path / done.document["files"]["json"]).read_bytes(), name="smoke")
    # Nobody knows which image that server runs.
    assert (verdict.bound, verdict.image_digests, verdict.suite) == (False, (), "smoke:no-profile")


def test_a_log_beside_the_server_and_another_prompt(tmp_path: Path) -> None:
    profile = str(PROFILES / "smoke.yaml")
    with server(tmp_path, "--reasoning-parser", "qwen3", answer="Paris") as (url, log):
        asked = ("smoke", url, profile, "--log", str(log), "--gpu", "rtx-5090", "--prompt", "Capital?")
        done = builder(*asked, "--answer", "Paris", "--json", cwd=tmp_path)
        assert done.code == 0, done.err
        found = {check["name"]: check["outcome"] for check in done.document["tests"]}
        assert found["KV cache"] == found["reasoning"] == found["no fatal line in the log"] == "passed"
        # The GPU is known by its name only: its memory is not guessed.
        assert found["free GPU memory"] == "warned"
        (tmp_path / "late.log").write_text("Starting to load model /model...\n")
        late = builder("smoke", url, "--log", "late.log", "--json", cwd=tmp_path)
        assert list(late.document["error"]["phases"]) == ["loading weights", "ready"]
        wrong = builder(*asked, "--answer", "Rome", cwd=tmp_path)
        assert wrong.code == 6
        assert "the answer is not the expected one" in wrong.err
    gone = builder("smoke", url, "--limit", "0.5", cwd=tmp_path)
    assert gone.code == 6
    assert "no response: the connection was refused" in gone.err


def test_the_key_is_sent_and_never_shown(tmp_path: Path) -> None:
    key = "sk-very-secret"
    with server(tmp_path, env={"STANDIN_KEY": key}) as (url, _):
        done = builder("smoke", url, "-v", cwd=tmp_path, env={"BUILDER_API_KEY": key})
        assert done.code == 0, done.err
        assert builder("smoke", url, cwd=tmp_path).code == 6
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert key.encode() not in written
    assert key not in done.out + done.err


def test_the_start_is_shown_while_it_runs_on_a_terminal(tmp_path: Path) -> None:
    """A server that stops half way, watched through a pseudo-terminal."""
    log = tmp_path / "half.log"
    log.write_text("Model loading took 26.19 GiB memory\nGPU KV cache size: 16,640 tokens\n")
    with server(tmp_path, unhealthy=True) as (url, _):
        main, other = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "builder", "smoke", url, "--log", str(log), "--limit", "2"],
            stdout=subprocess.DEVNULL, stderr=other, cwd=tmp_path,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(PROGRAM.parents[2])},
        )  # fmt: skip
        os.close(other)
        shown = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        os.close(main)
        assert process.wait(30) == 6
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "sizing the KV cache" in text
    assert "16,640 tokens" in text
    assert "capturing graphs" in text
    assert "of 2 s" in text
    assert "not within 2 s" in text


@pytest.mark.parametrize("arguments", [["http://"], ["ftp://x"], ["http://127.0.0.1:1", "nothing"], ["http://x", "--keep"], ["http://x", "--prompt", "a"]])  # fmt: skip
def test_wrong_input(tmp_path: Path, arguments: list[str]) -> None:
    done = builder("smoke", *arguments, cwd=tmp_path)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err


def test_figures_that_were_not_printed_fail_and_without_a_log_nothing_is_claimed() -> None:
    expectation = expectation_for(SMOKE, "0.20.0", CARD)
    assert not isinstance(expectation, str)
    empty = {check.name: check.status for check in check_figures(StartupLog(), expectation, None)}
    assert empty.pop("free GPU memory") == "not checked"
    assert set(empty.values()) == {"failed"}
    assert {check.status for check in check_figures(None, expectation, 2.59)} == {"not checked", "passed"}
    assert check_fatal(None).status == "not checked"
    assert check_fatal(read_startup_log(["Parameter x, skip loading"])).status == "failed"


@pytest.mark.parametrize(
    ("version", "gpu", "known"),
    [
        ("0.20.0", CARD, True), ("0.20.0+cu130", CARD, True), ("0.20.1", CARD, False), (None, CARD, False),
        ("0.20.0", None, False), ("0.20.0", Gpu("x", "rtx-50", 1), False), ("0.20.0", Gpu("x", "rtx-5090-d", 1), True),
    ],
)  # fmt: skip
def test_expectations_belong_to_one_version_and_gpu(version: str | None, gpu: Gpu | None, known: bool) -> None:
    found = expectation_for(SMOKE, version, gpu)
    assert isinstance(found, str) is not known
    assert isinstance(expectation_for(None, version, gpu), str)
    assert isinstance(expectation_for(Profile(name="x", flags={}), version, gpu), str)


def test_gpus_by_the_name_that_profiles_use() -> None:
    assert short_name("NVIDIA GeForce RTX 5090") == "rtx-5090"
    assert short_name("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3"
    assert parse("NVIDIA H100 80GB HBM3, 2048\nNVIDIA H100 80GB HBM3, 1024\n") == Gpu("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3", 1.0)  # fmt: skip
    assert parse("NVIDIA H200, 143771, 570.86.15\n") == Gpu("NVIDIA H200", "h200", 143771 / 1024, "570.86.15")
    assert parse("NVIDIA-SMI has failed") is None
    assert parse("") is None


@given(st.text())
def test_nvidia_smi_may_say_anything(text: str) -> None:
    found = parse(text)
    assert found is None or found.free_gib >= 0


@given(st.text())
def test_texts_of_a_model_cannot_leave_their_place_in_the_page(text: str) -> None:
    nasty = f"<script>alert(1)</script>{text}"
    result = SmokeResult(
        target=nasty, recipe=None, profile=nasty, flags=(nasty,), command=(nasty,), image=None, gpu=None, gpu_name=None, vllm=None,
        model=nasty, begun="2026-01-01T00:00:00Z", seconds=1.0, phases={nasty: 0.0}, figures={nasty: 1},
        checks=(failed("x", nasty, (nasty, nasty)),),
    )  # fmt: skip
    verdict = result.verdict()
    html = page(verdict.details)
    assert Verdict.parse(verdict.statement()) == verdict
    assert "<script>" not in html


def test_spaces_and_composition_do_not_matter_to_an_answer() -> None:
    assert normal("2+2  je\n4.") == normal("2+2 je 4.")
    assert normal("c\u030c") == normal("\u010d")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "unix:///x", "http://"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError):
        Server(url)


@pytest.mark.parametrize(
    ("url", "mode", "serves"),
    [
        ("http://127.0.0.1:18000", "bridge", True), ("http://localhost:18000/v1", "bridge", True),
        ("http://127.0.0.1:18001", "bridge", False), ("http://127.0.0.1:8123", "bridge", False),
        ("http://172.17.0.5:8123", "bridge", True), ("http://172.17.0.6:8123", "bridge", False),
        ("http://127.0.0.1:8123", "host", True), ("http://127.0.0.1", "host", False), ("http://192.0.2.1:18000", "bridge", False),
    ],
)  # fmt: skip
def test_a_container_is_only_named_for_the_address_that_it_serves(url: str, mode: str, serves: bool) -> None:
    attributes = {
        "Config": {"Cmd": ["smoke", "--port", "8123"]},
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {
            "Ports": {"8123/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18000"}], "9/tcp": None},
            "Networks": {"bridge": {"IPAddress": "172.17.0.5"}},
        },
    }
    if serves:
        check_serves(url, "vllm", attributes)
    else:
        with pytest.raises(InputError, match="the container vllm is not what responds at"):
            check_serves(url, "vllm", attributes)


def test_keys_of_a_command_are_shown_nowhere() -> None:
    command = ("smoke", "--api-key", "one", "two", "--port", "8000", "--api-key=three")
    assert without_keys(command) == ("smoke", "--api-key", "***", "***", "--port", "8000", "--api-key=***")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("<html>", "it is not JSON"),
        ("{}", "it has no 'choices'"),
        ('{"choices": []}', "it has no choices"),
        ('{"choices": ["x"]}', "a value has another type"),
        ('"x"', "a value has another type"),
    ],
)
def test_what_is_no_completion_is_told_in_words(body: str, why: str) -> None:
    def respond(_server: ChatServer, _body: Mapping[str, Any], handler: Any) -> None:
        handler.say(200, body.encode(), Content_Type="application/json")

    with chatting(respond) as server, pytest.raises(UnansweredError) as caught:
        Server(server.url).chat([{"role": "user", "content": "x"}], max_tokens=1, thinking=False)
    assert str(caught.value) == f"not a chat completion, {why}: {body}"
