"""Which entry of an index real clients take for a platform: what `builder verify` says of them is what they do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.documents.reference import Platform
from builder.oci.registry.client import Registry
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import OCI_INDEX, Descriptor
from builder.release.verify.clients import CLIENTS, entries_taken, matching
from tests.pipeline.test_engines import docker
from tests.support.published import small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require, require_root

AMD64 = Platform("linux", "amd64")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("clients")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/team/x:base")
        yield host


class Index:
    """An index whose images differ in a label; entries are added in the order in which clients see them."""

    def __init__(self, hub: str, tag: str) -> None:
        self.hub, self.tag, self.registry = hub, tag, Registry(hub)
        self.manifest = json.loads(self.registry.manifest("team/x", "base")[0])
        config = Descriptor.from_json(self.manifest["config"])
        self.config = json.loads(self.registry.read_blob("team/x", config))
        self.entries: list[dict[str, Any]] = []

    def add(self, label: str, architecture: str = "amd64", **platform: str) -> Index:
        config = {**self.config, "architecture": architecture, **platform}
        config["config"] = {**self.config["config"], "Labels": {"which": label}, "Entrypoint": ["/bin/true"]}
        data = json.dumps(config).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        upload(self.registry, "team/x", Descriptor("", digest, len(data)), at_hand(data))
        manifest = {**self.manifest, "config": {**self.manifest["config"], "digest": digest, "size": len(data)}}
        raw = json.dumps(manifest).encode()
        name = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.registry.put_manifest("team/x", name, raw, manifest["mediaType"])
        self.entries.append(
            {
                "mediaType": manifest["mediaType"], "digest": name, "size": len(raw),
                "platform": {"os": "linux", "architecture": architecture, **platform},
            }
        )  # fmt: skip
        return self

    def push(self) -> str:
        raw = json.dumps(self.document()).encode()
        self.registry.put_manifest("team/x", self.tag, raw, OCI_INDEX)
        return f"{self.hub}/team/x:{self.tag}"

    def document(self) -> dict[str, Any]:
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries}

    def config_of(self, digest: str) -> str:
        """The digest of the config that an entry leads to."""
        manifest = json.loads(self.registry.manifest("team/x", digest)[0])
        return str(manifest["config"]["digest"])

    def label_of(self, digest: str | None) -> str | None:
        if digest is None:
            return None
        manifest = json.loads(self.registry.manifest("team/x", digest)[0])
        config = json.loads(self.registry.read_blob("team/x", Descriptor.from_json(manifest["config"])))
        label: str = config["config"]["Labels"]["which"]
        return label


def taken(index: Index, client: str, platform: Platform = AMD64) -> str | None:
    return index.label_of(entries_taken(index.document(), platform)[client])


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def twice(hub: str) -> Index:
    index = Index(hub, "twice").add("arm", "arm64").add("first").add("second")
    index.push()
    return index


def test_skopeo_takes_the_first(hub: str, twice: Index) -> None:
    for architecture in ("amd64", "arm64"):
        text = run("skopeo", "inspect", "--tls-verify=false", "--override-arch", architecture, "--config",
                   f"docker://{hub}/team/x:twice")  # fmt: skip
        label = json.loads(text)["config"]["Labels"]["which"]
        assert label == taken(twice, CLIENTS[1], Platform("linux", architecture))
        assert label == {"amd64": "first", "arm64": "arm"}[architecture]


def test_skopeo_takes_the_best_variant(hub: str) -> None:
    index = Index(hub, "variants").add("plain", "arm64").add("v8", "arm64", variant="v8")
    index.push()
    text = run("skopeo", "inspect", "--tls-verify=false", "--override-arch", "arm64", "--override-variant", "v8", "--config",
               f"docker://{hub}/team/x:variants")  # fmt: skip
    arm = Platform("linux", "arm64")
    assert json.loads(text)["config"]["Labels"]["which"] == taken(index, CLIENTS[1], arm) == "v8"
    assert len(matching(index.document(), arm)) == 2


def test_podman_takes_the_first(hub: str, twice: Index) -> None:
    require("podman")
    require_root()
    # podman refuses a runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        place = ("--storage-driver", "vfs", "--root", f"{folder}/r", "--runroot", f"{folder}/rr")
        run("podman", *place, "pull", "-q", "--tls-verify=false", f"{hub}/team/x:twice")
        found = json.loads(run("podman", *place, "image", "inspect", f"{hub}/team/x:twice"))
    assert found[0]["Labels"]["which"] == taken(twice, CLIENTS[1]) == "first"


@pytest.fixture
def containerd() -> Iterator[str]:
    """The socket of a containerd of its own."""
    require("containerd", "ctr")
    require_root()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        socket = f"{folder}/s"
        config = Path(folder) / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n[grpc]\naddress = "{socket}"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{folder}/opt"\n'
        )
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
        try:
            for _ in range(120):
                asked = subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False)
                if asked.returncode == 0 or process.poll() is not None:
                    break
                time.sleep(0.25)
            yield socket
        finally:
            process.terminate()
            process.wait(30)


def test_containerd_takes_the_first(containerd: str, hub: str, twice: Index) -> None:
    name = f"{hub}/team/x:twice"
    ctr = ("ctr", "-a", containerd)
    run(*ctr, "content", "fetch", "--plain-http", "--platform", "linux/amd64", name)
    held = run(*ctr, "content", "ls", "-q").split()
    configs = [digest for digest in held if digest in {twice.config_of(each["digest"]) for each in twice.entries}]
    first = twice.config_of(entries_taken(twice.document(), AMD64)[CLIENTS[0]] or "")
    # It fetches what it would run; some versions fetch every entry that matches, and run the first.
    assert first in configs
    assert twice.config_of(twice.entries[0]["digest"]) not in configs
    run(*ctr, "images", "pull", "--plain-http", "--snapshotter", "native", "--platform", "linux/amd64", name)
    mounted = run(*ctr, "images", "ls", f"name=={name}")
    assert hashlib.sha256(json.dumps(twice.document()).encode()).hexdigest() in mounted


def test_docker_takes_the_first(docker_engine: str, hub: str, twice: Index) -> None:
    docker(docker_engine, "pull", "-q", f"{hub}/team/x:twice")
    found = json.loads(docker(docker_engine, "image", "inspect", f"{hub}/team/x:twice"))
    assert found[0]["Config"]["Labels"]["which"] == taken(twice, CLIENTS[0]) == "first"


def test_an_index_of_any_shape_gives_an_answer() -> None:
    for document in ({}, {"manifests": None}, {"manifests": {"a": 1}}, {"manifests": [1, "x", {"platform": 3}]}):
        assert set(entries_taken(document, AMD64).values()) == {None}
        assert matching(document, AMD64) == []
