"""Several packages in one stack: each found in the base by its import name, each with its distribution and its RECORD."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.lock import parse_lock, read_lock
from builder.documents.record import read_record
from builder.image.context import render_context
from builder.image.labels import entrypoint_of, image_labels
from builder.pipeline.workspace import open_workspace
from builder.util.context import Context
from builder.util.errors import InputError
from tests.support.cli import Ran, builder
from tests.support.severalpackages import (
    ALL,
    FLASHINFER,
    ROOT,
    TRANSFORMERS,
    TRITON,
    VENV,
    VLLM,
    Small,
    digest_of,
    files_of,
    image,
)
from tests.support.smallwheel import make_project
from tests.support.tampering import Image, verify
from tests.support.trees import git_diff

VLLM_FILE, FLASH_FILE, HF_FILE = "vllm/config.py", "flashinfer/decode.py", "transformers/models/qwen.py"
CUH, NEW = "flashinfer/data/include/decode.cuh", "flashinfer/jit/new.py"
RECORDS = {each.package: f"{ROOT}/{each.info}/RECORD" for each in ALL}


def edit(data: bytes, number: int, text: str) -> bytes:
    """A module of `lines` with another value in one line."""
    rows = data.splitlines(keepends=True)
    rows[number] = rows[number].split(b"=")[0] + f"= {text}\n".encode()
    return b"".join(rows)


BASE = files_of(ALL)
BOTH = {**BASE, VLLM_FILE: edit(BASE[VLLM_FILE], 20, "2020"), FLASH_FILE: edit(BASE[FLASH_FILE], 7, "'b'")}
"""One change over two packages."""
FLASH = {**BOTH, FLASH_FILE: edit(BOTH[FLASH_FILE], 30, "3000"), NEW: b"new = 1\n", CUH: b"#define A 1\n#define B 9\n#define C 3\n"}  # fmt: skip
FLASH.pop("flashinfer/old.py")
HF = {**FLASH, HF_FILE: edit(FLASH[HF_FILE], 3, "'new'")}


@pytest.fixture(scope="module")
def diffs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("diffs")
    steps = {"both.diff": (BASE, BOTH), "flash.diff": (BOTH, FLASH), "hf.diff": (FLASH, HF)}
    return {name: git_diff(root / name, old, new) for name, (old, new) in steps.items()}


OVERLAYS: list[dict[str, Any]] = [
    {"file": "overlays/both.diff", "package": ["vllm", "flashinfer"]},
    {"file": "overlays/flash.diff", "package": "flashinfer"},
    {"file": "overlays/hf.diff", "package": "transformers"},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformers and Triton are in a lower layer than vLLM and FlashInfer."""
    return image(tmp_path_factory.mktemp("base") / "layout", [TRANSFORMERS, TRITON], [VLLM, FLASHINFER])


@pytest.fixture(scope="module")
def made(base: Path, diffs: Mapping[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of three overlays over three packages, built to dist/small."""
    project = make_project(tmp_path_factory.mktemp("made"), diffs, base=f"oci:{base}:base", overlays=OVERLAYS)
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    (project / "built.json").write_text(done.out)
    return project


def layer_of(project: Path) -> dict[str, bytes | None]:
    """The layer's entries: content of files, None for others."""
    document = json.loads((project / "built.json").read_text())
    path = project / "dist/small/blobs/sha256" / document["layer"]["digest"].removeprefix("sha256:")
    with tarfile.open(path) as archive:
        return {
            each.name: stream.read() if (stream := archive.extractfile(each)) is not None else None for each in archive
        }


def rows_of(record: bytes) -> dict[str, tuple[str, str]]:
    rows = list(csv.reader(io.StringIO(record.decode())))
    assert len({row[0] for row in rows}) == len(rows), "a RECORD lists each file once"
    return {row[0]: (row[1], row[2]) for row in rows}


def refused(done: Ran, code: int, *words: str) -> None:
    assert done.code == code, done.out + done.err
    for word in words:
        assert word in done.err, done.err


# --- the layer, the lock, the record --------------------------------------------------------------------------------


def test_one_stack_changes_three_packages(made: Path) -> None:
    layer = layer_of(made)
    for path in (VLLM_FILE, FLASH_FILE, HF_FILE, CUH, NEW):
        assert layer[f"{ROOT}/{path}"] == HF[path], path
    assert f"{ROOT}/flashinfer/.wh.old.py" in layer
    assert not any("triton" in name for name in layer)


def test_each_record_lists_what_its_own_package_has_now(made: Path) -> None:
    layer = layer_of(made)
    for each in (VLLM, FLASHINFER, TRANSFORMERS):
        data = layer[RECORDS[each.package]]
        assert data is not None
        rows = rows_of(data)
        own = {path: content for path, content in HF.items() if path.startswith(f"{each.package}/")}
        assert {path for path in rows if not path.startswith(each.info)} == own.keys()
        for path, content in own.items():
            assert rows[path] == (digest_of(content), str(len(content)))


def test_the_lock_has_each_distribution(made: Path) -> None:
    lock = read_lock(made / "images/small.lock.yaml")
    platform = lock.base.platforms["linux/amd64"]
    owners = platform.distributions(lock.package)
    assert list(owners) == ["vllm", "flashinfer", "transformers"]
    for each in (VLLM, FLASHINFER, TRANSFORMERS):
        owner = owners[each.package]
        assert (owner.name, owner.version, owner.dist_info) == (each.distribution, each.version, each.info)
        assert owner.record == hashlib.sha256(each.record).hexdigest()
    assert [overlay.package for overlay in lock.overlays] == [
        ("vllm", "flashinfer"),
        ("flashinfer",),
        ("transformers",),
    ]


def test_the_record_has_each_package(made: Path) -> None:
    data = layer_of(made)["opt/builder/record.json"]
    assert data is not None
    record = read_record(data)
    assert record.package.name == "vllm"
    assert [(each.name, each.distribution, each.version) for each in record.further] == [
        ("flashinfer", "flashinfer_python", "0.6.8"),
        ("transformers", "transformers", "5.2.0"),
    ]
    assert {each.root for each in record.further} == {record.package.root}
    assert record.overlays[0].package == ("vllm", "flashinfer")


def test_the_same_digest_on_another_machine(made: Path, tmp_path: Path) -> None:
    """Another cache, another folder, no clock in common."""
    done = builder(
        "build", "small", "--engine", "oci", "--output", f"oci:{tmp_path}/again", "--json", cwd=made,
        env={"BUILDER_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.document["digest"] == json.loads((made / "built.json").read_text())["digest"]
    assert builder("lock", "small", "--check", cwd=made).code == 0


def test_check_reports_every_package(made: Path) -> None:
    done = builder("check", "small", "--json", cwd=made)
    assert done.code == 0, done.err
    overlays = done.document["platforms"][0]["overlays"]
    assert overlays[0]["files"] == [FLASH_FILE, VLLM_FILE]
    assert not overlays[0]["dropped"]


def test_the_sbom_has_a_patched_component_for_each_package(made: Path, tmp_path: Path) -> None:
    lock = read_lock(made / "images/small.lock.yaml")
    from builder.oci.types import OCI_MANIFEST, Descriptor
    from builder.release.evidence.sbom import make_sbom

    bom = json.loads(make_sbom(lock, "linux/amd64", Descriptor(OCI_MANIFEST, f"sha256:{'0' * 64}", 1)))
    patches = {
        each["name"]: [patch["diff"]["url"] for patch in each.get("pedigree", {}).get("patches", [])]
        for each in bom["components"]
    }
    assert patches["vllm"] == ["overlays/both.diff"]
    assert sorted(patches["flashinfer_python"]) == ["overlays/both.diff", "overlays/flash.diff"]
    assert patches["transformers"] == ["overlays/hf.diff"]
    assert not any(patches[name] for name in patches.keys() - {"vllm", "flashinfer_python", "transformers"})


def test_the_rendered_context_has_the_same_files(made: Path, tmp_path: Path) -> None:
    """The second engine is given what the first one puts into its layer."""
    workspace = open_workspace(str(made / "images/small.yaml"), context=Context())
    plan = workspace.plans()[0]
    labels, entrypoint = image_labels(workspace.lock, plan.record), entrypoint_of(plan.record)
    render_context(tmp_path / "context", "base", plan.rootfs, labels=labels, entrypoint=entrypoint, name="small")
    rootfs = tmp_path / "context/rootfs"
    found = {str(path.relative_to(rootfs)): path.read_bytes() for path in rootfs.rglob("*") if path.is_file()}
    layer = layer_of(made)
    assert found == {name: data for name, data in layer.items() if data is not None and "/.wh." not in name}
    assert f"/{ROOT}/flashinfer/old.py" in (tmp_path / "context/Dockerfile").read_text()


# --- verify ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Image:
    document = json.loads((made / "built.json").read_text())
    return Image.load(made / "dist/small", document["tags"][0]).copy_to(tmp_path / "copy")


def test_verify_is_content_with_the_honest_image(copied: Image) -> None:
    found = verify(f"oci:{copied.folder}:{copied.tag}")
    assert found.code == 0, found.out + found.err


@pytest.mark.parametrize("name", [f"{ROOT}/{FLASH_FILE}", f"{ROOT}/{HF_FILE}", RECORDS["flashinfer"], RECORDS["transformers"]])  # fmt: skip
def test_verify_names_what_was_changed_in_any_package(copied: Image, name: str) -> None:
    copied.change_file(name, lambda data: data.replace(b"0", b"1", 1))
    copied.seal()
    found = verify(f"oci:{copied.folder}:{copied.tag}")
    assert found.code == 4, found.out + found.err
    assert name in found.out + found.err


def test_verify_misses_a_record_that_is_gone(copied: Image) -> None:
    copied.set_members([each for each in copied.members() if each.info.name != RECORDS["flashinfer"]])
    copied.seal()
    found = verify(f"oci:{copied.folder}:{copied.tag}")
    assert found.code == 4
    assert RECORDS["flashinfer"] in found.out + found.err


@pytest.mark.parametrize("what", ["lacking", "another", "one distribution in two ways"])
def test_a_lock_whose_packages_do_not_fit_together_is_none(made: Path, what: str) -> None:
    text = (made / "images/small.lock.yaml").read_text()
    document = yaml.safe_load(text)
    platform = document["base"]["platforms"]["linux/amd64"]
    if what == "lacking":
        platform["further"].pop()
    elif what == "one distribution in two ways":
        platform["further"][0]["distribution"] = {**platform["distribution"], "record": "0" * 64}
    else:
        platform["further"][0]["package"] = "sglang"
    with pytest.raises(InputError, match=r"further|packages|dist_info"):
        parse_lock(yaml.safe_dump(document).encode(), "small.lock.yaml")


# --- what is refused ------------------------------------------------------------------------------------------------


def project_of(tmp_path: Path, diffs: Mapping[str, bytes], base: str, overlays: list[dict[str, Any]], **more: Any) -> Path:  # fmt: skip
    return make_project(tmp_path / "project", diffs, base=base, overlays=overlays, **more)


def test_a_package_that_the_base_does_not_have(base: Path, diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    overlays = [{"file": "overlays/hf.diff", "package": "sglang"}]
    done = builder("lock", "small", cwd=project_of(tmp_path, diffs, f"oci:{base}:base", overlays))
    refused(done, 2, "no Python package 'sglang'")


def test_a_change_of_a_package_that_is_not_named_is_left_out_and_reported(
    base: Path, diffs: Mapping[str, bytes], tmp_path: Path
) -> None:
    project = project_of(tmp_path, diffs, f"oci:{base}:base", [{"file": "overlays/both.diff"}])
    done = builder("lock", "small", cwd=project)
    assert done.code == 0, done.err
    assert "package: [vllm, flashinfer]" in done.err
    lock = read_lock(project / "images/small.lock.yaml")
    assert lock.overlays[0].unnamed == ("flashinfer",)
    assert [file.path for file in lock.base.platforms["linux/amd64"].files] == [VLLM_FILE]
    # The lock alone says it too, without the base.
    done = builder("check", "small", "--json", "--offline", cwd=project)
    assert done.code == 0, done.err
    assert any("package: [vllm, flashinfer]" in note for note in done.document["platforms"][0]["notes"])
    assert done.document["platforms"][0]["overlays"][0]["dropped"] == [
        {"path": FLASH_FILE, "reason": "in the package flashinfer, which the overlay does not name"}
    ]


def test_a_diff_for_another_package_alone_gets_the_line_to_add(
    base: Path, diffs: Mapping[str, bytes], tmp_path: Path
) -> None:
    project = project_of(tmp_path, diffs, f"oci:{base}:base", [{"file": "overlays/hf.diff"}])
    refused(builder("lock", "small", cwd=project), 2, "nothing of overlay", "package: transformers")
    recipe = yaml.safe_load((project / "images/small.yaml").read_text())
    recipe["overlays"][0]["package"] = "transformers"
    (project / "images/small.yaml").write_text(yaml.safe_dump(recipe))
    assert builder("check", "small", cwd=project).code == 0


def test_strip_and_under_lead_into_a_named_package(base: Path, tmp_path: Path) -> None:
    inside = {path.removeprefix("flashinfer/"): data for path, data in FLASHINFER.files.items()}
    diff = git_diff(tmp_path / "git", inside, {**inside, "decode.py": edit(inside["decode.py"], 3, "33")})
    given = {"file": "overlays/inside.diff", "package": "flashinfer"}
    project = project_of(tmp_path, {"inside.diff": diff}, f"oci:{base}:base", [given])
    refused(builder("lock", "small", cwd=project), 2, "below flashinfer/", "under: flashinfer")
    recipe = yaml.safe_load((project / "images/small.yaml").read_text())
    recipe["overlays"][0]["under"] = "flashinfer"
    (project / "images/small.yaml").write_text(yaml.safe_dump(recipe))
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    found = verify(f"oci:{project / 'dist/small'}:{done.document['tags'][0]}")
    assert found.code == 0, found.err


def test_packages_in_different_folders_are_refused(diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    """vLLM in a virtual environment, Transformers of the system that it sees: two folders."""
    layout = image(
        tmp_path / "layout", [VLLM, FLASHINFER, TRANSFORMERS], roots={"vllm": VENV, "flashinfer": VENV},
        env=["PATH=/opt/venv/bin:/usr/bin", "VIRTUAL_ENV=/opt/venv"],
    )  # fmt: skip
    overlays = [OVERLAYS[0]]
    project = project_of(tmp_path, diffs, f"oci:{layout}:base", overlays)
    assert builder("lock", "small", cwd=project).code == 0
    recipe = yaml.safe_load((project / "images/small.yaml").read_text())
    recipe["overlays"].append({"file": "overlays/hf.diff", "package": "transformers"})
    (project / "images/small.yaml").write_text(yaml.safe_dump(recipe))
    refused(builder("lock", "small", cwd=project), 2, VENV, ROOT, "transformers")


def test_a_recipe_may_be_for_another_package_alone(base: Path, diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    given = {"file": "overlays/hf.diff"}
    project = project_of(tmp_path, diffs, f"oci:{base}:base", [given], package="transformers", profiles=[], default_profile=None)  # fmt: skip
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    lock = read_lock(project / "images/small.lock.yaml")
    assert not lock.base.platforms["linux/amd64"].further
    assert [each["path"] for each in done.document["files"]] == [HF_FILE]


def test_a_file_moves_from_one_package_to_another(base: Path, tmp_path: Path) -> None:
    moved = {**BASE, "vllm/decode.py": BASE[FLASH_FILE]}
    moved.pop(FLASH_FILE)
    diff = git_diff(tmp_path / "git", BASE, moved, "--find-renames")
    overlays = [{"file": "overlays/move.diff", "package": ["vllm", "flashinfer"]}]
    project = project_of(tmp_path, {"move.diff": diff}, f"oci:{base}:base", overlays)
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    (project / "built.json").write_text(done.out)
    layer = layer_of(project)
    assert "vllm/decode.py" in rows_of(layer[RECORDS["vllm"]] or b"")
    assert FLASH_FILE not in rows_of(layer[RECORDS["flashinfer"]] or b"")


@pytest.mark.parametrize("package", [[], ["vllm", "vllm"], "no-name", ["../x"], 3])
def test_a_package_key_that_names_no_package(package: Any, diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    overlays = [{"file": "overlays/both.diff", "package": package}]
    refused(builder("lock", "small", cwd=project_of(tmp_path, diffs, "oci:nowhere", overlays)), 2, "package")


# --- wheels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one line", "a list"])
def test_a_wheel_base_of_several_distributions(form: str, diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    names = [each.write_wheel(tmp_path / "project").name for each in (VLLM, FLASHINFER, TRANSFORMERS)]
    base: Any = [f"wheel:{name}" for name in names] if form == "a list" else "wheel:" + "+".join(names)
    project = project_of(tmp_path, diffs, base, OVERLAYS)
    done = builder("build", "small", "--json", cwd=project)
    assert done.code == 0, done.err
    assert sorted(each["path"] for each in done.document["files"]) == sorted(
        [VLLM_FILE, FLASH_FILE, HF_FILE, CUH, NEW, "flashinfer/old.py"]
    )
    lock = read_lock(project / "images/small.lock.yaml")
    assert lock.base.reference == "wheel:" + "+".join(names)
    assert [each.file for each in lock.base.wheels] == names
    assert [each.sha256 for each in lock.base.wheels] == [
        hashlib.sha256((project / name).read_bytes()).hexdigest() for name in names
    ]
    again = builder("build", "small", "--json", "--output", f"oci:{tmp_path}/again", cwd=project)
    assert again.document["digest"] == done.document["digest"]
    found = verify(f"oci:{project / 'dist/small'}:{done.document['tags'][0]}", "--recipe", str(project / "images/small.yaml"))  # fmt: skip
    assert found.code == 0, found.out + found.err


def test_a_wheel_base_that_lacks_the_package(diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    names = [each.write_wheel(tmp_path / "project").name for each in (VLLM, FLASHINFER)]
    project = project_of(tmp_path, diffs, "wheel:" + "+".join(names), [OVERLAYS[2]])
    refused(builder("lock", "small", cwd=project), 2, "no package 'transformers'", names[0], names[1])


def test_a_change_for_another_wheel_of_the_base_gets_the_line_to_add(
    diffs: Mapping[str, bytes], tmp_path: Path
) -> None:
    names = [each.write_wheel(tmp_path / "project").name for each in (VLLM, TRANSFORMERS)]
    project = project_of(tmp_path, diffs, "wheel:" + "+".join(names), [{"file": "overlays/hf.diff"}])
    refused(builder("lock", "small", cwd=project), 2, "nothing of overlay", "package: transformers")


def test_a_wheel_that_is_another_one_since_the_lock(diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    names = [each.write_wheel(tmp_path / "project").name for each in (VLLM, FLASHINFER)]
    project = project_of(tmp_path, diffs, "wheel:" + "+".join(names), [OVERLAYS[0]])
    assert builder("lock", "small", cwd=project).code == 0
    Small("flashinfer", "flashinfer_python", "0.6.8", {**FLASHINFER.files, "flashinfer/x.py": b""}).write_wheel(project)  # fmt: skip
    assert builder("lock", "small", "--check", cwd=project).code == 4


def test_a_list_of_bases_holds_wheels_only(diffs: Mapping[str, bytes], tmp_path: Path) -> None:
    project = project_of(tmp_path, diffs, ["wheel:vllm==0.20.0", "vllm/vllm-openai:v0.20.0"], [OVERLAYS[0]])  # type: ignore[arg-type]
    refused(builder("lock", "small", cwd=project), 2, "base", "wheels only")


# --- other tools ----------------------------------------------------------------------------------------------------


def test_a_series_goes_out_and_comes_back_with_its_packages(made: Path, tmp_path: Path) -> None:
    done = builder("stack", "export", "small", "--output", str(tmp_path / "series"), cwd=made)
    assert done.code == 0, done.err
    back = tmp_path / "back"
    (back / "images").mkdir(parents=True)
    base = read_lock(made / "images/small.lock.yaml").base.reference
    done = builder("stack", "import", str(tmp_path / "series"), "--recipe", "back", "--base", base, cwd=back)
    assert done.code == 0, done.err
    recipe = yaml.safe_load((back / "images/back.yaml").read_text())
    assert [each.get("package") for each in recipe["overlays"]] == [
        ["vllm", "flashinfer"],
        "flashinfer",
        "transformers",
    ]
    done = builder("build", "back", "--engine", "oci", "--json", cwd=back)
    assert done.code == 0, done.err
    files = json.loads((made / "built.json").read_text())["files"]
    assert {each["path"]: each["after"] for each in done.document["files"]} == {
        each["path"]: each["after"] for each in files
    }


def test_an_import_finds_the_package_that_a_patch_is_for(
    base: Path, diffs: Mapping[str, bytes], tmp_path: Path
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "series").write_text("hf.patch\n")
    (series / "hf.patch").write_bytes(diffs["hf.diff"])
    (tmp_path / "images").mkdir()
    done = builder("stack", "import", "series", "--recipe", "one", "--base", f"oci:{base}:base", cwd=tmp_path)
    assert done.code == 0, done.err
    recipe = yaml.safe_load((tmp_path / "images/one.yaml").read_text())
    assert recipe["overlays"] == [{"file": "overlays/one/hf.diff", "package": "transformers"}]
    assert builder("check", "one", cwd=tmp_path).code == 0


def test_a_rebase_judges_every_package(made: Path, tmp_path: Path) -> None:
    """On a base whose FlashInfer is newer: its own change merges there, the others apply."""
    newer = dict(FLASHINFER.files) | {"flashinfer/decode.py": b"first = 0\n" + FLASHINFER.files["flashinfer/decode.py"]}
    other = Small("flashinfer", "flashinfer_python", "0.6.9", newer)
    layout = image(tmp_path / "layout", [TRANSFORMERS, TRITON], [VLLM, other])
    done = builder("rebase", "small", "--base", f"oci:{layout}:base", "--json", cwd=made)
    assert done.code == 0, done.err
    judged = done.document["bases"][0] if "bases" in done.document else done.document
    assert judged["fits"], done.out
    assert [each["verdict"] for each in judged["overlays"]] == ["applies", "applies", "applies"]


def test_two_packages_of_one_distribution_share_its_record(tmp_path: Path) -> None:
    files = {**FLASHINFER.files, "flashinfer_bench/__init__.py": b"", "flashinfer_bench/run.py": b"x = 1\n"}
    both = Small("flashinfer", "flashinfer_python", "0.6.8", files)
    layout = image(tmp_path / "layout", [VLLM, both])
    after = {**files, FLASH_FILE: edit(files[FLASH_FILE], 1, "11"), "flashinfer_bench/run.py": b"x = 2\n", "flashinfer_bench/new.py": b""}  # fmt: skip
    diff = git_diff(tmp_path / "git", files, after)
    overlays = [{"file": "overlays/x.diff", "package": ["flashinfer_bench", "flashinfer"]}]
    project = project_of(tmp_path, {"x.diff": diff}, f"oci:{layout}:base", overlays)
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    (project / "built.json").write_text(done.out)
    layer = layer_of(project)
    rows = rows_of(layer[RECORDS["flashinfer"]] or b"")
    for path in (FLASH_FILE, "flashinfer_bench/run.py", "flashinfer_bench/new.py"):
        assert rows[path] == (digest_of(after[path]), str(len(after[path])))
    assert layer[RECORDS["vllm"]] == VLLM.record
    found = verify(f"oci:{project / 'dist/small'}:{done.document['tags'][0]}")
    assert found.code == 0, found.out + found.err
