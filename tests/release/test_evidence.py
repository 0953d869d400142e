"""Evidence: what it says, that others can read it, and where it is kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.documents.verdict import ImageIdentity, Reading, read_verdict
from builder.oci.referrers import find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.serve.smoke.result import Check, SmokeResult, failed, passed
from tests.support.cli import builder
from tests.support.published import patched_project, small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.trees import git


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("evidence")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/base/image:v1")
        yield host


@pytest.fixture
def project(hub: str, tmp_path: Path) -> Path:
    return patched_project(tmp_path / "project", f"{hub}/base/image:v1", checkpoint={"digest": "c0" * 32})


def attached(hub: str, document: Any) -> dict[str, bytes]:
    client = Registry(hub)
    found = {}
    for each in find_referrers(client, "team/out", document["digest"]):
        manifest, data = read_referrer(client, "team/out", each)
        assert manifest["subject"]["digest"] == document["digest"]
        found[manifest["annotations"]["org.opencontainers.image.title"]] = data
    return found


def test_sbom_provenance_and_lock_travel_with_the_image(hub: str, project: Path, tmp_path: Path) -> None:
    done = builder(
        "publish", "small", "--to", f"{hub}/team/out", "--evidence", str(tmp_path / "e"), "--json", cwd=project
    )
    assert done.code == 0, done.err
    found = attached(hub, done.document)
    assert {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()} == found
    assert set(found) == {"sbom.cdx.json", "provenance.json", "lock.yaml", "sources.tar"}
    assert found["lock.yaml"] == (project / "images/small.lock.yaml").read_bytes()
    digest = done.document["digest"].removeprefix("sha256:")
    _check_sbom(found["sbom.cdx.json"], digest)
    _check_provenance(json.loads(found["provenance.json"]), digest, project)
    good = builder("verify", f"{hub}/team/out:{done.document['tags'][0]}", "--json", cwd=tmp_path)
    assert good.code == 0, good.err
    assert good.document["evidence"] == 4
    # What has a time or a random number in it would be attached twice.
    again = builder("publish", "small", "--to", f"{hub}/team/out", "--json", cwd=project)
    assert again.code == 0, again.err
    assert attached(hub, done.document) == found
    assert len(find_referrers(Registry(hub), "team/out", done.document["digest"])) == 4


def _check_sbom(data: bytes, digest: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    bom = json.loads(data)
    assert bom["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    names = {each["name"]: each for each in bom["components"]}
    assert set(names) == {"vllm", "torch"}
    assert names["torch"]["purl"] == "pkg:pypi/torch@2.9.1"
    patches = names["vllm"]["pedigree"]["patches"]
    assert [each["type"] for each in patches] == ["unofficial"]
    assert patches[0]["diff"]["url"] == "overlays/one.diff"
    assert patches[0]["diff"]["text"]["content"].startswith("sha256:")


def _check_provenance(statement: dict[str, Any], digest: str, project: Path) -> None:
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": "small", "digest": {"sha256": digest}}]
    dependencies = {each["name"]: each for each in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert all(each["digest"]["sha256"] for each in dependencies.values())
    assert dependencies["checkpoint"]["digest"]["sha256"] == "c0" * 32
    lock = hashlib.sha256((project / "images/small.lock.yaml").read_bytes()).hexdigest()
    assert dependencies["lock"]["digest"]["sha256"] == lock
    assert "overlay overlays/one.diff" in dependencies


def smoke(path: Path, digest: str | None, *checks: Check) -> Path:
    """A result of `builder smoke` about an image."""
    image = ImageIdentity(reference="team/x", digest=digest, id=digest) if digest is not None else None
    result = SmokeResult(
        target="docker", recipe="small", profile="tiny", flags=(), command=None, image=image, gpu=None, gpu_name=None,
        vllm=None, model=None, begun="2026-01-01T00:00:00Z", seconds=1.5, phases={"ready": 1.0}, figures={"tokens": 3},
        checks=checks or (passed("answers", "yes", ("prompt", "hello"), seconds=0.5),),
    )  # fmt: skip
    path.write_bytes(result.verdict().statement())
    return path


def test_a_verdict_is_read_by_its_schema(hub: str, project: Path, tmp_path: Path) -> None:
    name = f"{hub}/team/verdict"
    digest = builder("publish", "small", "--to", name, "--json", cwd=project).document["digest"]
    other = smoke(tmp_path / "other.json", "sha256:" + "0" * 64)
    refused = builder("publish", "small", "--to", name, "--verdict", str(other), cwd=project)
    assert refused.code == 4
    assert "is not about this image" in refused.err
    nothing = smoke(tmp_path / "nothing.json", None)
    assert builder("publish", "small", "--to", name, "--verdict", str(nothing), cwd=project).code == 4
    good = smoke(tmp_path / "good.json", digest)
    done = builder("publish", "small", "--to", name, "--verdict", str(good), "--tag", "production", cwd=project)
    assert done.code == 0, done.err
    checked = builder("verify", f"{name}@{digest}", "--json", cwd=project)
    assert checked.code == 0, checked.err
    assert checked.document["evidence"] == 5
    assert checked.document["verdicts"] == {"passed": 1, "warned": 0, "failed": 0, "unreadable": 0}


@pytest.mark.parametrize(
    ("outcome", "make"),
    [
        ("failed", lambda path, digest: smoke(path, digest, passed("a", "yes"), failed("b", "no"))),
        ("unreadable", lambda path, digest: path.write_text(f"all checks FAILED on {digest}")),
        ("unreadable", lambda path, digest: path.write_text(json.dumps({"image": digest, "passed": True}))),
        ("unreadable", lambda path, digest: path.write_bytes(b"\xff" + digest.encode())),
        ("unreadable", lambda path, digest: path.write_text("[" * 100_000)),
    ],
    ids=["failed", "text", "other-json", "bytes", "deep"],
)
def test_a_tag_does_not_move_past_a_verdict_that_did_not_pass(
    hub: str, project: Path, tmp_path: Path, outcome: str, make: Callable[[Path, str], object], request: Any
) -> None:
    name = f"{hub}/team/gated-{request.node.callspec.id.rpartition('-')[2]}"
    digest = builder("publish", "small", "--to", name, "--json", cwd=project).document["digest"]
    verdict = tmp_path / "verdict.json"
    make(verdict, digest)
    arguments = ("publish", "small", "--to", name, "--verdict", str(verdict))
    refused = builder(*arguments, "--tag", "production", cwd=project)
    assert refused.code == 6, refused.err
    assert outcome in refused.err
    registry_client = Registry(hub)
    repository = name.partition("/")[2]
    assert registry_client.has_manifest(repository, "production") is None
    assert builder(*arguments, cwd=project).code == 0
    counted = builder("verify", f"{name}@{digest}", "--json", cwd=project)
    assert counted.code == 0, counted.err
    assert counted.document["verdicts"][outcome] == 1
    assert f"1 {outcome}" in builder("verify", f"{name}@{digest}", cwd=project).out
    assert builder(*arguments, "--tag", "production", "--allow-failed", cwd=project).code == 0
    assert registry_client.has_manifest(repository, "production") == digest


def test_a_result_whose_outcome_contradicts_its_checks_is_unreadable(tmp_path: Path) -> None:
    path = smoke(tmp_path / "x.json", "sha256:" + "0" * 64, failed("b", "no"))
    assert read_verdict(path.read_bytes()) == Reading("failed", ("sha256:" + "0" * 64,))
    document = json.loads(path.read_text())
    predicate = document["predicate"]
    changes: tuple[dict[str, Any], ...] = ({"result": "PASSED"}, {"failedTests": []}, {"passedTests": ["smoke:tiny/b"]})
    for changed in changes:
        assert (
            read_verdict(json.dumps({**document, "predicate": {**predicate, **changed}}).encode()).outcome
            == "unreadable"
        )


def test_signing_comes_before_tags_and_its_failure_moves_none(hub: str, project: Path, tmp_path: Path) -> None:
    """cosign itself is not on every machine; what is tested here is when it is called, with what, and what its failure does."""
    program = tmp_path / "bin/cosign"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$COSIGN_PASSWORD $@" >> {tmp_path}/called\nexit ${{COSIGN_TEST_EXIT:-0}}\n')
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:/usr/sbin:/usr/bin:/bin", "COSIGN_PASSWORD": "pw"}
    refused = builder(
        "publish", "small", "--to", f"{hub}/team/signed", "--sign", "--key", "awskms:///k", cwd=project,
        env={**env, "COSIGN_TEST_EXIT": "1"},
    )  # fmt: skip
    assert refused.code == 5
    assert "cosign did not sign" in refused.err
    done = builder(
        "publish",
        "small",
        "--to",
        f"{hub}/team/signed",
        "--sign",
        "--key",
        "awskms:///k",
        "--json",
        cwd=project,
        env=env,
    )
    assert done.code == 0, done.err
    calls = (tmp_path / "called").read_text().splitlines()
    assert calls == [f"pw sign --yes --recursive --key awskms:///k {hub}/team/signed@{done.document['digest']}"] * 2
    tags = subprocess.run(
        ["skopeo", "list-tags", "--tls-verify=false", f"docker://{hub}/team/signed"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.document["tags"][0] in json.loads(tags.stdout)["Tags"]
    missing = builder(
        "publish", "small", "--to", f"{hub}/team/x", "--sign", "--key", "awskms:///k", cwd=project,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert missing.code == 2
    assert "install cosign" in missing.err


def test_provenance_names_the_repository_that_the_recipe_is_in(hub: str, project: Path, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(project, root)
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", "https://name:secret@git.example/team/recipes.git")
    # A commit without the lock is not where the image is from.
    assert builder("lock", "small", cwd=root).code == 0
    git(root, "add", ".")
    git(root, "-c", "user.name=N", "-c", "user.email=e@x", "commit", "-q", "-m", "first")
    commit = git(root, "rev-parse", "HEAD").decode().strip()
    for dirty in (False, True):
        target = f"{hub}/team/source-{'dirty' if dirty else 'clean'}"
        folder = tmp_path / f"evidence-{dirty}"
        if dirty:
            (root / "profiles/tiny.yaml").write_text((root / "profiles/tiny.yaml").read_text() + "# more\n")
        done = builder("publish", "small", "--to", target, "--evidence", str(folder), "--json", cwd=root)
        assert done.code == 0, done.err
        statement = json.loads((folder / "provenance.json").read_text())
        assert statement["predicate"]["buildDefinition"]["resolvedDependencies"][-1] == {
            "name": "recipe repository",
            "uri": f"git+https://git.example/team/recipes.git@{commit}",
            "digest": {"gitCommit": commit},
            "annotations": {"dirty": dirty},
        }
        assert "secret" not in (folder / "provenance.json").read_text()
        checked = builder("verify", done.document["reference"], "--json", cwd=tmp_path)
        assert checked.code == 0, checked.err
