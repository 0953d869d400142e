"""The published image in other people's hands: Docker, podman, skopeo and buildah; two platforms; other registries."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_engines import docker, real_project
from tests.support.cli import builder
from tests.support.published import held, patched_project, small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require, require_root
from tests.support.standin import standin_base


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("hub")) as host:
        skopeo_copy(f"oci:{standin_base()}:base", f"docker://{host}/vllm/vllm-openai:v0.20.0")
        yield host


@pytest.fixture(scope="module")
def published(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = real_project(tmp_path_factory.mktemp("judges") / "project", f"{hub}/vllm/vllm-openai:v0.20.0")
    done = builder("publish", "small", "--to", f"{hub}/team/vllm", "--move", "--json", cwd=project)
    assert done.code == 0, done.err
    assert done.document["streamed_bytes"] == 0
    return done.document


def test_docker_pulls_and_runs_it(docker_engine: str, published: Any) -> None:
    docker(docker_engine, "pull", "-q", published["reference"])
    said = docker(docker_engine, "run", "--rm", "--network=none", published["reference"], "verify")
    assert "files are as recorded" in said
    argv = docker(
        docker_engine, "run", "--rm", "--network=none", "-e", "BUILDER_CHECKPOINT_CHECK=off", published["reference"], "smoke", "--exit",
    )  # fmt: skip
    assert '"serve", "/model"' in argv


def test_podman_skopeo_and_buildah_take_it(hub: str, published: Any, tmp_path: Path) -> None:
    require("podman", "buildah", "skopeo", "runc")
    require_root()
    inspected = json.loads(
        run("skopeo", "inspect", "--tls-verify=false", f"docker://{hub}/team/vllm:{published['tags'][1]}")
    )
    assert inspected["Digest"] == published["digest"]
    skopeo_copy(f"docker://{published['reference']}", f"oci:{tmp_path}/copy:x")
    limits = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1000:1000")
    said = run(
        "podman", "--runtime", "/usr/sbin/runc", "run", "--rm", "--tls-verify=false", "--network=none", *limits,
        published["reference"], "verify",
    )  # fmt: skip
    assert "files are as recorded" in said
    name = run("buildah", "--storage-driver", "vfs", "--root", str(tmp_path / "b"), "--runroot", str(tmp_path / "r"),
               "from", "--tls-verify=false", published["reference"]).strip().splitlines()[-1]  # fmt: skip
    config = json.loads(run("buildah", "--storage-driver", "vfs", "--root", str(tmp_path / "b"), "--runroot", str(tmp_path / "r"),
                            "inspect", name))  # fmt: skip
    assert config["OCIv1"]["config"]["Entrypoint"][0] == "/opt/builder/serve"


def two_platforms(folder: Path) -> Path:
    """A layout with an index of two images, whose packages stand in different places."""
    import hashlib

    base = small_base(folder)
    blobs = base / "blobs/sha256"

    def put(document: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    entry = json.loads((base / "index.json").read_bytes())["manifests"][0]
    manifest = json.loads((blobs / entry["digest"][7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    entries = []
    for architecture in ("amd64", "arm64"):
        own = {**manifest, "config": {**manifest["config"], **put({**config, "architecture": architecture})}}
        entries.append(
            {"mediaType": own["mediaType"], **put(own), "platform": {"os": "linux", "architecture": architecture}}
        )
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
    top = {"mediaType": kind, **put(index), "annotations": {"org.opencontainers.image.ref.name": "base"}}
    (base / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return base


def test_two_platforms_give_one_index_with_evidence_for_each(hub: str, tmp_path: Path) -> None:
    skopeo_copy(f"oci:{two_platforms(tmp_path / 'layout')}:base", f"docker://{hub}/base/multi:v1")
    project = patched_project(
        tmp_path / "project", f"{hub}/base/multi:v1", platforms=["linux/amd64", "linux/arm64"],
    )  # fmt: skip
    done = builder("publish", "small", "--to", f"{hub}/team/multi", "--json", cwd=project)
    assert done.code == 0, done.err
    tag = done.document["tags"][0]
    assert held(hub, "team/multi", tag, evidence=2) == done.document["digest"]
    for architecture in ("amd64", "arm64"):
        text = run("skopeo", "inspect", "--tls-verify=false", "--override-arch", architecture, "--config",
                   f"docker://{hub}/team/multi:{tag}")  # fmt: skip
        config = json.loads(text)
        assert config["architecture"] == architecture
        assert config["config"]["Entrypoint"][0] == "/opt/builder/serve"
    skopeo_copy(f"docker://{hub}/team/multi:{tag}", f"oci:{tmp_path}/all:x")
    checked = builder("verify", f"{hub}/team/multi:{tag}", "--recipe", "small", "--rebuild", "--json", cwd=project)
    assert checked.code == 0, checked.err
    assert [each["platform"] for each in checked.document["platforms"]] == ["linux/amd64", "linux/arm64"]
    # Per platform SBOM, provenance, lock and sources; provenance, lock and sources of the index.
    assert checked.document["evidence"] == 11


def test_many_recipes_at_once_and_one_that_fails(hub: str, tmp_path: Path) -> None:
    skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{hub}/base/many:v1")
    project = patched_project(tmp_path / "project", f"{hub}/base/many:v1", publish=f"{hub}/team/many")
    text = (project / "images/small.yaml").read_text()
    for number in range(4):
        (project / f"images/more{number}.yaml").write_text(text.replace("name: small", f"name: more{number}"))
    (project / "images/broken.yaml").write_text(
        text.replace("name: small", "name: broken").replace("base/many", "base/gone")
    )
    assert builder("lock", "small", cwd=project).code == 0
    names = sorted(f"images/{path.name}" for path in (project / "images").iterdir())
    assert "images/small.lock.yaml" in names
    done = builder("publish", *names, "--json", cwd=project)
    assert done.code == 5
    error = done.document["error"]
    assert list(error["failed"]) == ["images/broken.yaml"]
    assert len(error["images"]) == 5
    for image in error["images"]:
        assert held(hub, "team/many", image["tags"][0], evidence=3) == image["digest"]
    (project / "images/broken.yaml").unlink()
    good = builder("publish", *[name for name in names if "broken" not in name], "--json", cwd=project)
    assert good.code == 0, good.err
    assert "more3" in builder("publish", *[name for name in names if "broken" not in name], cwd=project).out


def test_several_targets_get_the_same_image(hub: str, tmp_path: Path) -> None:
    skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{hub}/base/several:v1")
    project = patched_project(tmp_path / "project", f"{hub}/base/several:v1")
    with registry(tmp_path / "second") as second:
        names = (f"{hub}/team/several", f"{second}/team/several")
        done = builder("publish", "small", "--to", names[0], "--to", names[1], "--tag", "latest", "--json", cwd=project)
        assert done.code == 0, done.err
        digests = {image["digest"] for image in done.document["images"]}
        assert len(digests) == 1
        assert {held(host, "team/several", "latest", evidence=3) for host in (hub, second)} == digests


def test_a_read_only_registry_and_wrong_names_end_with_a_hint(hub: str, tmp_path: Path) -> None:
    skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{hub}/base/ro:v1")
    project = patched_project(tmp_path / "project", f"{hub}/base/ro:v1")
    with registry(tmp_path / "ro", read_only=True) as host:
        refused = builder("publish", "small", "--to", f"{host}/team/x", cwd=project)
        assert refused.code == 5
        assert "405" in refused.err or "refuses" in refused.err
    tagged = builder("publish", "small", "--to", f"{hub}/team/x:tag", cwd=project)
    assert tagged.code == 2
    assert "the tags follow from the lock" in tagged.err
    nowhere = builder("publish", "small", cwd=project)
    assert nowhere.code == 2
    assert "--to" in nowhere.err


def test_tls_with_an_own_authority(hub: str, tmp_path: Path) -> None:
    require("openssl")
    skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{hub}/base/tls:v1")
    project = patched_project(tmp_path / "project", f"{hub}/base/tls:v1")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem",
         "-days", "2", "-subj", "/CN=registry.test", "-addext", "subjectAltName=DNS:registry.test"],
        check=True, capture_output=True,
    )  # fmt: skip
    with registry(tmp_path / "tls", tls=(tmp_path / "cert.pem", tmp_path / "key.pem")) as host:
        # The name is not loopback's, so the tool speaks TLS; a mirror says where it is.
        port = host.rpartition(":")[2]
        env = {"BUILDER_REGISTRY_MIRRORS": f"registry.test=https://localhost:{port}"}
        untrusted = builder("publish", "small", "--to", "registry.test/team/x", cwd=project, env=env)
        assert untrusted.code == 5
        subprocess.run(
            ["openssl", "req", "-x509", "-key", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
            check=True, capture_output=True,
        )  # fmt: skip
    with registry(tmp_path / "tls2", tls=(tmp_path / "cert.pem", tmp_path / "key.pem")) as host:
        port = host.rpartition(":")[2]
        env = {
            "BUILDER_REGISTRY_MIRRORS": f"registry.test=https://localhost:{port}",
            "REQUESTS_CA_BUNDLE": str(tmp_path / "cert.pem"),
        }
        done = builder("publish", "small", "--to", "registry.test/team/x", "--json", cwd=project, env=env)
        assert done.code == 0, done.err


def test_the_matrix_builds_with_any_buildkit(docker_engine: str, hub: str, tmp_path: Path) -> None:
    """docker-bake.json names contexts and tags that `docker buildx bake` takes; here each target is built by docker build."""
    skopeo_copy(f"oci:{standin_base()}:base", f"docker://{hub}/base/bake:v1")
    project = real_project(tmp_path / "project", f"{hub}/base/bake:v1")
    text = (project / "images/small.yaml").read_text()
    (project / "images/other.yaml").write_text(text.replace("name: small", "name: other"))
    done = builder("render", "small", "other", "--output", str(tmp_path / "out"), "--bake", "--json", cwd=project)
    assert done.code == 0, done.err
    bake = json.loads((tmp_path / "out/docker-bake.json").read_text())
    assert bake["group"]["default"]["targets"] == ["small", "other"]
    assert set(bake["target"]) == {"small", "other"}
    target = bake["target"]["other"]
    assert target["platforms"] == ["linux/amd64"]
    built = subprocess.run(
        ["/usr/bin/docker", "-H", docker_engine, "build", "-q", "--network=host", "-t", target["tags"][0], target["context"]],
        cwd=tmp_path / "out", capture_output=True, text=True, check=False, env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "files are as recorded" in docker(
        docker_engine, "run", "--rm", "--network=none", target["tags"][0], "verify"
    )
