"""The main job through the command line, on a small wheel: lock, check, build, render, verify."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff

EDITED = {
    **FILES,
    "vllm/config.py": FILES["vllm/config.py"].replace(b"option_20 = 20\n", b"option_20 = 2020\n"),
    "vllm/new/module.py": b"added = True\n",
    "vllm/new/__init__.py": b"",
}
STACKED = {**EDITED, "vllm/config.py": EDITED["vllm/config.py"].replace(b"option_20 = 2020\n", b"option_20 = 2021\n")}
del STACKED["vllm/old.py"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    first = git_diff(tmp_path / "1", FILES, {**EDITED, "tests/test_x.py": b"x = 1\n"})
    second = git_diff(tmp_path / "2", EDITED, STACKED)
    return make_project(tmp_path / "project", {"first.diff": first, "second.diff": second})


def layer(root: Path, document: dict[str, object]) -> dict[str, tarfile.TarInfo]:
    described = document["layer"]
    assert isinstance(described, dict)
    blob = root / "dist/small/blobs/sha256" / str(described["digest"]).removeprefix("sha256:")
    with tarfile.open(blob) as archive:
        return {member.name: member for member in archive}


def test_build_makes_the_lock_says_so_and_gives_the_documented_json(project: Path) -> None:
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    assert "making it" in done.err
    document = done.document
    assert {"name", "digest", "config_digest", "layer", "tags", "output", "files"} <= document.keys()
    assert {"digest", "diff_id", "size"} <= document["layer"].keys()
    files = {each["path"]: each for each in document["files"]}
    assert set(files) == {"vllm/config.py", "vllm/new/module.py", "vllm/new/__init__.py", "vllm/old.py"}
    assert files["vllm/config.py"]["overlays"] == ["overlays/first.diff", "overlays/second.diff"]
    assert files["vllm/new/module.py"]["before"] is None
    assert files["vllm/old.py"]["after"] is None
    members = layer(project, document)
    root = "usr/local/lib/python3.12/dist-packages"
    assert f"{root}/vllm/.wh.old.py" in members
    assert f"{root}/vllm/new/__init__.py" in members
    assert members["opt/builder/serve"].mode == 0o755
    assert all((member.uid, member.gid, member.uname) == (0, 0, "") for member in members.values())
    assert {member.mode for member in members.values()} == {0o644, 0o755}
    assert not any("test_x" in name for name in members)
    assert (project / "images/small.lock.yaml").is_file()


def test_a_second_run_changes_nothing_and_check_sees_changes(project: Path) -> None:
    assert builder("lock", "small", cwd=project).code == 0
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert "up to date" in builder("lock", "small", cwd=project).out
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    assert builder("lock", "small", "--check", cwd=project).code == 0
    profile = project / "profiles/tiny.yaml"
    profile.write_text(profile.read_text().replace("16", "32"))
    changed = builder("lock", "small", "--check", "--json", cwd=project)
    assert changed.code == 4
    assert changed.document["error"]["changed"] == ["images/small.lock.yaml"]
    stale = builder("build", "small", "--engine", "oci", cwd=project)
    assert stale.code == 4
    assert "profiles/tiny.yaml" in stale.err
    assert not (project / "dist").exists()


def test_a_build_after_a_change_takes_the_place_of_the_earlier_one(project: Path) -> None:
    first = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    profile = project / "profiles/tiny.yaml"
    profile.write_text(profile.read_text().replace("16", "32"))
    assert builder("lock", "small", cwd=project).code == 0
    second = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    assert second["digest"] != first["digest"]
    done = builder("verify", "oci:dist/small", "--recipe", "small", "--json", cwd=project)
    assert done.code == 0, done.err
    assert done.document["digest"] == second["digest"]
    blobs = {path.name for path in (project / "dist/small/blobs/sha256").iterdir()}
    assert first["digest"].removeprefix("sha256:") not in blobs


def test_two_recipes_can_share_a_layout(project: Path) -> None:
    recipe = project / "images/small.yaml"
    (project / "images/other.yaml").write_text(recipe.read_text().replace("name: small", "name: other"))
    for name in ("small", "other", "small"):
        assert builder("build", name, "--output", "oci:dist/both", cwd=project).code == 0
    ambiguous = builder("verify", "oci:dist/both", cwd=project)
    assert ambiguous.code == 2
    assert "2 images" in ambiguous.err
    for tag in re.findall(r"inputs-[0-9a-f]{12}", ambiguous.err):
        assert builder("verify", f"oci:dist/both:{tag}", cwd=project).code == 0


def test_the_committed_lock_of_the_demo_is_fresh() -> None:
    done = builder("lock", "demo", "--check", cwd=Path(__file__).parents[2])
    assert done.code == 0, done.err


def test_check_prints_the_stack_and_writes_no_image(project: Path) -> None:
    done = builder("check", "small", cwd=project)
    assert done.code == 0, done.err
    assert "overlays/first.diff" in done.out
    assert "tests/test_x.py" in done.out
    assert "order matters" in done.out
    shown = builder("check", "small", "--diff", "--json", cwd=project).document["platforms"][0]
    assert "+option_20 = 2021" in shown["diff"]
    assert shown["overlays"][0]["dropped"][0]["path"] == "tests/test_x.py"
    assert not (project / "dist").exists()


def test_the_wrong_order_ends_in_3_and_writes_nothing(project: Path) -> None:
    recipe = project / "images/small.yaml"
    lines = recipe.read_text().replace("first", "@").replace("second", "first").replace("@", "second")
    recipe.write_text(lines)
    before = sorted(project.rglob("*"))
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 3
    error = done.document["error"]
    assert error["overlay"] == "overlays/second.diff"
    failure = next(each for each in error["failures"] if each["path"] == "vllm/config.py")
    assert failure["cause"] == "blocked"
    assert "overlays/first.diff" in failure["explanation"]
    assert "line 5 of overlays/second.diff" in done.err
    assert sorted(project.rglob("*")) == before


def test_a_changed_diff_is_not_the_locked_one(project: Path) -> None:
    assert builder("lock", "small", cwd=project).code == 0
    diff = project / "overlays/second.diff"
    diff.write_bytes(diff.read_bytes().replace(b"2021", b"2029"))
    done = builder("build", "small", "--engine", "oci", cwd=project)
    assert done.code == 4
    assert "not the diff that was locked" in done.err


def test_render_writes_a_context_and_refuses_a_foreign_folder(project: Path, tmp_path: Path) -> None:
    # A wheel has no image to stand on: the docker engine and the context need one.
    done = builder("render", "small", "--output", str(tmp_path / "context"), cwd=project)
    assert done.code == 2
    assert "wheel base has no image" in done.err
    assert not (tmp_path / "context").exists()


def test_a_users_folder_is_never_overwritten(project: Path) -> None:
    target = project / "dist/small"
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("mine")
    done = builder("build", "small", "--engine", "oci", cwd=project)
    assert done.code == 2
    assert "not an OCI layout" in done.err
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


def test_verify_finds_each_tampering(project: Path) -> None:
    document = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    good = builder("verify", "oci:dist/small", "--recipe", "small", "--rebuild", cwd=project)
    assert good.code == 0, good.err
    blob = project / "dist/small/blobs/sha256" / document["config_digest"].removeprefix("sha256:")
    original = blob.read_bytes()
    blob.write_bytes(original.replace(b"/opt/builder/serve", b"/opt/builder/other"))
    bad = builder("verify", "oci:dist/small", cwd=project)
    assert bad.code == 4
    assert "does not have the content that its name promises" in bad.err
    blob.write_bytes(original)
    (project / "profiles/tiny.yaml").write_text("name: tiny\nflags: {max-model-len: 99}\n")
    assert builder("lock", "small", cwd=project).code == 0
    other = builder("verify", "oci:dist/small", "--recipe", "small", cwd=project)
    assert other.code == 4
    assert "record profiles" in other.err


def test_an_edited_layer_does_not_pass_for_the_recorded_one(project: Path) -> None:
    """All digests of the layout are made right again; the record still tells."""
    import hashlib
    import io

    document = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    blobs = project / "dist/small/blobs/sha256"

    def put(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return f"sha256:{digest}"

    manifest = json.loads((blobs / document["digest"][7:]).read_bytes())
    config = json.loads((blobs / document["config_digest"][7:]).read_bytes())
    buffer = io.BytesIO()
    with tarfile.open(blobs / document["layer"]["digest"][7:]) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            data = old.extractfile(member).read() if member.isfile() else b""  # type: ignore[union-attr]
            if member.name.endswith("config.py"):
                data = data.replace(b"2021", b"6666")
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    manifest["layers"][-1].update(digest=put(buffer.getvalue()), size=len(buffer.getvalue()))
    config["rootfs"]["diff_ids"][-1] = manifest["layers"][-1]["digest"]
    data = json.dumps(config).encode()
    manifest["config"].update(digest=put(data), size=len(data))
    data = json.dumps(manifest).encode()
    index = json.loads((project / "dist/small/index.json").read_bytes())
    for entry in index["manifests"]:
        if "artifactType" in entry:
            continue
        entry.update(digest=put(data), size=len(data))
    (project / "dist/small/index.json").write_text(json.dumps(index))
    done = builder("verify", "oci:dist/small", cwd=project)
    assert done.code == 4
    assert "vllm/config.py" in done.err
    # With everything that refers to the image gone, nothing says what it should be.
    index["manifests"] = [entry for entry in index["manifests"] if "artifactType" not in entry]
    (project / "dist/small/index.json").write_text(json.dumps(index))
    alone = builder("verify", "oci:dist/small", cwd=project)
    assert alone.code == 4
    assert "no lock travels with it" in alone.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nmae: x\n", "did you mean 'name'"),
        ("overlays: [{pull: nonsense}]\n", "OWNER/REPOSITORY#NUMBER"),
        ("overlays: [{file: ../../etc/passwd}]\n", "outside the project"),
        ("overlays: [{file: overlays/none.diff}]\n", "cannot read the diff"),
        ("base: 'wheel:vllm'\n", "not a wheel base"),
        ("base: dir:x\n", "skopeo copy dir:x oci:base"),
        ("base: 'Not A Reference'\n", "not an image reference"),
        ("profiles: [tinyy]\n", "did you mean tiny"),
        ("default_profile: other\n", "not among the profiles"),
        ("package: torch\n", "check the recipe's 'package'"),
        ("platforms: [amiga]\n", "not a platform"),
    ],
)
def test_wrong_recipes_end_in_2_with_a_place_or_a_hint(project: Path, change: str, message: str) -> None:
    recipe = project / "images/small.yaml"
    key = change.split(":", maxsplit=1)[0]
    kept = recipe.read_text()
    if key in kept:
        import yaml

        document = yaml.safe_load(kept)
        document.pop(key, None)
        if key == "profiles":
            document.pop("default_profile")
        kept = yaml.safe_dump(document, sort_keys=False)
    recipe.write_text(kept + change)
    done = builder("build", "small", "--engine", "oci", cwd=project)
    assert done.code == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (project / "dist").exists()


def test_an_unknown_recipe_suggests_the_near_one(project: Path) -> None:
    done = builder("check", "smal", cwd=project)
    assert done.code == 2
    assert "did you mean small" in done.err


def test_one_recipe_and_one_diff_in_an_empty_folder_are_enough(project: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(project / "vllm-0.0.1-py3-none-any.whl", alone)
    shutil.copy(project / "overlays/first.diff", alone)
    (alone / "mine.yaml").write_text(
        "name: mine\nbase: wheel:vllm-0.0.1-py3-none-any.whl\noverlays:\n  - file: first.diff\n"
    )
    done = builder("build", "mine.yaml", "--engine", "oci", "--json", cwd=alone)
    assert done.code == 0, done.err
    assert done.document["tags"][0].startswith("inputs-")
    assert (alone / "mine.lock.yaml").is_file()


def test_the_tags_carry_the_checkpoints_digest_and_the_locks(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", {}, checkpoint={"digest": "ab" * 32})
    first = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    assert first["tags"] == [f"ckpt-{'ab' * 6}-{first['inputs'][:12]}", f"ckpt-{'ab' * 6}"]
    assert first["files"] == []


def test_json_errors_are_one_document(project: Path) -> None:
    for arguments in (["check", "nothing", "--json"], ["bild", "--json"], ["build", "--json"]):
        done = builder(*arguments, cwd=project)
        assert done.code == 2
        assert json.loads(done.out)["error"]["exit_code"] == 2
