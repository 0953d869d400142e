"""A checkpoint in a registry: its digest is known from the manifest, and it is pulled file by file, checked."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.checkpoint.artifact import pull, read_artifact
from builder.checkpoint.digest import digest_directory
from builder.documents.lock import read_lock
from builder.oci.registry.client import Registry
from builder.serve.container import model_folder
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError
from builder.util.project import find_project
from tests.serve.test_deploy import IMAGE
from tests.support.cli import builder
from tests.support.published import patched_project, small_base
from tests.support.registry import registry, skopeo_copy

pytestmark = pytest.mark.service("docker-registry")

MODEL = Path(__file__).parents[2] / "overlays/demo/checkpoint"
TITLE = "org.opencontainers.image.title"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def host(storage: Path) -> Iterator[str]:
    with registry(storage) as found:
        yield found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def push(host: str, folder: Path, name: str = "team/weights", **annotations: str) -> str:
    """Push a folder as `oras push` does: a blob for each file, named by its title."""
    blobs = {
        path: (folder / path).read_bytes()
        for path in sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    }
    layers = [
        {
            "mediaType": "application/octet-stream",
            **_blob(host, name, data),
            "annotations": {TITLE: path, **annotations},
        }
        for path, data in blobs.items()
    ]
    return _manifest(host, name, layers)


def _blob(host: str, name: str, data: bytes) -> dict[str, Any]:
    import requests

    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    begun = requests.post(f"http://{host}/v2/{name}/blobs/uploads/", timeout=30)
    sent = requests.put(begun.headers["Location"], params={"digest": digest}, data=data, timeout=30)
    assert sent.status_code == 201
    return {"digest": digest, "size": len(data)}


def _manifest(host: str, name: str, layers: list[dict[str, Any]]) -> str:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", **_blob(host, name, b"{}")}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.test",
        "config": empty,
        "layers": layers,
    }
    data = json.dumps(document).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    Registry(host).put_manifest(name, digest, data, MANIFEST)
    return f"{host}/{name}@{digest}"


def test_the_digest_is_that_of_the_folder_and_nothing_large_is_read(host: str) -> None:
    found = read_artifact(push(host, MODEL), context=Context())
    assert not found.mounted
    assert found.digest() == digest_directory(MODEL, context=Context())


def test_it_is_pulled_once_and_is_the_folder(host: str, own_cache: Path) -> None:
    text, wanted = push(host, MODEL), digest_directory(MODEL, context=Context()).digest
    folder = pull(text, wanted, context=Context())
    assert folder == own_cache / "checkpoints" / wanted
    assert digest_directory(folder, context=Context()).digest == wanted
    assert [each.name for each in folder.parent.iterdir()] == [wanted]
    assert pull(text, wanted, context=Context()) == folder


def test_another_checkpoint_is_refused(host: str, own_cache: Path) -> None:
    with pytest.raises(InputError, match="another checkpoint"):
        pull(push(host, MODEL), "0" * 64, context=Context())
    assert not list(own_cache.rglob("*.safetensors"))


def test_a_changed_blob_leaves_nothing(host: str, storage: Path, tmp_path: Path, own_cache: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model/config.json").write_text("{ }")
    text, wanted = (
        push(host, tmp_path / "model", "team/changed"),
        digest_directory(tmp_path / "model", context=Context()).digest,
    )
    digest = hashlib.sha256(b"{ }").hexdigest()
    (held,) = storage.rglob(f"sha256/{digest[:2]}/{digest}/data")
    held.write_bytes(b"{x}")
    with pytest.raises(BuilderError):
        pull(text, wanted, context=Context())
    assert not (own_cache / "checkpoints" / wanted).exists()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", ""])
def test_a_file_outside_the_checkpoint_is_refused(host: str, path: str) -> None:
    layer = {"mediaType": "application/octet-stream", **_blob(host, "team/bad", b"x"), "annotations": {TITLE: path}}
    with pytest.raises(InputError):
        read_artifact(_manifest(host, "team/bad", [layer]), context=Context())


def test_an_archived_folder_is_refused_and_a_digest_is_wanted(host: str) -> None:
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        **_blob(host, "team/bad", b"x"),
        "annotations": {TITLE: "model", "io.deis.oras.content.unpack": "true"},
    }
    with pytest.raises(InputError, match="not a file"):
        read_artifact(_manifest(host, "team/bad", [layer]), context=Context())
    with pytest.raises(InputError, match="no digest"):
        read_artifact(f"{host}/team/weights:v1", context=Context())


def project_with(folder: Path, **checkpoint: str) -> Path:
    small_base(folder / "base")
    project = patched_project(folder, "oci:base")
    (path,) = project.rglob("small.yaml")
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**document, "checkpoint": checkpoint}))
    return project


def test_a_recipe_names_an_artifact_and_run_mounts_what_was_pulled(host: str, tmp_path: Path, own_cache: Path) -> None:
    text, wanted = push(host, MODEL), digest_directory(MODEL, context=Context()).digest
    project = project_with(tmp_path / "project", oci=text)
    assert builder("lock", "small", cwd=project).code == 0
    (lock,) = project.rglob("small.lock.yaml")
    locked = yaml.safe_load(lock.read_text())["checkpoint"]
    assert (locked["digest"], locked["oci"]) == (wanted, text)
    assert {each["path"] for each in locked["files"]} == {
        each[0] for each in digest_directory(MODEL, context=Context()).files
    }
    assert builder("lock", "small", "--check", cwd=project).code == 0
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    assert not (own_cache / "checkpoints").exists()
    shown = builder("run", "small", "tiny", "--print", "--json", cwd=project)
    assert shown.code == 0, shown.err
    folder = own_cache / "checkpoints" / wanted
    assert f"{folder}:/model:ro" in shown.document["argv"]
    assert not folder.exists()
    # What would be exec'ed, without a Docker: the checkpoint is there before it.
    assert (
        model_folder(find_project(str(lock.with_name("small.yaml"))), read_lock(lock), None, context=Context())
        == folder
    )
    assert digest_directory(folder, context=Context()).digest == wanted


def test_an_image_needs_the_digest_and_is_mounted_by_kubernetes(host: str, tmp_path: Path) -> None:
    layout = small_base(tmp_path / "weights")
    skopeo_copy(f"oci:{layout}:base", f"docker://{host}/team/image:v1")
    text = f"{host}/team/image@{Registry(host).manifest('team/image', 'v1')[2]}"
    refused = builder("lock", "small", cwd=project_with(tmp_path / "one", oci=text))
    assert refused.code == 2
    assert "builder checkpoint digest" in refused.err
    project = project_with(tmp_path / "two", oci=text, digest="ab" * 32)
    done = builder("lock", "small", cwd=project)
    assert done.code == 0, done.err


def test_kubernetes_and_kserve_take_the_image_as_a_volume() -> None:
    import kubernetes_validate

    image = "registry.example/weights@sha256:" + "cd" * 32
    done = builder(
        "deploy",
        "kubernetes",
        "demo",
        "smoke",
        "--image",
        IMAGE,
        "--model-image",
        image,
        "--output",
        "-",
        "--json",
        cwd=MODEL.parents[2],
    )
    assert done.code == 0, done.err
    deployment = done.document["documents"]["demo-smoke.deployment.yaml"]
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["model"] == {"name": "model", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}
    kubernetes_validate.validate(deployment, "1.33", strict=True)
    wrong = builder(
        "deploy",
        "kubernetes",
        "demo",
        "smoke",
        "--image",
        IMAGE,
        "--model-image",
        "weights:v1",
        "--output",
        "-",
        cwd=MODEL.parents[2],
    )
    assert wrong.code == 2
