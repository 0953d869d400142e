"""One thing is changed at a time in a published image or its project: verification finds it, and names it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.oci.referrers import fallback_tag, find_referrers
from builder.oci.registry.client import Registry
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import OCI_INDEX, OCI_MANIFEST, Descriptor
from tests.support.cli import Ran, builder
from tests.support.published import fetch, patched_project, small_base
from tests.support.registry import registry, skopeo_copy


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("tampering")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/base/image:v1")
        yield host


class Image:
    """A published image, with the means to change it as somebody with write access to the registry can."""

    def __init__(self, hub: str, project: Path, repository: str) -> None:
        self.hub, self.project, self.repository = hub, project, repository
        done = builder("publish", "small", "--to", f"{hub}/{repository}", "--json", cwd=project)
        assert done.code == 0, done.err
        self.digest, self.tag = done.document["digest"], done.document["tags"][0]
        self.registry = Registry(hub)
        self.manifest = json.loads(self.registry.manifest(repository, self.tag)[0])
        self.config = json.loads(self.blob(self.manifest["config"]["digest"]))

    def blob(self, digest: str) -> bytes:
        data = fetch(self.hub, f"{self.repository}/blobs/{digest}")
        assert data is not None
        return data

    def put(self, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.registry.has_blob(self.repository, digest):
            upload(self.registry, self.repository, Descriptor("", digest, len(data)), at_hand(data))
        return {"digest": digest, "size": len(data)}

    def put_image(self) -> None:
        """Push manifest and config as they are now, under the same tag, with the old evidence listed for it."""
        self.manifest["config"].update(self.put(json.dumps(self.config).encode()))
        data = json.dumps(self.manifest).encode()
        self.registry.put_manifest(self.repository, self.tag, data, self.manifest["mediaType"])
        listed = fetch(self.hub, f"{self.repository}/manifests/{fallback_tag(self.digest)}")
        assert listed is not None
        changed = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.registry.put_manifest(self.repository, fallback_tag(changed), listed, OCI_INDEX)

    def change_layer(self, change: Callable[[str, bytes], bytes]) -> None:
        layer = self.manifest["layers"][-1]
        buffer = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(self.blob(layer["digest"]))) as old,
            tarfile.open(fileobj=buffer, mode="w") as new,
        ):
            for member in old:
                data = old.extractfile(member).read() if member.isfile() else b""  # type: ignore[union-attr]
                data = change(member.name, data)
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        layer.update(self.put(buffer.getvalue()))
        self.config["rootfs"]["diff_ids"][-1] = layer["digest"]
        self.put_image()

    def change_evidence(self, title: str, old: bytes, new: bytes) -> None:
        listed = []
        for each in find_referrers(self.registry, self.repository, self.digest):
            manifest = json.loads(self.registry.manifest(self.repository, each.digest)[0])
            if each.annotations["org.opencontainers.image.title"] == title:
                data = self.blob(manifest["layers"][0]["digest"])
                assert old in data
                manifest["layers"][0].update(self.put(data.replace(old, new)))
            raw = json.dumps(manifest).encode()
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            self.registry.put_manifest(self.repository, digest, raw, OCI_MANIFEST)
            listed.append({**each.as_json(), "digest": digest, "size": len(raw)})
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
        self.registry.put_manifest(self.repository, fallback_tag(self.digest), index, OCI_INDEX)

    def verify(self, *arguments: str) -> Ran:
        return builder(
            "verify",
            f"{self.hub}/{self.repository}:{self.tag}",
            "--recipe",
            "small",
            "--json",
            *arguments,
            cwd=self.project,
        )


@pytest.fixture
def image(hub: str, tmp_path: Path) -> Image:
    project = patched_project(tmp_path / "project", f"{hub}/base/image:v1", checkpoint={"digest": "c0" * 32})
    made = Image(hub, project, f"team/{tmp_path.name.replace('_', '-').lower()}")
    good = made.verify("--rebuild")
    assert good.code == 0, good.err
    return made


def layer_file(image: Image) -> None:
    image.change_layer(lambda name, data: data.replace(b"2020", b"6666") if name.endswith("config.py") else data)


def layer_record(image: Image) -> None:
    image.change_layer(lambda name, data: data.replace(b'"tiny"', b'"evil"') if name.endswith("record.json") else data)


def config_variable(image: Image) -> None:
    image.config["config"]["Env"] = ["LD_PRELOAD=/opt/x", *image.config["config"].get("Env", [])]
    image.put_image()


def config_entrypoint(image: Image) -> None:
    image.config["config"]["Entrypoint"] = ["/bin/sh"]
    image.put_image()


def label(image: Image) -> None:
    image.config["config"]["Labels"]["org.opencontainers.image.base.digest"] = "sha256:" + "0" * 64
    image.put_image()


def base_layer(image: Image) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("etc/evil"))
    image.manifest["layers"][0].update(image.put(buffer.getvalue()))
    image.put_image()


def tag(image: Image) -> None:
    data, media_type, _ = image.registry.manifest(image.repository, image.tag)
    image.tag = f"ckpt-{'d' * 12}-{'e' * 12}"
    image.registry.put_manifest(image.repository, image.tag, data, media_type)


def sbom(image: Image) -> None:
    image.change_evidence("sbom.cdx.json", b"torch", b"tarch")


def provenance(image: Image) -> None:
    image.change_evidence("provenance.json", b"overlays/one.diff", b"overlays/two.diff")


def attached_lock(image: Image) -> None:
    image.change_evidence("lock.yaml", b"max-model-len: 16", b"max-model-len: 32")


def evidence_removed(image: Image) -> None:
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    image.registry.put_manifest(image.repository, fallback_tag(image.digest), index, OCI_INDEX)


def vendored_diff(image: Image) -> None:
    path = image.project / "overlays/one.diff"
    path.write_bytes(path.read_bytes().replace(b"2020", b"2021"))


def lock(image: Image) -> None:
    path = image.project / "images/small.lock.yaml"
    path.write_text(path.read_text().replace("c0" * 32, "d0" * 32))


def profile(image: Image) -> None:
    path = image.project / "profiles/tiny.yaml"
    path.write_text(path.read_text().replace("16", "32"))


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (layer_file, "vllm/config.py"),
        (layer_record, "record profiles"),
        (config_variable, "config.Env"),
        (config_entrypoint, "config ENTRYPOINT"),
        (label, "org.opencontainers.image.base.digest"),
        (base_layer, "manifest layers[0].digest"),
        (tag, "tag ckpt-dddddddddddd"),
        (sbom, "evidence SBOM, components"),
        (provenance, "evidence provenance, predicate"),
        (attached_lock, "evidence lock"),
        (evidence_removed, "evidence SBOM"),
        (vendored_diff, "overlays/one.diff"),
        (lock, "small.lock.yaml"),
        (profile, "profiles/tiny.yaml"),
    ],
)
def test_each_tampering_is_found_and_named(image: Image, tamper: Callable[[Image], None], named: str) -> None:
    tamper(image)
    for arguments in ((), ("--rebuild",)):
        found = image.verify(*arguments)
        assert found.code == 4, found.out
        assert named in found.err, found.err


def test_against_another_image_names_the_first_difference(image: Image, hub: str) -> None:
    original = f"{hub}/{image.repository}@{image.digest}"
    layer_file(image)
    changed = builder(
        "verify", original, "--against", f"{hub}/{image.repository}:{image.tag}", "--no-evidence", cwd=image.project
    )
    assert changed.code == 4
    assert "vllm/config.py, content" in changed.err
    same = builder("verify", original, "--against", original, "--no-evidence", cwd=image.project)
    assert same.code == 0, same.err
