"""A base in a registry: nested indexes, hard links over layers, and what it sends is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.bases import (
    PATCHED,
    PYTHON,
    ROOT,
    SOURCE,
    Item,
    Made,
    build,
    built_layer,
    hardlink,
    layer,
    package,
    recipe,
)  # fmt: skip
from tests.support.registry import registry

AMD64 = {"platform": {"os": "linux", "architecture": "amd64"}}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def push(host: str, name: str, made: Made, top: dict[str, Any]) -> None:
    """Store everything of a layout: blobs, then manifests and indexes, those that others name first."""
    waiting = []
    for digest, data in made.blobs.items():
        if b'"schemaVersion"' in data:
            waiting.append(data)
            continue
        opened = requests.post(f"http://{host}/v2/{name}/blobs/uploads/", timeout=30)
        where = opened.headers["Location"]
        where = where if where.startswith("http") else f"http://{host}{where}"
        sent = requests.put(
            f"{where}{'&' if '?' in where else '?'}digest=sha256:{digest}", data=data, timeout=30,
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        assert sent.status_code == 201, sent.text
    for data in waiting:
        media_type = (
            "application/vnd.oci.image.index.v1+json"
            if b'"manifests"' in data
            else "application/vnd.oci.image.manifest.v1+json"
        )
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for reference in (digest, *(["v1"] if digest == top["digest"] else [])):
            sent = requests.put(
                f"http://{host}/v2/{name}/manifests/{reference}",
                data=data,
                headers={"Content-Type": media_type},
                timeout=30,
            )
            assert sent.status_code == 201, sent.text


@pytest.mark.parametrize(
    "kind", ["nested", "no platform", "hard link in a lower layer", "file in two lower layers", "venv below"]
)
def test_a_base_in_a_registry(kind: str, host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(tmp_path / "unused")
    root = ROOT
    env = ["PATH=/usr/local/bin:/usr/bin"]
    layers = [layer(*PYTHON), layer(Item("opt/store/a", SOURCE)), layer(Item("srv/x", b"")), layer(*package())]
    if kind == "hard link in a lower layer":
        layers[3] = layer(*package(without=["vllm/a.py"]), hardlink(f"{ROOT}/vllm/a.py", "opt/store/a"))
    if kind == "file in two lower layers":
        layers[0] = layer(*PYTHON, Item(f"{ROOT}/vllm/a.py", b"old\n"))
        layers[1] = layer(Item(f"{ROOT}/vllm/a.py", SOURCE))
        layers[3] = layer(*package(without=["vllm/a.py"]))
    if kind == "venv below":
        env = ["PATH=/opt/venv/bin:/usr/bin"]
        root = "opt/venv/lib/python3.12/site-packages"
        layers[1] = layer(
            Item("opt/venv/bin/python3", b"", mode=0o755),
            Item("opt/venv/pyvenv.cfg", b"version = 3.12.1\n"),
            *package(root),
        )
        layers[3] = layer(*package(source=SOURCE.replace(b"x10 = 10", b"x10 = 10 ")))
    more: dict[str, Any] = {} if kind == "no platform" else AMD64
    image = made.image(layers, env=env, **more)
    top = made.index(made.index(image)) if kind == "nested" else made.index(image)
    name = f"team/{kind.replace(' ', '-')}"
    push(host, name, made, top)
    recipe(tmp_path)
    text = (tmp_path / "r.yaml").read_text()
    (tmp_path / "r.yaml").write_text(text.replace("oci:base", f"{host}/{name}:v1"))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 0, outcome.message
    assert built_layer(tmp_path, outcome)[f"{root}/vllm/a.py"] == PATCHED
