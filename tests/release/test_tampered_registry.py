"""Tampering in a registry: tags, evidence, media types. Plain `builder verify REF` finds it, and names it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from builder.cli.app import run
from builder.oci.artifact import LOCK, PROVENANCE, SBOM, SOURCES, VERDICT
from builder.oci.referrers import fallback_tag, find_referrers
from builder.oci.registry.client import Registry
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, Descriptor
from tests.release.test_evidence import smoke
from tests.release.test_judges import two_platforms
from tests.support.cli import builder
from tests.support.published import fetch, patched_project, small_base
from tests.support.referrers_api import with_referrers_api
from tests.support.registry import registry, skopeo_copy
from tests.support.tampering import Verdict, verify

OUTCOME = "dev.overlay-image-builder.verdict.outcome"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("tampered")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/base/image:v1")
        skopeo_copy(f"oci:{two_platforms(root / 'layout2')}:base", f"docker://{host}/base/multi:v1")
        yield host


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def project(hub: str, cache: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    project = patched_project(root / "project", f"{hub}/base/image:v1", checkpoint={"digest": "c0" * 32})
    done = builder("lock", "small", cwd=project, env={"BUILDER_CACHE_DIR": cache})
    assert done.code == 0, done.err
    return project


def command(*arguments: str) -> Any:
    """A command in this process; its document."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*arguments, "--json"])
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue())


class Image:
    """A published image, with the means to change it as somebody with write access to the registry can."""

    def __init__(self, hub: str, repository: str, recipe: str = "small", verdicts: tuple[str, ...] = ()) -> None:
        self.hub, self.repository = hub, repository
        name = f"{hub}/{repository}"
        self.digest = command("publish", recipe, "--to", name)["digest"]
        self.registry = Registry(hub)
        self.tag = command("publish", recipe, "--to", name)["tags"][0]

    @property
    def reference(self) -> str:
        return f"{self.hub}/{self.repository}:{self.tag}"

    def blob(self, digest: str) -> bytes:
        data = fetch(self.hub, f"{self.repository}/blobs/{digest}")
        assert data is not None
        return data

    def put(self, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.registry.has_blob(self.repository, digest):
            upload(self.registry, self.repository, Descriptor("", digest, len(data)), at_hand(data))
        return {"digest": digest, "size": len(data)}

    def put_manifest(self, document: dict[str, Any], tag: str = "") -> dict[str, Any]:
        raw = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.registry.put_manifest(self.repository, tag or digest, raw, document["mediaType"])
        return {"digest": digest, "size": len(raw)}

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.registry.manifest(self.repository, self.digest)[0])
        return found

    def evidence(self, edit: Callable[[str, dict[str, Any], bytes], bytes | None]) -> None:
        """Edit each attached document (None: take it away) and its manifest; list what is left."""
        listed = []
        for each in find_referrers(self.registry, self.repository, self.digest):
            manifest = json.loads(self.registry.manifest(self.repository, each.digest)[0])
            data = edit(manifest["artifactType"], manifest, self.blob(manifest["layers"][0]["digest"]))
            if data is None:
                continue
            manifest["layers"][0].update(self.put(data))
            listed.append({**each.as_json(), **self.put_manifest(manifest)})
        self.list_evidence(self.digest, listed)

    def list_evidence(self, subject: str, listed: list[dict[str, Any]]) -> None:
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
        self.registry.put_manifest(self.repository, fallback_tag(subject), index, OCI_INDEX)

    def replace_top(self, document: dict[str, Any]) -> None:
        """Another manifest or index under the tag, with the evidence listed for it."""
        made = self.put_manifest(document, self.tag)
        listed = fetch(self.hub, f"{self.repository}/manifests/{fallback_tag(self.digest)}")
        assert listed is not None
        self.list_evidence(made["digest"], json.loads(listed)["manifests"])

    def verify(self, *arguments: str) -> Verdict:
        return verify(self.reference, *arguments)


@pytest.fixture(autouse=True)
def _here(project: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("BUILDER_CACHE_DIR", cache)


def edit(kind: str, old: bytes, new: bytes) -> Callable[[Image], None]:
    def change(each: str, _: dict[str, Any], data: bytes) -> bytes:
        if each == kind:
            assert old in data
            return data.replace(old, new)
        return data

    return lambda image: image.evidence(change)


def remove(*kinds: str) -> Callable[[Image], None]:
    return lambda image: image.evidence(lambda kind, _, data: None if kind in kinds else data)


def in_manifest(kind: str, key: str, value: Any) -> Callable[[Image], None]:
    def change(each: str, manifest: dict[str, Any], data: bytes) -> bytes:
        if each == kind:
            manifest[key] = value
        return data

    return lambda image: image.evidence(change)


def run_details(image: Image) -> None:
    def change(kind: str, _: dict[str, Any], data: bytes) -> bytes:
        if kind != PROVENANCE:
            return data
        statement = json.loads(data)
        statement["predicate"]["runDetails"]["metadata"] = {"invocationId": "x"}
        return json.dumps(statement, indent=1).encode() + b"\n"

    image.evidence(change)


def under(tag: str) -> Callable[[Image], None]:
    def retag(image: Image) -> None:
        data, media_type, _ = image.registry.manifest(image.repository, image.tag)
        image.tag = tag
        image.registry.put_manifest(image.repository, tag, data, media_type)

    return retag


def two_documents(image: Image) -> None:
    def change(kind: str, manifest: dict[str, Any], data: bytes) -> bytes:
        if kind == SBOM:
            manifest["layers"] = [manifest["layers"][0], dict(manifest["layers"][0])]
        return data

    image.evidence(change)


def changed_config(image: Image) -> None:
    document = image.document()
    config = json.loads(image.blob(document["config"]["digest"]))
    config["config"]["Env"] = ["LD_PRELOAD=/opt/x"]
    document["config"].update(image.put(json.dumps(config).encode()))
    image.replace_top(document)


def without_new_evidence(image: Image) -> None:
    """The same without listing the evidence for the new digest."""
    document = image.document()
    document["annotations"] = {"x": "y"}
    image.put_manifest(document, image.tag)


def wrapped(media_type: str) -> Callable[[Image], None]:
    def change(image: Image) -> None:
        raw = json.dumps(image.document()).encode()
        honest = {
            "mediaType": OCI_MANIFEST, "digest": image.digest,
            "size": len(image.registry.manifest(image.repository, image.digest)[0]),
            "platform": {"os": "linux", "architecture": "amd64"},
        }  # fmt: skip
        assert raw
        image.replace_top({"schemaVersion": 2, "mediaType": media_type, "manifests": [honest]})

    return change


def verdict(data: Callable[[str], bytes], outcome: str) -> Callable[[Image], None]:
    """A verdict that somebody attached by hand."""

    def attach(image: Image) -> None:
        listed = json.loads(fetch(image.hub, f"{image.repository}/manifests/{fallback_tag(image.digest)}") or b"{}")
        document = data(image.digest)
        top = image.document()
        manifest = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": VERDICT,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", **image.put(b"{}")},
            "layers": [{"mediaType": VERDICT, **image.put(document)}],
            "subject": {"mediaType": top["mediaType"], "digest": image.digest, "size": 1},
            "annotations": {OUTCOME: outcome},
        }  # fmt: skip
        entry = {"mediaType": OCI_MANIFEST, **image.put_manifest(manifest), "artifactType": VERDICT}
        image.list_evidence(image.digest, [*listed["manifests"], entry])

    return attach


def smoke_of(tmp: Path, digest: str) -> bytes:
    return smoke(tmp / "smoke.json", digest).read_bytes()


ROWS: list[tuple[str, Callable[[Image], None], str]] = [
    ("a component in the SBOM", edit(SBOM, b"torch", b"tarch"), "evidence SBOM, components"),
    ("the SBOM's image", edit(SBOM, b'"version": "', b'"version": "x'), "evidence SBOM"),
    ("no JSON for an SBOM", edit(SBOM, b"{", b"["), "evidence SBOM"),
    ("no SBOM", remove(SBOM), "evidence SBOM of"),
    ("a source in the provenance", edit(PROVENANCE, b"overlays/one.diff", b"overlays/two.diff"), "evidence provenance"),
    ("the provenance's subject", edit(PROVENANCE, b'"name": "small"', b'"name": "other"'), "subject[0].name"),
    ("the provenance's recipe", edit(PROVENANCE, b'"epoch": 1', b'"epoch": 2'), "internalParameters.epoch"),
    ("spaces in the provenance", edit(PROVENANCE, b"}\n", b"} \n"), "evidence provenance, its bytes"),
    ("details of a run", run_details, "runDetails.metadata"),
    ("no provenance", remove(PROVENANCE), "evidence provenance of"),
    ("a flag in the lock", edit(LOCK, b"max-model-len: 16", b"max-model-len: 32"), "record profiles"),
    ("no lock", remove(LOCK), "no lock travels with it"),
    ("no sources", remove(SOURCES), "evidence sources of"),
    ("a diff in the sources", edit(SOURCES, b"2020", b"6666"), "evidence sources"),
    ("no evidence", remove(LOCK, SOURCES, SBOM, PROVENANCE), "no lock travels with it"),
    ("another subject", in_manifest(SBOM, "subject", {"digest": "sha256:" + "0" * 64}), "evidence SBOM, subject"),
    ("no subject", in_manifest(PROVENANCE, "subject", None), "evidence provenance, subject"),
    ("two documents", two_documents, "2 documents instead of one"),
    ("another immutable tag", under(f"ckpt-{'d' * 12}-{'e' * 12}"), "tag ckpt-dddddddddddd"),
    ("another checkpoint's tag", under(f"ckpt-{'d' * 12}"), "tag ckpt-dddddddddddd"),
    ("a tag of an image without a checkpoint", under(f"inputs-{'d' * 12}"), "tag inputs-dddddddddddd"),
    ("another config", changed_config, "config config.Env"),
    ("another manifest without evidence", without_new_evidence, "no lock travels with it"),
    ("an index around the image", wrapped(OCI_INDEX), "an index of 1 entries around it"),
    ("Docker's index around the image", wrapped(DOCKER_INDEX), "an index of 1 entries around it"),
    ("a failed verdict called passed", verdict(lambda d: b"all checks FAILED on " + d.encode(), "passed"), "outcome"),
]


@pytest.mark.parametrize(("name", "tamper", "named"), ROWS, ids=[name for name, _, _ in ROWS])
def test_each_tampering_is_found_and_named(hub: str, name: str, tamper: Callable[[Image], None], named: str) -> None:
    image = Image(hub, f"team/{name.replace(' ', '-').lower()}".replace("'", ""))
    tamper(image)
    found = image.verify()
    assert found.code == 4, f"{found.code} {found.out} {found.err}"
    assert named in found.err, found.err


def test_a_verdict_about_another_image(hub: str, tmp_path: Path) -> None:
    image = Image(hub, "team/other-verdict")
    verdict(lambda _: smoke_of(tmp_path, "sha256:" + "0" * 64), "passed")(image)
    found = image.verify()
    assert found.code == 4
    assert "evidence verdict, its image" in found.err


def test_what_others_attach_is_left_alone(hub: str) -> None:
    """A signature is not ours to judge."""
    image = Image(hub, "team/foreign")
    listed = json.loads(fetch(hub, f"{image.repository}/manifests/{fallback_tag(image.digest)}") or b"{}")["manifests"]
    foreign = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", **image.put(b"{}")}, "layers": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": 1},
    }  # fmt: skip
    listed.append({"mediaType": OCI_MANIFEST, **image.put_manifest(foreign), "artifactType": foreign["artifactType"]})
    image.list_evidence(image.digest, listed)
    assert image.verify().code == 0


@pytest.mark.parametrize("arguments", [(), ("--recipe", "small"), ("--quick",), ("--rebuild",)])
@pytest.mark.parametrize("api", [False, True])
def test_honest_images_pass(hub: str, api: bool, arguments: tuple[str, ...]) -> None:
    if not api:
        assert Image(hub, "team/honest").verify(*arguments).code == 0
        return
    with with_referrers_api(hub) as host:
        image = Image(host, "team/honest-api")
        # The API lists it; nothing is listed by tag.
        assert fetch(hub, f"team/honest-api/manifests/{fallback_tag(image.digest)}") is None
        done = image.verify(*arguments)
        assert done.code == 0, done.err


def test_honest_images_of_two_platforms_and_without_evidence(hub: str, project: Path) -> None:
    text = (project / "images/small.yaml").read_text()
    multi = text.replace("name: small", "name: multi").replace("base/image", "base/multi")
    (project / "images/multi.yaml").write_text(f"{multi}platforms: [linux/amd64, linux/arm64]\n")
    image = Image(hub, "team/multi-honest", "multi")
    for arguments in ((), ("--recipe", "multi"), ("--quick",)):
        done = image.verify(*arguments)
        assert done.code == 0, done.err
    assert command("publish", "small", "--to", f"{hub}/team/bare", "--no-evidence")["evidence_bytes"] == 0
    bare = f"{hub}/team/bare:{Image(hub, 'team/bare2').tag}"
    assert verify(bare).code == 4
    assert verify(bare, "--recipe", "small", "--no-evidence").code == 0


def test_a_copy_in_a_layout_needs_the_recipe(hub: str, tmp_path: Path) -> None:
    """skopeo leaves behind what refers to an image."""
    image = Image(hub, "team/copied")
    skopeo_copy(f"docker://{image.reference}", f"oci:{tmp_path}/copy:x")
    alone = verify(f"oci:{tmp_path}/copy")
    assert alone.code == 4
    assert "no lock travels with it" in alone.err
    assert "--recipe" in alone.err
    done = verify(f"oci:{tmp_path}/copy", "--recipe", "small")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("overlays/one.diff", "2020", "2021"),
        ("images/small.lock.yaml", "c0" * 32, "d0" * 32),
        ("images/small.lock.yaml", "name: vllm\n", "name: vlln\n"),
        ("profiles/tiny.yaml", "16", "32"),
    ],
)
def test_a_changed_project_is_named(hub: str, project: Path, path: str, old: str, new: str) -> None:
    image = Image(hub, "team/project")
    file = project / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    try:
        found = image.verify("--recipe", "small")
    finally:
        file.write_text(text)
    assert found.code == 4
    assert Path(path).name in found.err or "record" in found.err, found.err


def test_against_another_image_names_the_first_difference(hub: str) -> None:
    image = Image(hub, "team/against")
    original = f"{hub}/{image.repository}@{image.digest}"
    changed_config(image)
    found = verify(original, "--against", image.reference)
    assert found.code == 4
    assert "config config.Env" in found.err
    assert verify(original, "--against", original).code == 0
