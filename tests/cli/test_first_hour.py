"""The first hour, scripted: from a pull request's number in an empty folder to a response, in four commands.

Real parts: the command line, git behind GitHub's routes, vLLM 0.20.0's own files in a Debian image, the Docker engine. The
server inside is the stand-in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.serve.container import free_port
from tests.support.cli import builder
from tests.support.github import GitHub, github
from tests.support.standin import standin_base
from tests.support.wheels import python_files

pytestmark = pytest.mark.wheels
ENV_FILE, LOGGER, OLD = "vllm/collect_env.py", "vllm/logger.py", "vllm/beam_search.py"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitHub]:
    """A GitHub whose main branch has the base's own files."""
    released = python_files("0.20.0")
    with github(tmp_path / "github") as server:
        kept = {path: released[path] for path in (ENV_FILE, LOGGER, OLD)}
        server.commit({**kept, "tests/test_it.py": b"x = 1\n", "docs/it.md": b"old\n"}, "v0.20.0")
        yield server


def appended(path: str, text: bytes) -> bytes:
    return python_files("0.20.0")[path] + text


def one_change(hub: GitHub) -> list[str]:
    """One file of the package with its test and its page; two commits. By number."""
    hub.commit({ENV_FILE: appended(ENV_FILE, b"\n\nFIRST = 1\n"), "tests/test_it.py": b"x = 2\n"}, "one", branch="one")
    hub.open_pull(101, hub.commit({"docs/it.md": b"new\n"}, "its page", branch="one"))
    return ["--pull", "101"]


def two_in_order(hub: GitHub) -> list[str]:
    """A pull request on top of another one, for the same file. By address and by name."""
    first = appended(LOGGER, b"\n\nFIRST = 1\n")
    hub.open_pull(201, hub.commit({LOGGER: first}, "below", branch="below"))
    hub.publish("below")
    hub.rewrite("above", "below")
    hub.open_pull(202, hub.commit({LOGGER: first + b"\n\nSECOND = FIRST + 1\n"}, "above", branch="above"), base="below")
    return ["--pull", f"{hub.url}/vllm-project/vllm/pull/201/files", "--pull", "vllm-project/vllm#202"]


def moved_and_merged(hub: GitHub) -> list[str]:
    """A new file, a deletion and a rename, with main merged into the branch meanwhile. By `#number`."""
    old = python_files("0.20.0")[OLD]
    hub.commit({"vllm/added_by_pull.py": b"ADDED = 1\n"}, "new", branch="moves")
    hub.commit({OLD: None, "vllm/beam_search_moved.py": old}, "renamed", branch="moves")
    hub.commit({"docs/it.md": b"main goes on\n"}, "elsewhere")
    hub.merge_base_in("moves")
    hub.open_pull(301, hub.commit({"vllm/added_by_pull.py": b"ADDED = 2\n"}, "more", branch="moves"))
    return ["--pull", "#301"]


SHAPES: dict[str, tuple[Callable[[GitHub], list[str]], set[str]]] = {
    "one change": (one_change, {ENV_FILE}),
    "two in order": (two_in_order, {LOGGER}),
    "moved and merged": (moved_and_merged, {"vllm/added_by_pull.py", OLD, "vllm/beam_search_moved.py"}),
}


def response(port: int, gone: Callable[[], object]) -> str:
    """A chat completion of the server, once it is healthy. `gone` is not None when it has ended."""
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except OSError:
            assert gone() is None, "the server has ended"
            time.sleep(0.2)
    body = {"model": "/model", "messages": [{"role": "user", "content": "How much is three times sixty?"}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as got:
        return str(json.loads(got.read())["choices"][0]["message"]["content"])


@pytest.mark.parametrize("shape", SHAPES)
def test_from_a_number_to_a_response_in_four_commands(
    shape: str, hub: GitHub, tmp_path: Path, docker_engine: str
) -> None:
    opened, files = SHAPES[shape]
    pulls = opened(hub)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    folder = tmp_path / "empty"
    folder.mkdir()
    env = {"BUILDER_GITHUB_URL": hub.url, "BUILDER_GITHUB_API_URL": hub.url, "DOCKER_HOST": docker_engine}
    began = time.monotonic()

    def first_hour(*arguments: str) -> str:
        done = builder(*arguments, cwd=folder, env=env)
        assert done.code == 0, done.out + done.err
        return done.out

    # 1
    said = first_hour("init", "mine", *pulls, "--base", f"oci:{standin_base()}", "--checkpoint", str(model))
    assert said.splitlines()[-1] == "next: builder check mine"
    # 2: what init has printed
    said = first_hour("check", "mine")
    assert "smoke: " in said
    # 3
    said = first_hour("build", "mine")
    assert "builder run mine smoke" in said
    document = json.loads(first_hour("build", "mine", "--engine", "docker", "--json"))
    assert {each["path"] for each in document["files"]} == files
    # 4, and the response: what build has printed, without a GPU and a bridge network, which this machine lacks
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "builder",
        "run",
        "mine",
        "smoke",
        "--gpus",
        "none",
        "--network",
        "host",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **env, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(server.stdout or ()), daemon=True)
    reader.start()
    try:
        assert "180" in response(port, server.poll), log
    finally:
        server.terminate()
        server.wait(60)
    taken = time.monotonic() - began
    assert "max-model-len" in "".join(log) or log
    # Then it is checked: every check that the profile asks for.
    smoked = builder("smoke", "mine", "--gpus", "none", "--network", "host", "--json", cwd=folder, env=env)
    assert smoked.code == 0, smoked.out + smoked.err
    assert smoked.document["profile"] == "smoke"
    print(f"{shape}: {taken:.1f} s from the number to the response")


def test_the_doctor_sees_the_engine(tmp_path: Path, docker_engine: str) -> None:
    done = builder("doctor", "--offline", "--json", cwd=tmp_path, env={"DOCKER_HOST": docker_engine})
    assert done.code == 0, done.err
    found = {each["name"]: each for each in done.document["findings"]}
    assert found["Docker"]["state"] == "ok"
    assert found["Docker"]["text"].startswith("daemon ")
    assert "buildx" in found
