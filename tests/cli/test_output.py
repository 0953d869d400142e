"""What a command prints once it is done: the next commands, tables with whole words, labels, and where there is no room."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml

from builder.cli.console import Console
from tests.support.cli import builder
from tests.support.published import patched_project, small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.services import leave_out, require
from tests.support.smallwheel import make_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    small_base(tmp_path / "project" / "base")
    return patched_project(tmp_path / "project", "oci:base")


def pasted(out: str) -> dict[str, list[str]]:
    """The commands that `build` prints, by what they do."""
    lines = out[out.index("next, with this very image:") :].splitlines()[1:]
    return {line.split()[0]: shlex.split(line.strip().partition(" ")[2]) for line in lines if line.startswith("  ")}


def test_what_build_prints_can_be_pasted(project: Path, tmp_path: Path) -> None:
    for here, name in ((project, "small"), (project / "images", "small")):
        done = builder("build", name, "--engine", "oci", cwd=here)
        assert done.code == 0, done.err
        commands = pasted(done.out)
        assert list(commands) == ["load", "run", "push", "verify"]
        assert builder(*commands["verify"][1:], cwd=here).code == 0
        shown = builder(*commands["run"][1:], "--print", cwd=here)
        assert shown.code == 0, shown.err
        digest = builder("build", name, "--engine", "oci", "--json", cwd=here).document
        assert digest["tags"][0] in shown.out
        assert digest["next"]["verify"] == shlex.join(commands["verify"])
    require("docker-registry")
    with registry(tmp_path / "registry") as host:
        path = project / "images/small.yaml"
        path.write_text(path.read_text() + f"publish: {host}/team/small\n")
        commands = pasted(builder("build", "small", "--engine", "oci", cwd=project).out)
        pushed = builder(*commands["push"][1:], cwd=project)
        assert pushed.code == 0, pushed.err


def test_a_layout_is_verified_by_its_folder(project: Path) -> None:
    assert builder("build", "small", "--engine", "oci", "--output", "oci:out", cwd=project).code == 0
    done = builder("verify", "out", cwd=project)
    assert done.code == 0, done.err
    assert builder("verify", "./out", "--against", "out", cwd=project).code == 0


def test_an_image_in_a_layout_is_named_by_its_digest_in_either_way(project: Path) -> None:
    digest = builder("build", "small", "--engine", "oci", "--output", "oci:out", "--json", cwd=project).document[
        "digest"
    ]
    for name in (digest, digest.removeprefix("sha256:")):
        done = builder("verify", f"oci:out:{name}", cwd=project)
        assert done.code == 0, done.err


def test_a_context_with_a_base_of_this_machine_is_refused(project: Path, tmp_path: Path) -> None:
    done = builder("render", "small", "--output", str(tmp_path / "context"), cwd=project)
    assert done.code == 2
    assert "only this machine has the base" in done.err
    assert "builder build small --engine docker" in done.err
    assert not (tmp_path / "context").exists()


def test_a_rendered_context_names_its_base_by_digest(tmp_path: Path) -> None:
    require("skopeo", "docker-registry")
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        project = patched_project(tmp_path / "project", f"{host}/base/image:v1")
        done = builder("render", "small", "--output", "context", cwd=project)
        assert done.code == 0, done.err
        lines = (project / "context/Dockerfile").read_text().splitlines()
        (named,) = [line for line in lines if line.startswith("FROM ")]
        lock = yaml.safe_load((project / "images/small.lock.yaml").read_text())
        assert named.split()[1].endswith(lock["base"]["digest"])


def labels(project: Path) -> dict[str, str]:
    document = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    config = project / "dist/small/blobs/sha256" / document["config_digest"].removeprefix("sha256:")
    found: dict[str, str] = json.loads(config.read_text())["config"]["Labels"]
    return {key.rpartition(".")[2]: text for key, text in found.items()}


def test_labels_that_link_a_package_come_from_the_recipe(project: Path) -> None:
    before = labels(project)
    assert not {"source", "licenses", "created", "revision"} & before.keys()
    path = project / "images/small.yaml"
    path.write_text(path.read_text() + "source: https://github.com/me/images\nlicenses: Apache-2.0 AND MIT\n")
    assert builder("build", "small", "--engine", "oci", cwd=project).code == 4
    assert builder("lock", "small", cwd=project).code == 0
    after = labels(project)
    assert (after["source"], after["licenses"]) == ("https://github.com/me/images", "Apache-2.0 AND MIT")
    assert after["created"] == "2026-04-20T10:00:00Z"
    assert labels(project) == after
    assert builder("verify", "dist/small", "--recipe", "small", cwd=project).code == 0


@pytest.mark.parametrize(
    "line", ["source: http://github.com/me/x", "source: https://me:pw@github.com/x", 'licenses: "a; b"']
)
def test_what_is_no_label_is_refused(project: Path, line: str) -> None:
    path = project / "images/small.yaml"
    path.write_text(path.read_text() + line + "\n")
    assert builder("check", "small", cwd=project).code == 2


def test_a_table_never_breaks_a_word_and_has_its_title_once() -> None:
    """On a terminal of 40 columns, 60 are needed: the lines run on instead."""
    script = (
        "import sys; from builder.cli.console import Console;"
        "Console().table(('name', 'text'), [('overlays/a-very-long-name-of-a-diff.diff', 'some words behind it')], title='A title of it')"
    )
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    done = subprocess.Popen([sys.executable, "-c", script], stdout=follower, env={**env, "TERM": "xterm"})
    os.close(follower)
    text = b""
    try:
        while chunk := os.read(leader, 4096):
            text += chunk
    except OSError:
        pass
    assert done.wait(60) == 0
    lines = text.decode().splitlines()
    assert any("overlays/a-very-long-name-of-a-diff.diff" in line for line in lines), lines
    assert text.decode().count("A title of it") == 1
    assert "behind" in text.decode()


def test_a_quiet_table_is_not_printed() -> None:
    out = StringIO()
    Console(verbosity=-1, stdout=out).table(("a",), [("b",)])
    assert out.getvalue() == ""


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        leave_out("needs to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def test_no_room_names_its_place(full: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", {})
    output = builder("build", "small", "--engine", "oci", "--output", f"oci:{full}/out", cwd=project)
    assert output.code == 0, output.err
    (full / "filler").write_bytes(b"x" * (full.stat().st_blksize * 8))
    with (full / "rest").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            pass
    for arguments in (["--output", f"oci:{full}/more"], ["--output", f"oci-archive:{full}/more.tar"]):
        done = builder("build", "small", "--engine", "oci", *arguments, cwd=project)
        assert done.code == 2, done.err
        assert str(full) in done.err
        assert "room" in done.err
    cache = builder("build", "small", "--engine", "oci", cwd=project, env={"BUILDER_CACHE_DIR": str(full)})
    assert cache.code == 2
    assert str(full) in cache.err
