"""What an overlay is (title, author, state, why it is there, when it can go) stands in every command's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.lock import read_lock
from builder.oci.types import OCI_MANIFEST, Descriptor
from builder.release.evidence.provenance import make_provenance
from builder.release.evidence.sbom import make_sbom
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff

BASE = "wheel:vllm-0.0.1-py3-none-any.whl"
FACTS = {"title": "Twenty", "author": "A. Thor", "why": "because of\ntwenty", "drop_when": "0.1 is out"}
LINE = "overlays/one.diff  title: Twenty · author: A. Thor · why: because of twenty · drop when: 0.1 is out"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    edited = FILES["vllm/config.py"].replace(b"option_20 = 20\n", b"option_20 = 2020\n")
    diffs = {"one.diff": git_diff(tmp_path / "1", FILES, {**FILES, "vllm/config.py": edited})}
    made = make_project(tmp_path / "project", diffs)
    path = made / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["overlays"][0] |= FACTS
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert builder("lock", "small", "-q", cwd=made).code == 0
    return made


def told(document: Any) -> list[dict[str, Any]]:
    """All objects of a document that have the facts of the overlay, wherever they stand."""
    found = [document] if isinstance(document, dict) and FACTS.items() <= document.items() else []
    parts = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return found + [each for part in parts for each in told(part)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("lock", "small"), ("check", "small"), ("build", "small", "--engine", "oci", "--output", "oci:out"),
        ("rebase", "small", "--base", BASE), ("drift", "small"),
    ],
    ids=lambda each: each[0],
)  # fmt: skip
def test_commands_say_what_an_overlay_is(arguments: tuple[str, ...], project: Path) -> None:
    if arguments[0] != "drift":
        said = builder(*arguments, cwd=project)
        assert said.code == 0, said.err
        assert LINE in said.out
    assert told(builder(*arguments, "--json", cwd=project).document)


def test_an_image_and_its_evidence_say_it(project: Path) -> None:
    assert builder("build", "small", "--engine", "oci", "--output", "oci:out", cwd=project).code == 0
    said = builder("verify", "oci:out", cwd=project)
    assert f"  overlay {LINE}" in said.out
    document = builder("verify", "oci:out", "--json", cwd=project).document
    assert {**FACTS, "id": "overlays/one.diff", "state": None}.items() <= document["overlays"][0].items()
    lock = read_lock(project / "images/small.lock.yaml")
    subject = Descriptor(OCI_MANIFEST, f"sha256:{'0' * 64}", 1)
    text = json.dumps(json.loads(make_provenance(lock, subject, ["linux/amd64"])))
    assert '"dropWhen": "0.1 is out"' in text
    assert "overlay:1:drop_when" in make_sbom(lock, "linux/amd64", subject).decode()


def test_an_overlay_that_does_not_apply_is_introduced(project: Path) -> None:
    (project / "overlays/two.diff").write_bytes((project / "overlays/one.diff").read_bytes())
    path = project / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["overlays"].append({"file": "overlays/two.diff", "title": "Again", "why": "by mistake"})
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    for command in (("lock", "small"), ("lock", "small", "--json")):
        done = builder(*command, cwd=project)
        assert done.code == 3
        assert "overlay  title: Again · why: by mistake" in done.err
    assert done.document["error"]["about"]["why"] == "by mistake"
