"""`files:` of a recipe: text below /opt/builder/files or in a package's folder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.lock import read_lock
from tests.support.cli import Ran, builder
from tests.support.dists import ROOT, base
from tests.support.rendering import rendered_context
from tests.support.smallwheel import make_project


def project(tmp_path: Path, files: list[Any], contents: dict[str, bytes], **keys: Any) -> Path:
    base(tmp_path / "layout")
    root = make_project(tmp_path / "project", {}, base="oci:../layout:base", files=files, **keys)
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def build(root: Path) -> Ran:
    return builder("build", "small", "--engine", "oci", "--output", "oci:out", "--json", cwd=root)


def layer(root: Path) -> dict[str, tuple[bytes, int]]:
    done = build(root)
    assert done.code == 0, done.err
    data = (root / "out/blobs/sha256" / done.document["layer"]["digest"].removeprefix("sha256:")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            member.name: ((stream.read() if (stream := archive.extractfile(member)) else b""), member.mode)
            for member in archive
        }


CONTENTS = {"templates/chat.jinja": "{{ messages }} ü\n".encode(), "plugins/parser.py": b"x = 1\n", "empty.txt": b""}
FILES = [
    "templates/chat.jinja",
    {"path": "plugins/parser.py", "to": "plugins/parser.py"},
    {"path": "plugins/parser.py", "to": "plugins/deep/parser.py", "package": "vllm"},
    "empty.txt",
]


def test_files_are_in_layer_lock_and_record(tmp_path: Path) -> None:
    root = project(tmp_path, FILES, CONTENTS)
    found = layer(root)
    assert found["opt/builder/files/chat.jinja"] == (CONTENTS["templates/chat.jinja"], 0o644)
    assert found["opt/builder/files/plugins/parser.py"][0] == b"x = 1\n"
    assert found[f"{ROOT}/vllm/plugins/deep/parser.py"][0] == b"x = 1\n"
    assert found["opt/builder/files/empty.txt"][0] == b""
    assert {"opt/builder/files", "opt/builder/files/plugins", f"{ROOT}/vllm/plugins/deep"} <= set(found)
    assert f"{ROOT}/vllm" not in found
    record = json.loads(found["opt/builder/record.json"][0])
    assert {each["path"] for each in record["added"]} == {
        "opt/builder/files/chat.jinja", "opt/builder/files/plugins/parser.py", "opt/builder/files/empty.txt",
        f"{ROOT}/vllm/plugins/deep/parser.py",
    }  # fmt: skip
    assert builder("verify", "oci:out", "--recipe", "small", cwd=root).code == 0
    assert layer(root) == found
    shown = builder("check", "small", cwd=root).out
    assert "file: /opt/builder/files/chat.jinja from templates/chat.jinja" in shown
    rendered_context(root, "small")
    assert (root / "context/rootfs/opt/builder/files/plugins/parser.py").read_bytes() == b"x = 1\n"


def test_a_changed_file_stops_the_build_until_it_is_locked_again(tmp_path: Path) -> None:
    root = project(tmp_path, FILES, CONTENTS)
    first = layer(root)["opt/builder/record.json"]
    (root / "templates/chat.jinja").write_text("other\n")
    done = build(root)
    assert (done.code, "templates/chat.jinja" in done.err) == (4, True)
    assert builder("lock", "small", cwd=root).code == 0
    assert layer(root)["opt/builder/record.json"] != first
    (root / "templates/chat.jinja").unlink()
    assert build(root).code == 4
    # Whoever has the image alone can still derive it again.
    assert builder("verify", "oci:out", cwd=root).code == 0


@pytest.mark.parametrize(
    ("files", "contents", "says"),
    [
        (["a"], {}, "there is no file a"),
        (["a"], {"a": b"\xff\xfe"}, "a is not text"),
        (["a"], {"a": b"x\0y"}, "null byte"),
        (["a"], {"a": b"x" * ((1 << 20) + 1)}, "a"),
        ([{"path": "a", "to": "../x"}], {"a": b""}, "files"),
        ([{"path": "../a"}], {}, "files"),
        (["a", "b/a"], {"a": b"", "b/a": b""}, "two of them go to a"),
        ([{"path": "a", "package": "vllm", "to": "config.py"}], {"a": b""}, "which the base has"),
        ([{"path": "a", "package": "vllm", "to": "config.py/x"}], {"a": b""}, "which is a file in the base"),
        ([{"path": "a", "package": "torch"}], {"a": b""}, "which the recipe does not have"),
    ],
)
def test_what_is_not_text_or_in_the_way_is_refused(
    tmp_path: Path, files: list[Any], contents: dict[str, bytes], says: str
) -> None:
    root = project(tmp_path, files, contents)
    done = builder("check", "small", cwd=root)
    assert (done.code, says in done.err) == (2, True), done.err
    assert not (root / "images/small.lock.yaml").exists()


def test_a_lock_that_was_edited_is_noticed(tmp_path: Path) -> None:
    root = project(tmp_path, FILES, CONTENTS)
    assert builder("lock", "small", cwd=root).code == 0
    path = root / "images/small.lock.yaml"
    lock = yaml.safe_load(path.read_text())
    lock["base"]["platforms"]["linux/amd64"]["added"].pop()
    path.write_text(yaml.safe_dump(lock))
    read_lock(path)
    done = build(root)
    assert (done.code, "added" in done.err) == (4, True)
