"""Statements beside an image: stored as cosign stores them, found again, and shown with who signed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.documents.statement import PROVENANCE_V1
from builder.oci.artifact import BUNDLE, IN_TOTO, VERDICT
from builder.oci.referrers import find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.oci.types import Descriptor
from builder.release.attest.bundle import parse_bundle
from tests.release.test_judges import two_platforms
from tests.support.cli import Ran, builder
from tests.support.published import fetch, patched_project, small_base
from tests.support.referrers_api import with_referrers_api
from tests.support.registry import registry, skopeo_copy
from tests.support.signing import key_pair
from tests.support.sigstore import ISSUER, sigstore, token
from tests.support.verdicts import verdict_of


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("attest")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/base/image:v1")
        skopeo_copy(f"oci:{two_platforms(root / 'layout2')}:base", f"docker://{host}/base/multi:v1")
        yield host


@pytest.fixture(scope="module")
def project(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    return patched_project(root / "project", f"{hub}/base/image:v1", checkpoint={"digest": "c0" * 32})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return key_pair(tmp_path_factory.mktemp("keys") / "release")


def publish(project: Path, name: str, *more: str, recipe: str = "small") -> Any:
    done = builder("publish", recipe, "--to", name, *more, "--json", cwd=project)
    assert done.code == 0, done.err
    return done.document


def listed(hub: str, repository: str, digest: str) -> list[Descriptor]:
    return find_referrers(Registry(hub), repository, digest)


def bundles(hub: str, repository: str, digest: str) -> list[Descriptor]:
    return [each for each in listed(hub, repository, digest) if each.artifact_type == BUNDLE]


def attest(project: Path, document: Path, image: str, *more: str, **env: str) -> Ran:
    return builder("attest", str(document), "--image", image, *more, "--json", cwd=project, env=env)


@pytest.mark.parametrize("api", [False, True], ids=["tags", "api"])
def test_a_signed_statement_is_stored_as_cosign_stores_one(
    hub: str, project: Path, tmp_path: Path, keys: tuple[Path, Path], api: bool
) -> None:
    with with_referrers_api(hub) as front:
        host = front if api else hub
        name = f"{host}/team/spec-{'api' if api else 'tags'}"
        image = publish(project, name, "--evidence", str(tmp_path / "e"))
        done = attest(project, tmp_path / "e/provenance.json", image["reference"], "--key", str(keys[0]))
        assert done.code == 0, done.err
        repository = name.partition("/")[2]
        (entry,) = bundles(host, repository, image["digest"])
        manifest, data = read_referrer(Registry(host), repository, entry)
    # cosign's BUNDLE_SPEC: "Publishing" and "Annotations".
    assert manifest.keys() == {
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "subject",
        "annotations",
    }
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert manifest["config"] == {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2}
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert manifest["layers"] == [{"mediaType": manifest["artifactType"], "digest": digest, "size": len(data)}]
    assert manifest["subject"]["digest"] == image["digest"]
    notes = dict(manifest["annotations"])
    created = notes.pop("org.opencontainers.image.created")
    assert len(created) == len("2026-01-01T00:00:00Z")
    assert created.endswith("Z")
    assert notes == {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": PROVENANCE_V1,
    }
    # In the list of a registry without the referrers API they are as well.
    assert entry.as_json() == {
        "mediaType": manifest["mediaType"], "digest": entry.digest, "size": entry.size,
        "artifactType": manifest["artifactType"], "annotations": manifest["annotations"],
    }  # fmt: skip
    bundle = parse_bundle(data)
    assert bundle is not None
    assert bundle.payload == (tmp_path / "e/provenance.json").read_bytes()


def test_attesting_again_attaches_nothing(hub: str, project: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    image = publish(project, f"{hub}/team/again", "--evidence", str(tmp_path / "e"))
    first = attest(project, tmp_path / "e/provenance.json", image["reference"], "--key", str(keys[0]))
    again = attest(project, tmp_path / "e/provenance.json", image["reference"], "--key", str(keys[0]))
    assert (first.document["present"], again.document["present"]) == (False, True)
    assert first.document["referrer"] == again.document["referrer"]
    other = key_pair(tmp_path / "other")
    assert attest(project, tmp_path / "e/provenance.json", image["reference"], "--key", str(other[0])).code == 0
    assert len(bundles(hub, "team/again", image["digest"])) == 2


def test_published_with_a_key_everything_is_signed_and_nothing_twice(
    hub: str, project: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    name = f"{hub}/team/signed"
    image = publish(project, name, "--sign", "--key", str(keys[0]))
    kinds = sorted(each.artifact_type for each in listed(hub, "team/signed", image["digest"]))
    assert kinds.count(BUNDLE) == 2
    assert IN_TOTO not in kinds
    assert len(kinds) == 4
    publish(project, name, "--sign", "--key", str(keys[0]))
    assert len(listed(hub, "team/signed", image["digest"])) == 4
    for more in ((), ("--signer", str(keys[1]))):
        done = builder("verify", image["reference"], *more, "--json", cwd=tmp_path)
        assert done.code == 0, done.err
        states = {(each["kind"], each["state"]) for each in done.document["signed"]}
        state = "verified" if more else "unchecked"
        assert states == {("provenance", state), ("SBOM", state)}
    text = builder("verify", image["reference"], "--signer", str(keys[1]), cwd=tmp_path).out
    assert "provenance: signed by key sha256:" in text
    assert "it tells what the image is, not who made it" not in text


def test_a_pinned_signer_must_have_signed(hub: str, project: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    plain = publish(project, f"{hub}/team/plain")
    shown = builder("verify", plain["reference"], cwd=tmp_path)
    assert "provenance: unsigned" in shown.out
    assert "SBOM: unsigned" in shown.out
    refused = builder("verify", plain["reference"], "--signer", str(keys[1]), cwd=tmp_path)
    assert refused.code == 4
    assert "evidence provenance, signer" in refused.err
    assert "unsigned" in refused.err
    _, other = key_pair(tmp_path / "other")
    signed = publish(project, f"{hub}/team/pinned", "--sign", "--key", str(keys[0]))
    wrong = builder("verify", signed["reference"], "--signer", str(other), cwd=tmp_path)
    assert wrong.code == 4
    assert "signature not checked" in wrong.err
    assert (
        builder("verify", signed["reference"], "--signer", str(other), "--signer", str(keys[1]), cwd=tmp_path).code == 0
    )
    layout = builder("verify", f"oci:{tmp_path}", "--signer", str(keys[1]), cwd=tmp_path)
    assert layout.code == 2


def test_unsigned_is_called_so(hub: str, project: Path, tmp_path: Path) -> None:
    image = publish(project, f"{hub}/team/unsigned", "--evidence", str(tmp_path / "e"))
    document = verdict_of(tmp_path / "v.json", image["digest"])
    done = builder("attest", str(document), "--image", image["reference"], cwd=project)
    assert done.code == 0, done.err
    assert "signed  unsigned" in done.out
    found = [
        each
        for each in listed(hub, "team/unsigned", image["digest"])
        if each.annotations.get("org.opencontainers.image.title") == "v.json"
    ]
    assert [each.artifact_type for each in found] == [VERDICT]


def test_an_edited_envelope_is_a_difference(hub: str, project: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    from builder.oci.artifact import Evidence, referrer
    from builder.oci.referrers import attach

    image = publish(project, f"{hub}/team/edited", "--sign", "--key", str(keys[0]))
    client = Registry(hub)
    (entry,) = [
        each
        for each in bundles(hub, "team/edited", image["digest"])
        if each.annotations["dev.sigstore.bundle.predicateType"] == PROVENANCE_V1
    ]
    manifest, data = read_referrer(client, "team/edited", entry)
    document = json.loads(data)
    signature = document["dsseEnvelope"]["signatures"][0]
    signature["sig"] = signature["sig"][:8] + ("A" if signature["sig"][8] != "A" else "B") + signature["sig"][9:]
    subject = Descriptor.from_json(manifest["subject"])
    edited = Evidence("", BUNDLE, subject, json.dumps(document).encode(), manifest["annotations"])
    attach(client, "team/edited", [referrer(edited)])
    # Without a key nobody can see it; with the key, the edited one is named though a good one is attached as well.
    assert builder("verify", image["reference"], cwd=tmp_path).code == 0
    refused = builder("verify", image["reference"], "--signer", str(keys[1]), cwd=tmp_path)
    assert refused.code == 4
    assert "evidence provenance, signature" in refused.err


def test_documents_that_are_not_about_the_image_are_refused(
    hub: str, project: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    image = publish(project, f"{hub}/team/bad", "--evidence", str(tmp_path / "e"))
    before = len(listed(hub, "team/bad", image["digest"]))
    sbom = json.loads((tmp_path / "e/sbom.cdx.json").read_text())
    sbom["metadata"]["component"]["hashes"][0]["content"] = "0" * 64
    cases: dict[str, tuple[int, str, Callable[[Path], object]]] = {
        "other-verdict": (4, "is not about this image", lambda path: verdict_of(path, "sha256:" + "0" * 64)),
        "other-sbom": (4, "not an SBOM of this image", lambda path: path.write_text(json.dumps(sbom))),
        "unbound": (2, "is unbound", lambda path: verdict_of(path, None)),
        "a-note": (2, "is not valid JSON", lambda path: path.write_text(f"{image['digest']} passed")),
        "other-json": (
            2,
            "not an in-toto statement",
            lambda path: path.write_text(json.dumps({"digest": image["digest"]})),
        ),
        "twice": (2, "is not valid JSON", lambda path: path.write_text('{"_type": 1, "_type": 2}')),
    }
    for case, (code, message, make) in cases.items():
        path = tmp_path / case
        make(path)
        refused = attest(project, path, image["reference"], "--key", str(keys[0]))
        assert (refused.code, message in refused.err) == (code, True), (case, refused.err)
    assert attest(project, tmp_path / "absent", image["reference"]).code == 2
    assert attest(project, tmp_path / "e/provenance.json", f"{hub}/team/nothing:x").code == 5
    assert len(listed(hub, "team/bad", image["digest"])) == before


def test_a_statement_about_one_platform_is_attached_to_its_manifest(
    hub: str, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    project = patched_project(
        tmp_path / "multi",
        f"{hub}/base/multi:v1",
        platforms=["linux/amd64", "linux/arm64"],
        checkpoint={"digest": "c0" * 32},
    )
    image = publish(project, f"{hub}/team/multi")
    index = json.loads(fetch(hub, f"team/multi/manifests/{image['digest']}") or b"")
    child = index["manifests"][1]["digest"]
    document = verdict_of(tmp_path / "v.json", child)
    done = attest(project, document, image["reference"], "--key", str(keys[0]))
    assert done.code == 0, done.err
    assert done.document["image"].endswith(child)
    assert len(bundles(hub, "team/multi", child)) == 1
    both = verdict_of(tmp_path / "both.json", child, index=image["digest"])
    assert attest(project, both, image["reference"], "--key", str(keys[0])).document["image"].endswith(image["digest"])


def test_keyless_on_loopback(hub: str, project: Path, tmp_path: Path) -> None:
    with sigstore() as services:
        config = services.write(tmp_path / "trust.json")
        env = {"SIGSTORE_ID_TOKEN": token("ci@example.com")}
        name = f"{hub}/team/keyless"
        done = builder(
            "publish", "small", "--to", name, "--sign", "--trust-config", str(config), "--json", cwd=project, env=env
        )
        assert done.code == 0, done.err
        again = builder("publish", "small", "--to", name, "--sign", "--trust-config", str(config), cwd=project, env=env)
        assert again.code == 0, again.err
        assert len(bundles(hub, "team/keyless", done.document["digest"])) == 2
        assert len(services.entries) == 2
        document = verdict_of(tmp_path / "v.json", done.document["digest"])
        signed = attest(
            project, document, done.document["reference"], "--keyless", "--trust-config", str(config), **env
        )
        assert signed.code == 0, signed.err
        assert signed.document["signed_by"] == f"ci@example.com ({ISSUER})"
        services.broken = "rekor"
        other = verdict_of(tmp_path / "w.json", done.document["digest"], outcome="failed")
        failed = attest(project, other, done.document["reference"], "--keyless", "--trust-config", str(config), **env)
        assert failed.code == 5
        assert len(bundles(hub, "team/keyless", done.document["digest"])) == 3
    # Verification needs no service: the keys are in the trust configuration.
    pin = ("--signer", f"ci@example.com,{ISSUER}", "--trust-config", str(config))
    good = builder("verify", done.document["reference"], *pin, "--json", cwd=tmp_path)
    assert good.code == 0, good.err
    assert good.document["verdicts"] == {"passed": 1, "warned": 0, "failed": 0, "unreadable": 0}
    assert {(each["kind"], each["state"]) for each in good.document["signed"]} == {
        (kind, "verified") for kind in ("provenance", "SBOM", "verdict")
    }
