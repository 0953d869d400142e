"""A Docker daemon of the tests' own: data, socket and process id apart from any other on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.services import leave_out, require, require_root


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[str]:
    """The address of a running daemon, for DOCKER_HOST."""
    with engine() as address:
        yield address


@contextmanager
def engine() -> Iterator[str]:
    """Start a daemon, and end it by its own process."""
    require("dockerd", "docker", "iptables")
    require_root()
    folder = Path(tempfile.mkdtemp(prefix="builder-dockerd-", dir="/var/tmp"))
    socket = f"unix://{folder}/docker.sock"
    environment = {**os.environ, "PATH": f"/usr/bin:/usr/sbin:/sbin:{os.environ.get('PATH', '')}"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid",
                "-H", socket, "--iptables=false", "--bridge=none",
            ],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    try:
        for _ in range(120):
            answered = (
                subprocess.run(["docker", "-H", socket, "version"], capture_output=True, check=False).returncode == 0
            )
            if answered or process.poll() is not None:
                break
            time.sleep(0.5)
        if not answered:
            leave_out(f"needs dockerd, which did not start: {(folder / 'log').read_text()[-600:]}")
        yield socket
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
