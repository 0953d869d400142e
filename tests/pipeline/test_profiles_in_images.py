"""Profiles on their way into an image: variables, inheritance and the default, through the whole command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.documents.lock import read_lock
from builder.documents.record import read_record
from builder.release.verify.tars import layer_tar, read_tar
from tests.support.cli import builder
from tests.support.smallwheel import make_project


def project(tmp_path: Path, profiles: dict[str, str]) -> Path:
    root = make_project(tmp_path, {}, profiles=list(profiles), default_profile=None)
    for name, text in profiles.items():
        (root / "profiles" / f"{name}.yaml").write_text(f"name: {name}\n{text}\n")
    return root


def record_in(root: Path) -> dict[str, Any]:
    """The record of the layout in `out`."""
    blobs = root / "out/blobs/sha256"
    index = json.loads((root / "out/index.json").read_text())
    tagged = [each for each in index["manifests"] if "org.opencontainers.image.ref.name" in each.get("annotations", {})]
    manifest = json.loads((blobs / tagged[0]["digest"].removeprefix("sha256:")).read_text())
    layer = (blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")).read_bytes()
    data = {entry.name: entry.data for entry in read_tar(layer_tar(layer)).entries}["opt/builder/record.json"]
    read_record(data)
    document: dict[str, Any] = json.loads(data)
    return document


def test_variables_and_what_is_extended_are_in_lock_and_record(tmp_path: Path) -> None:
    root = project(tmp_path, {"p": "extends: base\nflags: {seed: 2}\nenv: {NCCL_DEBUG: INFO}"})
    (root / "profiles/base.yaml").write_text("name: base\nflags: {max-model-len: 16}\nenv: {VLLM_X: '1'}\n")
    done = builder("build", "small", "--engine", "oci", "--output", "oci:out", cwd=root)
    assert done.code == 0, done.err
    (locked,) = read_lock(root / "images/small.lock.yaml").profiles
    assert (locked.extends, locked.env) == (None, {"VLLM_X": "1", "NCCL_DEBUG": "INFO"})
    record = record_in(root)
    assert record["profiles"]["p"]["env"] == {"VLLM_X": "1", "NCCL_DEBUG": "INFO"}
    assert record["profiles"]["p"]["argv"] == ["--max-model-len", "16", "--seed", "2"]
    # One profile alone is the default.
    assert record["default_profile"] == "p"
    assert builder("verify", "oci:out", "--recipe", "small", cwd=root).code == 0
    (root / "profiles/base.yaml").write_text("name: base\nflags: {max-model-len: 17}\n")
    stale = builder("build", "small", "--engine", "oci", "--output", "oci:out", cwd=root)
    assert (stale.code, "profiles/p.yaml" in stale.err) == (4, True)


def test_without_a_default_check_says_what_the_image_does(tmp_path: Path) -> None:
    root = project(tmp_path, {"p": "flags: {max-model-len: 16}", "q": "flags: {max-model-len: 17}"})
    done = builder("check", "small", "--json", cwd=root)
    assert done.document["default_profile"] is None
    assert "lists them and exits with 2" in done.document["notes"][0]
    assert "no default profile among p, q" in done.err
    assert builder("build", "small", "--engine", "oci", "--output", "oci:out", cwd=root).code == 0
    assert record_in(root)["default_profile"] is None


def test_a_secret_stops_the_lock(tmp_path: Path) -> None:
    root = project(tmp_path, {"p": "flags: {}\nenv:\n  HF_TOKEN: x"})
    done = builder("lock", "small", cwd=root)
    assert (done.code, "HF_TOKEN" in done.err, "is a secret" in done.err) == (2, True, True)
