"""The real LiteLLM proxy: its packages pinned by hash, in a virtual environment of its own, made once per machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from builder.serve.container import free_port
from tests.support.services import STRICT, leave_out

PINS = Path(__file__).with_name("pins.txt")
KEY = "sk-for-tests"
_START_SECONDS = 240


def environment() -> Path:
    """The virtual environment's folder; the test is left out where it is not, unless the real parts are required."""
    root = Path(os.environ.get("BUILDER_TEST_CACHE") or Path.home() / ".cache" / "overlay-image-builder")
    root.mkdir(parents=True, exist_ok=True)
    name = f"litellm-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]}"
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux" or os.uname().machine != "x86_64":
        leave_out("LiteLLM's pins are those of Python 3.11 on x86-64 Linux")
    with (root / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / name).is_dir():
            if not STRICT:
                leave_out("needs LiteLLM's proxy, 150 MB to download: BUILDER_REQUIRE_SERVICES=1 installs it")
            _install(root / name)
    return root / name


def _install(folder: Path) -> None:
    # Programs name the folder that they were installed into, so it is made at its place and marked when it is whole.
    shutil.rmtree(folder, ignore_errors=True)
    python = getattr(sys, "_base_executable", sys.executable)
    install = [
        str(folder / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    for command in ([python, "-m", "venv", str(folder)], [*install, "--requirement", str(PINS)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            leave_out(f"needs LiteLLM's proxy, which pip could not install: {done.stderr.strip()[-300:]}")


@dataclass
class Proxy:
    """A proxy that runs. `metrics` is where its hook shows them."""

    url: str
    metrics: str
    log: Path
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: object) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=300)


@contextmanager
def started(folder: Path, *, wait: bool = True, config: str = "config.yaml") -> Iterator[Proxy]:
    """Run the proxy with the files in `folder`, whose hook is given a free port for its metrics."""
    program = environment() / "bin/litellm"
    port, metrics = free_port(), free_port()
    settings = folder / "envelope.json"
    if settings.is_file():
        document = json.loads(settings.read_text())
        settings.write_text(json.dumps({**document, "metrics_port": metrics, "metrics_host": "127.0.0.1"}))
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env = {**kept, "LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    log = folder / "proxy.log"
    command = [str(program), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=stream, stderr=stream, start_new_session=True)
    found = Proxy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics", log, process)
    try:
        if wait:
            _wait(found)
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(proxy: Proxy) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if proxy.process.poll() is not None:
            raise AssertionError(proxy.log.read_text(errors="replace")[-3000:])
        try:
            if requests.get(f"{proxy.url}/health/liveliness", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError("the proxy did not start in time")
