"""Debian's docker-registry on a loopback port, with its storage in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.support.services import require


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _in_memory(data: Path) -> Iterator[None]:
    """`data` leads to a folder in memory, where there is one that is large enough: a registry waits for the disk at each write."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 1 << 30:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="registry-", dir=memory) as name:
        data.symlink_to(name)
        yield


@contextmanager
def registry(
    folder: Path,
    *,
    auth: str = "",
    read_only: bool = False,
    tls: tuple[Path, Path] | None = None,
    in_memory: bool = False,
) -> Iterator[str]:
    """`HOST:PORT` of a running registry; `auth` is the YAML of its `auth` section, `tls` certificate and key.

    `in_memory` is for those that are written to thousands of times.
    """
    require("docker-registry")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    secured = f", tls: {{certificate: '{tls[0]}', key: '{tls[1]}'}}" if tls else ""
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}"
        f"{', maintenance: {readonly: {enabled: true}}' if read_only else ''}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'{secured}}}\n{auth}"
    )
    with _in_memory(folder / "data") if in_memory else nullcontext(), _running(config, port) as host:
        yield host


@contextmanager
def _running(config: Path, port: int) -> Iterator[str]:
    # It lives for seconds: a quarter of its time went into collecting garbage.
    environment = {**os.environ, "GOGC": "800"}
    with config.with_name("log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log, env=environment)
    try:
        for _ in range(1500):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def skopeo_copy(source: str, target: str) -> None:
    """Copy an image without TLS to or from a loopback registry."""
    require("skopeo")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", source, target],
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
