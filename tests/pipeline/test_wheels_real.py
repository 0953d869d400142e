"""A newer transformers over the one that a wheel base names: the real distributions of the package index."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest

from builder.base.wheel import OFFICIAL_ROOT
from builder.documents.lock import read_lock
from tests.support.cli import builder
from tests.support.services import leave_out
from tests.support.smallwheel import make_project

pytestmark = pytest.mark.wheels

BASE = "wheel:vllm==0.20.0+transformers==5.5.4"
NEWER = "transformers==5.6.2"


def test_a_newer_transformers_replaces_the_bases(tmp_path: Path) -> None:
    root = make_project(tmp_path, {}, base=BASE, wheels=[NEWER])
    done = builder("build", "small", "--engine", "oci", "--output", "oci:out", "--json", cwd=root)
    if done.code == 5:
        leave_out("needs transformers from the package index")
    assert done.code == 0, done.err
    locked = next(iter(read_lock(root / "images/small.lock.yaml").base.platforms.values()))
    (installed,) = locked.installed
    assert (installed.name, installed.version, installed.replaces) == ("transformers", "5.6.2", "transformers==5.5.4")
    assert not installed.native
    # vLLM's own demand of transformers is met; what a base of wheels does not show is not called met.
    assert len(locked.unmet) == 1 and locked.unmet[0].startswith("not checked: ")
    data = (root / "out/blobs/sha256" / done.document["layer"]["digest"].removeprefix("sha256:")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = set(archive.getnames())
        stream = archive.extractfile(f"{OFFICIAL_ROOT}/transformers-5.6.2.dist-info/RECORD")
        assert stream is not None
        rows = list(csv.reader(io.StringIO(stream.read().decode())))
    assert len(rows) > 1000
    inside = {f"{OFFICIAL_ROOT}/{path}" for path, *_ in rows if not path.startswith("..")}
    assert inside <= names
    assert f"{OFFICIAL_ROOT}/.wh.transformers-5.5.4.dist-info" in names
    assert "usr/local/bin/transformers" in names
    again = builder("build", "small", "--engine", "oci", "--output", "oci:again", "--json", "--offline", cwd=root)
    assert again.code == 0, again.err
    assert again.document["digest"] == done.document["digest"]
    verified = builder("verify", "oci:out", "--json", cwd=root)
    assert verified.code == 0, verified.err


def test_one_that_vllm_does_not_take_is_refused(tmp_path: Path) -> None:
    root = make_project(tmp_path, {}, base=BASE, wheels=["transformers==5.3.0"])
    done = builder("check", "small", cwd=root)
    if done.code == 5:
        leave_out("needs transformers from the package index")
    assert done.code == 2
    assert "vllm 0.20.0 requires transformers" in done.err and "it is 5.3.0" in done.err
    root = make_project(tmp_path / "none", {}, base=BASE, wheels=["transformers==5.999.0"])
    none = builder("check", "small", cwd=root)
    assert none.code == 2
    assert "the newest that it has: " in none.err


def test_one_wheel_for_this_python_and_processor_is_chosen(tmp_path: Path) -> None:
    """tokenizers has wheels for many systems; the base's Python is 3.12 on amd64."""
    root = make_project(tmp_path, {}, base=BASE, wheels=["tokenizers==0.22.1"])
    done = builder("check", "small", "--json", cwd=root)
    if done.code == 5:
        leave_out("needs tokenizers from the package index")
    assert done.code == 0, done.err
    (wheel,) = done.document["platforms"][0]["wheels"]
    assert "manylinux" in wheel["file"] and wheel["file"].endswith("x86_64.whl") and wheel["native"] is True
    assert json.dumps(wheel["sha256"])
