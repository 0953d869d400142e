"""Keeping the base: copied by digest between real registries, resumed, and used when its own registry has nothing any more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from builder.documents.lock import read_lock
from builder.util.errors import InputError
from tests.support.cli import builder
from tests.support.published import fetch, patched_project, small_base
from tests.support.registry import registry, skopeo_copy


def lock_path(project: Path) -> Path:
    return project / "images/small.lock.yaml"


def test_a_mirrored_base_is_built_published_and_verified_without_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_base(tmp_path / "base", filler=200_000)
    with registry(tmp_path / "mirror") as mirror:
        with registry(tmp_path / "origin") as origin:
            skopeo_copy(f"oci:{tmp_path}/base:base", f"docker://{origin}/vllm/base:v1")
            project = patched_project(tmp_path / "project", f"{origin}/vllm/base:v1")
            assert builder("lock", "small", cwd=project).code == 0
            before = read_lock(lock_path(project))
            first = builder("mirror", "small", "--to", f"{mirror}/keep/base", "--json", cwd=project)
            assert first.code == 0, first.err
            assert first.document["blobs"] == 3
            assert first.document["bytes"] > 200_000
            assert first.document["lock_changed"]
            again = builder("mirror", "small", "--to", f"{mirror}/keep/base", "--json", cwd=project).document
            assert (again["blobs"], again["bytes"], again["lock_changed"]) == (0, 0, False)
        locked = read_lock(lock_path(project))
        assert locked.base.mirrors == (f"{mirror}/keep/base",)
        assert locked.inputs == before.inputs, "where the base is kept as well changes no tag"
        # The origin is gone, and so is everything that was kept of it.
        monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "empty"))
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        built = builder("build", "small", "--engine", "oci", "--with-base", "--json", cwd=project)
        assert built.code == 0, built.err
        assert built.document["complete"]
        published = builder("publish", "small", "--to", f"{mirror}/team/image", "--json", cwd=project)
        assert published.code == 0, published.err
        assert published.document["streamed_bytes"] == 0, (
            "layers are mounted from the mirror, which is in the same registry"
        )
        verified = builder("verify", published.document["reference"], "--recipe", "small", cwd=project)
        assert verified.code == 0, verified.err
        assert builder("lock", "small", "--check", cwd=project).code == 0
        # A tag keeps the copy from being cleaned away.
        assert fetch(mirror, f"keep/base/manifests/{first.document['tag']}") is not None


def test_only_what_is_missing_is_sent_and_other_bytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_base(tmp_path / "base")
    with registry(tmp_path / "origin") as origin, registry(tmp_path / "mirror") as mirror:
        skopeo_copy(f"oci:{tmp_path}/base:base", f"docker://{origin}/vllm/base:v1")
        # One layer is there already, as after an interruption.
        index = json.loads((tmp_path / "base/index.json").read_text())
        manifest = json.loads((tmp_path / "base/blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
        skopeo_copy(f"oci:{tmp_path}/base:base", f"docker://{mirror}/keep/base:other")
        project = patched_project(tmp_path / "project", f"{origin}/vllm/base:v1")
        done = builder("mirror", "small", "--to", f"{mirror}/keep/base", "--json", cwd=project)
        assert done.code == 0, done.err
        assert (done.document["blobs"], done.document["present"]) == (0, len(manifest["layers"]) + 1)


def test_an_image_that_was_published_before_is_still_the_recipes(tmp_path: Path) -> None:
    small_base(tmp_path / "base")
    with registry(tmp_path / "origin") as origin:
        skopeo_copy(f"oci:{tmp_path}/base:base", f"docker://{origin}/vllm/base:v1")
        project = patched_project(tmp_path / "project", f"{origin}/vllm/base:v1")
        target = f"{origin}/team/image"
        assert builder("publish", "small", "--to", target, "--tag", "production", cwd=project).code == 0
        assert builder("mirror", "small", "--to", f"{origin}/keep/base", cwd=project).code == 0
        done = builder("verify", f"{target}:production", "--recipe", "small", cwd=project)
        assert done.code == 0, done.err


def test_wrong_uses_are_named(tmp_path: Path) -> None:
    project = patched_project(tmp_path / "project", "oci:base")
    small_base(project / "base")
    done = builder("mirror", "small", "--to", "127.0.0.1:9/keep/base", cwd=project)
    assert done.code == 2
    assert "has no registry to be mirrored from" in done.err
    tagged = builder("mirror", "small", "--to", "127.0.0.1:9/keep/base:v1", cwd=project)
    assert tagged.code == 2
    assert "has a tag or a digest" in tagged.err


def test_a_mirror_in_a_lock_is_a_repository(tmp_path: Path) -> None:
    project = patched_project(tmp_path / "project", "oci:base")
    small_base(project / "base")
    assert builder("lock", "small", cwd=project).code == 0
    document = yaml.safe_load(lock_path(project).read_text())
    for mirrors in (["a/b:tag"], ["../x"], ["a/b"]):  # the last one: an oci: base has no mirror
        document["base"]["mirrors"] = mirrors
        lock_path(project).write_text(yaml.safe_dump(document))
        with pytest.raises(InputError, match="is not a repository that can mirror this base"):
            read_lock(lock_path(project))


def two_platforms(folder: Path) -> Path:
    """A layout whose index has the small base for two architectures."""
    small_base(folder)
    blobs = folder / "blobs/sha256"

    def put(document: object) -> dict[str, object]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    entry = json.loads((folder / "index.json").read_text())["manifests"][0]
    manifest = json.loads((blobs / entry["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
    entries = []
    for architecture in ("amd64", "arm64"):
        described = {**manifest["config"], **put({**config, "architecture": architecture})}
        entries.append(
            {
                "mediaType": manifest["mediaType"],
                **put({**manifest, "config": described}),
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    index = "application/vnd.oci.image.index.v1+json"
    top = {"mediaType": index, **put({"schemaVersion": 2, "mediaType": index, "manifests": entries})}
    top["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return folder


@pytest.mark.parametrize("platforms", [["linux/amd64"], ["linux/amd64", "linux/arm64"]])
def test_of_an_index_the_locked_platforms_are_enough(
    platforms: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_platforms(tmp_path / "base")
    with registry(tmp_path / "mirror") as mirror:
        with registry(tmp_path / "origin") as origin:
            skopeo_copy(f"oci:{tmp_path}/base:base", f"docker://{origin}/vllm/base:v1")
            project = patched_project(tmp_path / "project", f"{origin}/vllm/base:v1", platforms=platforms)
            done = builder("mirror", "small", "--to", f"{mirror}/keep/base", "--json", cwd=project)
            assert done.code == 0, done.err
            # Debian's registry takes no index whose parts it lacks.
            assert done.document["index"] == (len(platforms) == 2)
            digest = builder("build", "small", "--engine", "oci", "--json", cwd=project).document["digest"]
        monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "empty"))
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        built = builder("build", "small", "--engine", "oci", "--json", cwd=project)
        assert built.code == 0, built.err
        assert built.document["digest"] == digest
