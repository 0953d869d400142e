"""A checkpoint that is an OCI image: mounted by podman here, refused by an engine that cannot, named in what is deployed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from builder.cli.commands.deploy_files import image_volume
from builder.documents.lock import Lock, LockedCheckpoint, read_lock
from builder.documents.recipe import CheckpointSpec
from builder.oci.registry.client import Registry
from builder.serve.container import Container
from builder.serve.deploy.compose import compose
from builder.serve.deploy.kubernetes import manifests
from builder.serve.deploy.llama_swap import config
from builder.serve.deploy.production_stack import values
from builder.serve.deploy.quadlet import units
from builder.serve.deploy.service import make_service
from builder.serve.model import ModelImage, make_ready, recipe_image
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError
from tests.serve.test_deploy import IMAGE
from tests.serve.test_deploy_elsewhere import QUADLET
from tests.support.cli import Ran, builder
from tests.support.realstack import overlay_diffs
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require, require_root
from tests.support.smallwheel import make_project
from tests.support.standin import standin_base, tar_of, write_layout

ROOT = Path(__file__).parents[2]
REFERENCE = f"registry.example/weights@sha256:{'cd' * 32}"
WHOLE, BELOW = ModelImage(REFERENCE), ModelImage(REFERENCE, "models")


@pytest.fixture
def lock() -> Lock:
    return read_lock(ROOT / "images/demo.lock.yaml")


def mounts(lock: Lock, model: ModelImage, *, podman: bool) -> list[str]:
    container = Container(image="i", profile=lock.profiles[0], model=model, cache="c", gpus="none", podman=podman)
    words = container.argv("podman" if podman else "docker")
    assert not any("/model" in word for at, word in enumerate(words) if words[at - 1] == "--volume")
    return [words[at + 1] for at, word in enumerate(words) if word == "--mount"]


def test_each_engine_gets_its_own_words(lock: Lock) -> None:
    plain = f"type=image,source={REFERENCE},target=/model"
    assert mounts(lock, WHOLE, podman=False) == mounts(lock, WHOLE, podman=True) == [plain]
    assert mounts(lock, BELOW, podman=False) == [f"{plain},image-subpath=models"]
    assert mounts(lock, BELOW, podman=True) == [f"{plain},subpath=/models"]


def test_what_is_deployed_mounts_it(lock: Lock) -> None:
    service = make_service(lock, "smoke", IMAGE)
    server = compose([service], model=BELOW, port=8000)["services"][service.name]
    assert {"type": "image", "source": REFERENCE, "target": "/model", "image": {"subpath": "models"}} in server["volumes"]  # fmt: skip
    found = units([service], model=BELOW, port=8000)
    assert found["demo-model.image"] == f"[Image]\nImage={REFERENCE}\n"
    assert (
        "Mount=type=image,source=demo-model.image,target=/model,subpath=/models" in found[f"{service.name}.container"]
    )
    command = config([service], model=WHOLE, engine="podman")["models"][service.name]["cmd"]
    assert f"--mount type=image,source={REFERENCE},target=/model" in command
    volume = {"name": "model", "image": {"reference": REFERENCE, "pullPolicy": "IfNotPresent"}}
    deployment = manifests([service], model_claim="m", cache_gib=1, model_image=BELOW)[
        f"{service.name}.deployment.yaml"
    ]
    kubernetes_validate.validate(deployment, "1.33", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    assert volume in pod["volumes"]
    mount = {"name": "model", "mountPath": "/model", "readOnly": True, "subPath": "models"}
    assert mount in pod["containers"][0]["volumeMounts"]
    model = values([service], model_claim="m", cache_claim="c", model_image=BELOW)["servingEngineSpec"]["modelSpec"][0]
    assert volume in model["extraVolumes"]
    assert mount in model["extraVolumeMounts"]


@pytest.mark.skipif(QUADLET is None, reason="podman 5's generator is not installed: BUILDER_TEST_QUADLET=FILE")
def test_podmans_generator_pulls_it_before_the_start(lock: Lock, tmp_path: Path) -> None:
    service = make_service(lock, "smoke", IMAGE)
    for name, text in units([service], model=BELOW, port=8000).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run([str(QUADLET), "--dryrun"], env={**os.environ, "QUADLET_UNIT_DIRS": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"type=image,source={REFERENCE},target=/model,subpath=/models" in done.stdout
    assert "Requires=demo-model-image.service" in done.stdout


def test_a_recipe_names_the_folder_in_an_image_and_only_there(lock: Lock) -> None:
    digest = "ab" * 32
    assert CheckpointSpec(oci=REFERENCE, digest=digest, folder="models").folder == "models"
    for wrong in (
        {"path": "x", "folder": "models"},
        {"oci": REFERENCE, "folder": "../x"},
        {"oci": REFERENCE, "folder": "/x"},
        {"oci": REFERENCE, "folder": "a,b"},
    ):
        with pytest.raises(ValueError, match="folder"):
            CheckpointSpec.model_validate(wrong)
    held = lock.model_copy(update={"checkpoint": LockedCheckpoint(digest=digest, oci=REFERENCE, folder="models")})
    assert recipe_image(held) == BELOW
    assert recipe_image(lock) is None
    opened: Any = type("Opened", (), {"lock": held})
    assert image_volume(opened, None) == BELOW
    assert image_volume(opened, REFERENCE, "a/b") == ModelImage(REFERENCE, "a/b")
    for folder in ("/models", "a//b", "../a", "", "a,b"):
        with pytest.raises(InputError, match="not a folder in an image"):
            image_volume(opened, REFERENCE, folder)
    with pytest.raises(InputError, match="of which image"):
        image_volume(opened, None, "models")


@dataclass(frozen=True)
class Podman:
    """A project whose checkpoint is an image, and podman with a storage of its own that has the project's image."""

    project: Path
    env: dict[str, str]
    host: str

    def run(self, *arguments: str, folder: str | None = None, name: str = "team/weights") -> Ran:
        text = f"{self.host}/{name}@{Registry(self.host).manifest(name, 'v1')[2]}"
        path = self.project / "images/small.yaml"
        checkpoint = {"oci": text, "digest": "c0" * 32, **({"folder": folder} if folder else {})}
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "checkpoint": checkpoint}))
        done = builder("lock", "small", cwd=self.project)
        assert done.code == 0, done.err
        return builder(
            "run", "small", "--engine", "podman", "--gpus", "none", "--network", "none", "--image", "localhost/small:1", *arguments,
            cwd=self.project, env=self.env,
        )  # fmt: skip


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    require("podman", "runc", "skopeo", "docker-registry")
    require_root()
    root = tmp_path_factory.mktemp("p")
    (root / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{root}/s"\nrunroot = "{root}/r"\n')
    (root / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]\n[engine]\nruntime = "/usr/sbin/runc"\n'
    )
    (root / "registries.conf").write_text("unqualified-search-registries = []\n")
    env = {"CONTAINERS_STORAGE_CONF": f"{root}/storage.conf", "CONTAINERS_CONF": f"{root}/containers.conf"}
    project = make_project(root / "project", {"20-1.diff": overlay_diffs()[0]}, base=f"oci:{standin_base()}", checkpoint={"digest": "c0" * 32})  # fmt: skip
    built = builder("build", "small", "--output", f"oci:{root / 'image'}", "--json", cwd=project)
    assert built.code == 0, built.err
    with registry(root / "registry") as host:
        (root / "registries.conf").write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        env["CONTAINERS_REGISTRIES_CONF"] = f"{root}/registries.conf"
        for name, path in (("team/weights", "config.json"), ("team/below", "models/config.json")):
            layout = write_layout(root / name, [tar_of({path: b"{}"})])
            skopeo_copy(f"oci:{layout}:base", f"docker://{host}/{name}:v1")
        copied = subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{root / 'image'}:{built.document['tags'][0]}", "containers-storage:localhost/small:1"],
            env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=250,
        )  # fmt: skip
        assert copied.returncode == 0, copied.stderr
        try:
            yield Podman(project, env, host)
        finally:
            # Podman leaves its storage mounted on itself.
            subprocess.run(["umount", str(root / "s/overlay")], check=False)


def test_podman_mounts_the_image_and_the_server_finds_its_files(podman: Podman) -> None:
    """The entrypoint reads the checkpoint's config before it starts the server, and nothing was mounted but the image."""
    done = podman.run("tiny", "--", "--exit")
    assert done.code == 0, done.err
    assert "pulling" in done.err
    assert '"serve", "/model"' in done.out
    again = podman.run("tiny", "--", "--exit")
    assert again.code == 0, again.err
    assert "pulling" not in again.err


def test_a_folder_in_the_image_needs_a_podman_that_knows_it(podman: Podman) -> None:
    done = podman.run("tiny", "--", "--exit", folder="models", name="team/below")
    version = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    if tuple(map(int, version.split(".")[:2])) >= (5, 4):
        assert done.code == 0, done.err
    else:
        assert done.code == 2
        assert "mounts whole images only" in done.err
        assert "--model DIR" in done.err


def test_an_image_that_cannot_be_pulled_stops_the_start(podman: Podman) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UnreachableError, match="cannot be pulled"):
        for name, text in podman.env.items():
            patch.setenv(name, text)
        make_ready(ModelImage(f"{podman.host}/team/none@sha256:{'0' * 64}"), "podman", podman=True, context=Context())


def test_a_docker_that_cannot_mount_images_is_named(docker_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine)
    said = subprocess.run(["docker", "version", "--format", "{{.Server.APIVersion}}"], capture_output=True, text=True, check=True)  # fmt: skip
    if tuple(map(int, said.stdout.strip().split("."))) >= (1, 48):
        pytest.skip("this Docker mounts images")
    with pytest.raises(InputError) as caught:
        make_ready(WHOLE, "docker", podman=False, context=Context())
    assert "does not mount images" in caught.value.message
    assert "--engine podman" in (caught.value.hint or "")
    make_ready(Path("/models"), "docker", podman=False, context=Context())
