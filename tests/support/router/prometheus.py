"""Debian's Prometheus with the files of a router."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from builder.serve.container import free_port
from tests.support.services import require

_WAIT_SECONDS = 120


@contextmanager
def prometheus(folder: Path, *, router: str) -> Iterator[str]:
    """The address of one that runs with the files in `folder`; it asks `router` (HOST:PORT) and the backends each second."""
    require("prometheus")
    path = folder / "prometheus.yml"
    document = yaml.safe_load(path.read_text())
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    document["scrape_configs"][0]["static_configs"][0]["targets"] = [router]
    path.write_text(yaml.safe_dump(document))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus", "--config.file=prometheus.yml", f"--web.listen-address={address}", f"--storage.tsdb.path={folder}/data",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        _wait(f"http://{address}", process, folder / "log")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if requests.get(f"{url}/-/ready", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


def firing(url: str) -> dict[str, list[dict[str, str]]]:
    """The labels of what fires, by the name of the alert."""
    reply = requests.get(f"{url}/api/v1/query", params={"query": 'ALERTS{alertstate="firing"}'}, timeout=30)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in reply.json()["data"]["result"]:
        found.setdefault(each["metric"]["alertname"], []).append(each["metric"])
    return found


def until_firing(url: str, wanted: set[str]) -> dict[str, list[dict[str, str]]]:
    """Wait until exactly these alerts fire."""
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        found = firing(url)
        if set(found) == wanted:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{wanted} were to fire: {found}")
