"""The real stack of two overlays on a stand-in base image, with both engines, judged by Docker, podman and skopeo."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.util.errors import InputError
from tests.support.cli import builder
from tests.support.realstack import overlay_diffs
from tests.support.registry import registry, skopeo_copy
from tests.support.rendering import rendered_context
from tests.support.services import require
from tests.support.smallwheel import make_project
from tests.support.standin import ROOT, STALE, standin_base
from tests.support.trees import git_diff
from tests.support.wheels import python_files

PROFILES = Path(__file__).parents[2] / "profiles"
NAMES = ("smoke", "production-ceiling", "envelope-16k")
NASTY = "a 'b' \"c\" $HOME ${x} $(id) `id` {{ x }} {% y %} \\ # \u010d"


def real_project(root: Path, base: str) -> Path:
    first, second = overlay_diffs()
    project = make_project(
        root, {"20-1.diff": first, "20-2.diff": second}, base=base,
        profiles=[*NAMES, "nasty"], default_profile="smoke", checkpoint={"digest": "c0" * 32}, description=NASTY,
    )  # fmt: skip
    nasty = {
        "name": "nasty",
        "description": NASTY,
        "flags": {"chat-template": f"{NASTY}\nline", "x": f"--{NASTY}", "y": ["-", NASTY]},
    }
    (project / "profiles/nasty.yaml").write_text(yaml.safe_dump(nasty, allow_unicode=True))
    for name in NAMES:
        (project / "profiles" / f"{name}.yaml").write_bytes((PROFILES / f"{name}.yaml").read_bytes())
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    project = real_project(root / "project", f"oci:{standin_base()}")
    done = builder("lock", "small", cwd=project, env={"BUILDER_CACHE_DIR": str(root / "cache")})
    assert done.code == 0, done.err
    return project


@pytest.fixture(scope="module")
def oci(project: Path) -> Any:
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    return done.document


@pytest.fixture(scope="module")
def in_docker(project: Path, docker_engine: str) -> Any:
    done = builder("build", "small", "--engine", "docker", "--json", cwd=project, env={"DOCKER_HOST": docker_engine})
    assert done.code == 0, done.err
    return done.document


def docker(engine: str, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", "-H", engine, *arguments], capture_output=True, text=True, check=False, timeout=200
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def container_files(engine: str, image: str) -> dict[str, bytes]:
    """Every file below the package folder and /opt of an image, from a container that never runs."""
    name = docker(engine, "create", image).strip()
    try:
        exported = subprocess.run(["docker", "-H", engine, "export", name], capture_output=True, check=True).stdout
    finally:
        docker(engine, "rm", name)
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        return {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile() and member.name.startswith((f"{ROOT}/", "opt/"))
        }


def test_the_layers_files_are_exactly_those_of_the_third_release(project: Path, oci: Any) -> None:
    before, after = python_files("0.20.0"), python_files("0.20.2")
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {each["path"] for each in oci["files"]} >= changed
    for each in oci["files"]:
        wanted = after.get(each["path"])
        assert each["after"] == (hashlib.sha256(wanted).hexdigest() if wanted is not None else None)
    blob = project / "dist/small/blobs/sha256" / oci["layer"]["digest"].removeprefix("sha256:")
    with tarfile.open(blob) as archive:
        members = {member.name: member for member in archive}
        for path in changed & after.keys():
            assert archive.extractfile(members[f"{ROOT}/{path}"]).read() == after[path]  # type: ignore[union-attr]
    # Existing folders are left out; only the new ones have entries.
    folders = {name for name, member in members.items() if member.isdir()}
    assert ROOT not in folders
    assert not any(name.startswith(f"{ROOT}/vllm") for name in folders)
    assert "opt" not in folders
    assert "opt/builder" in folders


def test_the_docker_engines_package_is_the_same(docker_engine: str, project: Path, oci: Any, in_docker: Any) -> None:
    done = builder("build", "small", "--load", "--json", cwd=project, env={"DOCKER_HOST": docker_engine})
    assert done.code == 0, done.err
    loaded = done.document
    assert loaded["digest"] == oci["digest"]
    assert loaded["docker"]["id"] in (loaded["config_digest"], loaded["digest"])
    ours = container_files(docker_engine, loaded["docker"]["id"])
    theirs = container_files(docker_engine, in_docker["digest"])
    assert ours == theirs
    package = {
        path.removeprefix(f"{ROOT}/"): data for path, data in ours.items() if path.endswith(".py") and "/vllm/" in path
    }
    assert package == python_files("0.20.2")
    record = ours[f"{ROOT}/vllm-0.20.0.dist-info/RECORD"].decode()
    for path in ("vllm/config/cache.py",):
        assert path in record
    assert STALE in ours  # of a module that the stack does not change


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_the_context_builds_without_this_tool(
    docker_engine: str, project: Path, in_docker: Any, tmp_path: Path, buildkit: str
) -> None:
    context = rendered_context(project, "small", in_docker=True).rename(tmp_path / "context")
    assert {path.name for path in context.iterdir()} == {"Dockerfile", ".dockerignore", "rootfs"}
    built = subprocess.run(
        ["/usr/bin/docker", "-H", docker_engine, "build", "-q", "--network=host", str(context)],
        capture_output=True, text=True, check=False, env={**os.environ, "DOCKER_BUILDKIT": buildkit},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    image = built.stdout.strip().splitlines()[-1]
    assert container_files(docker_engine, image) == container_files(docker_engine, in_docker["digest"])


def test_docker_run_image_profile_starts_the_server_with_exactly_the_profiles_flags(
    docker_engine: str, in_docker: Any
) -> None:
    image = in_docker["output"].removeprefix("docker:")
    run = ("run", "--rm", "--network=none", "-e", "BUILDER_CHECKPOINT_CHECK=off")
    output = docker(docker_engine, *run, image, "smoke", "--exit")
    argv = json.loads(next(line for line in output.splitlines() if line.startswith("argv: "))[6:])
    flags = yaml.safe_load((PROFILES / "smoke.yaml").read_text())["flags"]
    wanted = [
        part
        for name, value in flags.items()
        for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]
    assert argv == ["serve", "/model", *wanted, "--exit"]
    assert "pid: 1" in output
    assert "3 profiles" not in docker(docker_engine, *run, image, "profiles")
    assert "files are as recorded" in docker(docker_engine, *run, "--read-only", "--user", "1000:1000", image, "verify")
    other = docker(docker_engine, *run, image, "Qwen/Qwen3-8B", "--exit")
    assert 'argv: ["serve", "Qwen/Qwen3-8B", "--exit"]' in other


def test_no_value_breaks_out_of_its_place(
    docker_engine: str, project: Path, oci: Any, in_docker: Any, tmp_path: Path
) -> None:
    """The same text as a label in both engines, and as arguments of the server."""
    labels = json.loads(docker(docker_engine, "inspect", "-f", "{{json .Config.Labels}}", in_docker["digest"]))
    assert labels["org.opencontainers.image.description"] == NASTY
    blob = project / "dist/small/blobs/sha256" / oci["config_digest"].removeprefix("sha256:")
    assert json.loads(blob.read_bytes())["config"]["Labels"] == labels
    image = in_docker["output"].removeprefix("docker:")
    output = docker(
        docker_engine, "run", "--rm", "--network=none", "-e", "BUILDER_CHECKPOINT_CHECK=off", image, "nasty", "--exit"
    )
    argv = json.loads(next(line for line in output.splitlines() if line.startswith("argv: "))[6:])
    assert argv == [
        "serve",
        "/model",
        "--chat-template",
        f"{NASTY}\nline",
        f"--x=--{NASTY}",
        "--y",
        "-",
        NASTY,
        "--exit",
    ]
    recipe = project / "images/small.yaml"
    document = yaml.safe_load(recipe.read_text())
    other = tmp_path / "images"
    other.mkdir()
    for name in ("overlays", "profiles"):
        shutil.copytree(project / name, tmp_path / name)
    (other / "lines.yaml").write_text(yaml.safe_dump({**document, "description": "one\nRUN id"}))
    with pytest.raises(InputError, match="line break"):
        rendered_context(tmp_path, "lines")


def test_a_deletion_reaches_both_engines_images_and_an_archive_loads(docker_engine: str, tmp_path: Path) -> None:
    deleted, changed = "vllm/collect_env.py", "vllm/env_override.py"
    files = python_files("0.20.0")
    before = {path: files[path] for path in (deleted, changed)}
    after = {changed: before[changed] + b"# changed\n"}
    project = make_project(
        tmp_path / "p", {"delete.diff": git_diff(tmp_path / "d", before, after)}, base=f"oci:{standin_base()}"
    )
    engine = {"DOCKER_HOST": docker_engine}
    in_docker = builder("build", "small", "--engine", "docker", "--json", cwd=project, env=engine)
    assert in_docker.code == 0, in_docker.err
    archive = tmp_path / "image.tar"
    oci = builder("build", "small", "--output", f"oci-archive:{archive}", "--json", cwd=project)
    assert oci.code == 0, oci.err
    assert f"small:{oci.document['tags'][0]}" in docker(docker_engine, "load", "-i", str(archive))
    ids = json.loads(docker(docker_engine, "image", "inspect", f"small:{oci.document['tags'][0]}"))[0]["Id"]
    assert ids in (oci.document["config_digest"], oci.document["digest"])
    subprocess.run(
        ["skopeo", "inspect", f"oci-archive:{archive}:{oci.document['tags'][0]}"], check=True, capture_output=True
    )
    ours, theirs = (container_files(docker_engine, image) for image in (ids, in_docker.document["digest"]))
    assert ours == theirs
    assert f"{ROOT}/{deleted}" not in ours
    assert STALE not in ours
    assert ours[f"{ROOT}/{changed}"] == after[changed]


def test_docker_stop_reaches_the_server(docker_engine: str, in_docker: Any) -> None:
    image = in_docker["output"].removeprefix("docker:")
    name = docker(
        docker_engine, "run", "-d", "--network=none", "-e", "BUILDER_CHECKPOINT_CHECK=off", image, "smoke"
    ).strip()
    try:
        for _ in range(100):
            if "startup complete" in docker(docker_engine, "logs", name):
                break
            time.sleep(0.1)
        docker(docker_engine, "stop", "-t", "20", name)
        assert "saw SIGTERM" in docker(docker_engine, "logs", name)
        assert docker(docker_engine, "inspect", "-f", "{{.State.ExitCode}}", name).strip() == "0"
    finally:
        docker(docker_engine, "rm", "-f", name)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        skopeo_copy(f"oci:{standin_base()}:base", f"docker://{address}/vllm/vllm-openai:v0.20.0")
        yield address


def test_skopeo_takes_the_layout_into_a_registry_and_podman_runs_it(project: Path, oci: Any, hub: str) -> None:
    skopeo_copy(f"oci:{project}/dist/small:{oci['tags'][0]}", f"docker://{hub}/team/patched:{oci['tags'][0]}")
    inspected = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{hub}/team/patched:{oci['tags'][0]}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    document = json.loads(inspected.stdout)
    assert document["Digest"] == oci["digest"]
    assert document["Labels"]["org.opencontainers.image.base.name"].startswith("oci:")
    require("podman", "runc")
    done = subprocess.run(
        [
            "podman", "--runtime", "/usr/sbin/runc", "run", "--rm", "--tls-verify=false", "--network=none",
            "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1000:1000", f"{hub}/team/patched:{oci['tags'][0]}", "verify",
        ],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert "files are as recorded" in done.stdout, done.stderr


def test_a_registry_base_by_mirror_gives_the_same_layer(oci: Any, hub: str, tmp_path: Path) -> None:
    project = real_project(tmp_path / "p", "vllm/vllm-openai:v0.20.0")
    mirror = {"BUILDER_REGISTRY_MIRRORS": f"docker.io=http://{hub}", "BUILDER_CACHE_DIR": str(tmp_path / "cache")}
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project, env=mirror)
    assert done.code == 0, done.err
    assert not done.document["complete"]
    assert {each["path"]: each["after"] for each in done.document["files"]} == {
        each["path"]: each["after"] for each in oci["files"]
    }
    # From here on the lock and the cache are enough: no network, and the same digest.
    again = builder("build", "small", "--engine", "oci", "--offline", "--json", cwd=project, env={**mirror, "BUILDER_REGISTRY_MIRRORS": "docker.io=http://127.0.0.1:9"})  # fmt: skip
    assert again.code == 0, again.err
    assert again.document["digest"] == done.document["digest"]
    whole = builder("build", "small", "--engine", "oci", "--with-base", "--output", f"oci:{tmp_path}/whole", "--json", cwd=project, env=mirror)  # fmt: skip
    assert whole.code == 0, whole.err
    assert whole.document["digest"] == done.document["digest"]
    skopeo_copy(f"oci:{tmp_path}/whole:{done.document['tags'][0]}", f"docker://{hub}/team/whole:x")


def test_a_docker_base_is_read_by_its_own_python(docker_engine: str, in_docker: Any, tmp_path: Path) -> None:
    base = next(
        line
        for line in docker(docker_engine, "images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
        if "base" in line
    )
    project = real_project(tmp_path / "p", f"docker:{base}")
    done = builder("build", "small", "--json", cwd=project, env={"DOCKER_HOST": docker_engine})
    assert done.code == 0, done.err
    assert done.document["engine"] == "docker"
    assert done.document["files"] == in_docker["files"]
    refused = builder("build", "small", "--engine", "oci", cwd=project, env={"DOCKER_HOST": docker_engine})
    assert refused.code == 2
    assert "--engine docker" in refused.err


def test_without_a_daemon_make_build_takes_the_oci_engine(project: Path, oci: Any) -> None:
    nobody = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = builder("build", "small", "--json", cwd=project, env=nobody)
    assert done.code == 0, done.err
    assert done.document["engine"] == "oci"
    assert done.document["digest"] == oci["digest"]
    asked = builder("build", "small", "--engine", "docker", cwd=project, env=nobody)
    assert asked.code == 5
    assert "Docker does not respond" in asked.err
