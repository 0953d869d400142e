"""`wheels:` of a recipe: distributions that are added, replaced and removed, and everything that is refused."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.lock import LockedInstall, LockedPlatform, read_lock
from builder.oci.types import Descriptor
from builder.release.evidence.provenance import make_provenance
from builder.release.evidence.sbom import make_sbom
from builder.util.files import sha256
from tests.support.cli import Ran, builder
from tests.support.dists import BASE, NEW, OLD, ROOT, SIX, TOKENIZERS, VLLM, Dist, base, column
from tests.support.rendering import rendered_context
from tests.support.smallwheel import make_project
from tests.support.tampering import Image


def project(tmp_path: Path, wheels: list[Any], *dists: Dist, **keys: Any) -> Path:
    """A project on a layout of `dists`; wheels that are `Dist`s are written into it."""
    base(tmp_path / "layout", *dists, **{key: keys.pop(key) for key in ("listed", "more") if key in keys})
    root = tmp_path / "project"
    entries = []
    for each in wheels:
        if isinstance(each, Dist):
            each.wheel(root / "wheels")
            entries.append(f"wheels/{each.filename}")
        else:
            entries.append(each)
    return make_project(root, {}, base="oci:../layout:base", wheels=entries, **keys)


def build(root: Path, output: str = "out", *arguments: str) -> Ran:
    return builder("build", "small", "--engine", "oci", "--output", f"oci:{output}", "--json", *arguments, cwd=root)


def built(root: Path, output: str = "out") -> dict[str, tuple[bytes, int]]:
    """Path -> content and mode of the layer that was built."""
    done = build(root, output)
    assert done.code == 0, done.err
    data = (root / output / "blobs/sha256" / done.document["layer"]["digest"].removeprefix("sha256:")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            member.name: ((stream.read() if (stream := archive.extractfile(member)) else b""), member.mode)
            for member in archive
        }


def platform_of(root: Path) -> LockedPlatform:
    return next(iter(read_lock(root / "images/small.lock.yaml").base.platforms.values()))


def installed_of(root: Path) -> LockedInstall:
    return platform_of(root).installed[0]


def unpacked(tmp_path: Path, root: Path, output: str = "out") -> Path:
    """The image's file system: base and layer, whiteouts followed as a container engine does."""
    target = tmp_path / "rootfs"
    index = json.loads((root / output / "index.json").read_text())
    tagged = next(
        each for each in index["manifests"] if "org.opencontainers.image.ref.name" in each.get("annotations", {})
    )
    blobs = [root / output / "blobs/sha256", tmp_path / "layout/blobs/sha256"]

    def blob(digest: str) -> bytes:
        name = digest.removeprefix("sha256:")
        return next(folder / name for folder in blobs if (folder / name).is_file()).read_bytes()

    for layer in json.loads(blob(tagged["digest"]))["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as archive:
            for member in archive:
                path = Path(member.name)
                if path.name.startswith(".wh."):
                    subprocess.run(["rm", "-rf", str(target / path.parent / path.name[4:])], check=True)
                else:
                    archive.extract(member, target, filter="fully_trusted")
    return target


def test_an_upgrade_has_the_new_files_and_nothing_of_the_old(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW])
    layer = built(root)
    info = f"{ROOT}/{NEW.info}"
    assert layer[f"{ROOT}/transformers/__init__.py"] == (b"v = 5\n", 0o644)
    gone = {path for path in layer if "/.wh." in path}
    assert gone == {
        f"{ROOT}/.wh.{OLD.info}", f"{ROOT}/transformers/.wh.__pycache__", f"{ROOT}/transformers/models/.wh.old",
        f"{ROOT}/transformers/.wh.data",
    }  # fmt: skip
    script, mode = layer["usr/local/bin/transformers-cli"]
    assert script.startswith(b"#!/usr/bin/python3\n") and mode == 0o755
    assert b"from transformers.cli import main" in script
    rows = list(csv.reader(io.StringIO(layer[f"{info}/RECORD"][0].decode())))
    assert rows == sorted(rows, key=lambda row: row[0].encode())
    below = {path.removeprefix(f"{ROOT}/"): data for path, (data, _) in layer.items() if path.startswith(f"{ROOT}/")}
    for path, digest, size in rows:
        data = script if path == "../../../bin/transformers-cli" else below[path]
        assert path == f"{NEW.info}/RECORD" or (digest, size) == (column(data), str(len(data)))
    assert layer[f"{info}/INSTALLER"][0] == b"overlay-image-builder\n"
    locked = installed_of(root)
    assert (locked.replaces, locked.native, locked.file) == ("transformers==4.9.0", False, NEW.filename)
    assert builder("verify", "oci:out", "--recipe", "small", cwd=root).code == 0
    assert builder("verify", "oci:out", cwd=root).code == 0


def test_python_finds_what_was_installed_and_the_image_verifies_itself(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW, {"remove": "six", "accept_unmet": {"vllm": "it is not imported"}}])
    built(root)
    rootfs = unpacked(tmp_path, root)
    found = {each.name: each for each in importlib.metadata.distributions(path=[str(rootfs / ROOT)])}
    assert {name: each.version for name, each in found.items()} == {
        "vllm": "0.0.1", "transformers": "5.6.0", "tokenizers": "0.21.4",
    }  # fmt: skip
    for each in found.values():
        for file in each.files or ():
            assert file.hash is None or Path(str(file.locate())).is_file(), file
    assert not (rootfs / ROOT / "six.py").exists()
    assert not (rootfs / ROOT / "__pycache__/six.cpython-312.pyc").exists()
    assert not (rootfs / ROOT / "transformers/models/old").exists()
    record = sha256((rootfs / "opt/builder/record.json").read_bytes())
    serve = [sys.executable, str(rootfs / "opt/builder/serve"), f"--record=sha256:{record}", "verify"]
    done = subprocess.run(serve, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "transformers 5.6.0, every file by its RECORD" in done.stdout
    (rootfs / ROOT / "transformers/utils.py").write_text("same = 2\n")
    (rootfs / ROOT / "six.py").write_text("")
    wrong = subprocess.run(serve, capture_output=True, text=True, check=False)
    assert wrong.returncode == 4
    assert (
        "transformers/utils.py  has other content" in wrong.stderr
        and "six.py  should have been deleted" in wrong.stderr
    )


def test_the_same_lock_gives_the_same_digest_and_both_engines_the_same_content(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW, SIX_2, {"remove": "tokenizers", "accept_unmet": {"transformers": "tested"}}])
    one, two = built(root), built(root, "again")
    assert one == two
    assert builder("lock", "small", "--check", cwd=root).code == 0
    digests = [build(root, f"d{n}").document["digest"] for n in range(2)]
    assert digests[0] == digests[1]
    rendered_context(root, "small")
    rendered = {
        str(path.relative_to(root / "context/rootfs")): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in (root / "context/rootfs").rglob("*")
        if path.is_file()
    }
    files = {path: each for path, each in one.items() if ("/.wh." not in path and each[1] != 0o755) or path in rendered}
    assert {path: each for path, each in files.items() if path in rendered} == rendered
    text = (root / "context/Dockerfile").read_text()
    (line,) = (each for each in text.splitlines() if each.startswith("RUN "))
    deleted = json.loads(line.removeprefix("RUN "))[3:]
    whiteouts = {f"/{path.replace('.wh.', '')}" for path in one if "/.wh." in path}
    assert set(deleted) == whiteouts


SIX_2 = Dist("six", "2.0", {"six.py": b"s = 2\n"})


def test_a_downgrade_is_an_upgrade_the_other_way(tmp_path: Path) -> None:
    root = project(tmp_path, [OLD], VLLM, NEW, TOKENIZERS, SIX)
    layer = built(root)
    assert layer[f"{ROOT}/transformers/models/old/m.py"][0] == b"x = 1\n"
    assert f"{ROOT}/transformers/models/.wh.new" in layer
    assert f"{ROOT}/.wh.{NEW.info}" in layer


def test_one_that_is_new_adds_files_only(tmp_path: Path) -> None:
    root = project(
        tmp_path, [Dist("extra-thing", "1.0", {"extra_thing/__init__.py": b"", "extra_thing/a/b.txt": b"x"})]
    )
    layer = built(root)
    assert not [path for path in layer if "/.wh." in path]
    assert {f"{ROOT}/extra_thing", f"{ROOT}/extra_thing/a", f"{ROOT}/extra_thing/a/b.txt"} <= set(layer)
    # Folders that the base has get no entry, so that their modes and times stay.
    assert ROOT not in layer and "usr/local" not in layer


@pytest.mark.parametrize("listed", [True, False])
def test_bytecode_of_a_single_module_goes_with_it(tmp_path: Path, listed: bool) -> None:
    root = project(tmp_path, [SIX_2], listed=listed)
    layer = built(root)
    assert f"{ROOT}/__pycache__/.wh.six.cpython-312.pyc" in layer
    assert f"{ROOT}/.wh.__pycache__" not in layer


def test_another_file_of_that_name_is_noticed_and_locked_again(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW])
    assert builder("lock", "small", cwd=root).code == 0
    path = root / "wheels" / NEW.filename
    changed = Dist(NEW.name, NEW.version, {**NEW.files, "transformers/more.py": b"1\n"}, NEW.requires)
    changed.wheel(root / "wheels")
    done = build(root)
    assert (done.code, "is not the wheel that was locked" in done.err) == (4, True)
    assert builder("lock", "small", "--check", cwd=root).code == 4
    assert builder("lock", "small", cwd=root).code == 0
    assert build(root).code == 0
    path.unlink()
    assert builder("verify", "oci:out", cwd=root).code == 0


@pytest.mark.parametrize(
    ("wheels", "says"),
    [
        ([Dist("transformers", "6.0", {"transformers/__init__.py": b""}, ["tokenizers>=1"])], "requires tokenizers>=1, and it is 0.21.4"),
        ([Dist("transformers", "3.0", {"transformers/__init__.py": b""})], "vllm 0.0.1 requires transformers>=4, and it is 3.0"),
        ([{"remove": "six"}], "vllm 0.0.1 requires six, and there is none"),
        ([Dist("x", "1", {"x/__init__.py": b""}, ["absent"])], "x 1 requires absent, and there is none"),
        ([Dist("x", "1", {"x/__init__.py": b""}, ["six[fast]", "transformers"]), Dist("six", "3", {"six.py": b""}, ["absent; extra == 'fast'"])], "six 3 requires absent"),
        ([{"remove": "nothing"}], "no distribution 'nothing' to remove"),
        ([{"remove": "vllm"}], "has the package vllm"),
        ([Dist("vllm", "0.0.2", {"vllm/__init__.py": b""})], "has the package vllm"),
        ([Dist("thief", "1", {"transformers/utils.py": b"stolen\n"})], "thief and transformers both have"),
        ([Dist("x", "1", {"x/__init__.py": b""}), Dist("x", "2", {"x/__init__.py": b""})], "x twice"),
        ([Dist("x", "1", {"x.so": b""}, tag="cp311-cp311-manylinux_2_17_x86_64")], "does not fit the base"),
        ([Dist("x", "1", {"x.so": b""}, tag="cp312-cp312-manylinux_2_17_aarch64")], "does not fit the base"),
        ([Dist("x", "1", {"x.so": b""}, tag="cp312-cp312-manylinux_2_38_x86_64")], "glibc 2.35 (ubuntu 22.04)"),
        ([Dist("x", "1", {"x.so": b""}, tag="cp312-cp312-musllinux_1_2_x86_64")], "does not fit the base"),
        ([Dist("x", "1", {"x.pth": b"import os\n"})], "runs or changes what is imported"),
        ([Dist("x", "1", {"sitecustomize.py": b""})], "runs whenever Python starts"),
        ([Dist("x", "1", {}, extra={"x-1.data/purelib/y.pth": b"/x\n"})], "runs or changes what is imported"),
        ([Dist("x", "1", {"../../x.py": b""})], "leaves the wheel's folder"),
        ([Dist("x", "1", {"/etc/x": b""})], "leaves the wheel's folder"),
        ([Dist("x", "1", {}, extra={"x-1.data/data/../../../etc/x": b""})], "leaves the wheel's folder"),
        ([Dist("x", "1", {"x/link": b"/etc/passwd"}, modes={"x/link": 0o120777})], "a link or a device"),
        ([Dist("x", "1", {}, entry_points="[console_scripts]\n../x = a:b\n")], "is not one"),
        ([Dist("x", "1", {}, entry_points="[console_scripts]\nx = a;import os:b\n")], "x-1-py3-none-any.whl"),
        ([Dist("x", "1", {}, extra={"x-1.data/scripts/python3": b"#!python\n"})], "usr/local/bin/python3"),
    ],
)  # fmt: skip
def test_what_would_be_wrong_is_refused_and_nothing_is_written(tmp_path: Path, wheels: list[Any], says: str) -> None:
    root = project(tmp_path, wheels, more={"usr/local/bin/python3": b"#!"} if "python3" in says else {})
    done = builder("check", "small", cwd=root)
    assert done.code == 2, done.out + done.err
    assert says in done.err
    assert not (root / "images/small.lock.yaml").exists()


def test_what_a_wheel_may_have_is_where_an_installer_puts_it(tmp_path: Path) -> None:
    wheel = Dist(
        "x", "1", {"x/__init__.py": b"", "x/run.sh": b"#!/bin/sh\n"}, tag="cp312-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64",
        extra={
            "x-1.data/scripts/tool": b"#!python\nprint(1)\n", "x-1.data/data/share/x/a.conf": b"a\n",
            "x-1.data/platlib/x/_c.abi3.so": b"\x7fELF", "x-1.data/headers/x.h": b"#define X\n",
        },
        executable=frozenset({"x/run.sh"}),
    )  # fmt: skip
    root = project(tmp_path, [wheel])
    layer = built(root)
    assert layer["usr/local/bin/tool"] == (b"#!/usr/bin/python3\nprint(1)\n", 0o755)
    assert layer["usr/local/share/x/a.conf"] == (b"a\n", 0o644)
    assert layer[f"{ROOT}/x/_c.abi3.so"] == (b"\x7fELF", 0o644)
    assert layer["usr/local/include/x/x.h"][0] == b"#define X\n"
    assert layer[f"{ROOT}/x/run.sh"][1] == 0o755
    assert installed_of(root).native
    shown = builder("check", "small", cwd=root).out
    assert "wheel: x==1 (native code)" in shown and str(installed_of(root).sha256) in shown
    assert builder("verify", "oci:out", "--recipe", "small", cwd=root).code == 0


def test_its_files_are_those_that_pip_installs(tmp_path: Path) -> None:
    wheel = NEW.wheel(tmp_path / "wheels")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    subprocess.run([*command, str(tmp_path / "pip"), str(wheel)], check=True, capture_output=True)
    root = project(tmp_path, [NEW])
    layer = {
        path.removeprefix(f"{ROOT}/"): data for path, (data, _) in built(root).items() if path.startswith(f"{ROOT}/")
    }
    odd = {f"{NEW.info}/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    theirs = {
        str(path.relative_to(tmp_path / "pip")): path.read_bytes()
        for path in (tmp_path / "pip").rglob("*")
        if path.is_file() and path.relative_to(tmp_path / "pip").parts[0] != "bin"
    }
    assert set(theirs) - odd <= set(layer)
    assert {path: layer[path] for path in theirs if path not in odd} == {
        path: data for path, data in theirs.items() if path not in odd
    }


def test_a_pinned_digest_must_be_the_wheels(tmp_path: Path) -> None:
    path = f"wheels/{NEW.filename}"
    root = project(tmp_path, [{"wheel": path, "sha256": "0" * 64}])
    found = sha256(NEW.wheel(root / "wheels").read_bytes())
    done = builder("check", "small", cwd=root)
    assert (done.code, found in done.err) == (4, True)
    recipe = root / "images/small.yaml"
    document = yaml.safe_load(recipe.read_text())
    document["wheels"][0]["sha256"] = found
    recipe.write_text(yaml.safe_dump(document))
    assert builder("check", "small", cwd=root).code == 0


def test_a_wheel_that_its_own_record_contradicts_is_refused(tmp_path: Path) -> None:
    root = project(tmp_path, [f"wheels/{NEW.filename}"])
    NEW.wheel(root / "wheels", record=NEW.record({**NEW.members, "transformers/utils.py": b"other\n"}))
    done = builder("check", "small", cwd=root)
    assert (done.code, "is not a sound wheel" in done.err) == (2, True)
    NEW.wheel(root / "wheels", name=NEW.filename.replace("5.6.0", "5.7.0"))
    recipe = root / "images/small.yaml"
    recipe.write_text(recipe.read_text().replace("5.6.0", "5.7.0"))
    assert builder("check", "small", cwd=root).code == 2


def test_an_accepted_requirement_is_shown_with_its_reason(tmp_path: Path) -> None:
    old = Dist("transformers", "3.0", {"transformers/__init__.py": b""})
    old.wheel(tmp_path / "project/wheels")
    root = project(tmp_path, [{"wheel": f"wheels/{old.filename}", "accept_unmet": {"vllm": "only its config is used"}}])
    done = builder("check", "small", "--json", cwd=root)
    assert done.code == 0, done.err
    (line,) = done.document["platforms"][0]["unmet"]
    assert line == "accepted: vllm 0.0.1 requires transformers>=4, and it is 3.0 (only its config is used)"


def test_what_the_base_lacks_already_is_told_and_not_blamed_on_the_recipe(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW], VLLM, OLD, TOKENIZERS)
    done = builder("check", "small", "--json", cwd=root)
    assert done.code == 0, done.err
    assert done.document["platforms"][0]["unmet"] == ["in the base already: vllm 0.0.1 requires six, and there is none"]


def test_overlays_and_wheels_keep_apart(tmp_path: Path) -> None:
    diff = b"--- a/transformers/utils.py\n+++ b/transformers/utils.py\n@@ -1 +1 @@\n-same = 1\n+same = 2\n"
    root = project(tmp_path, [NEW], overlays=[{"file": "overlays/t.diff", "package": "transformers"}])
    (root / "overlays/t.diff").write_bytes(diff)
    done = builder("check", "small", cwd=root)
    assert (done.code, "transformers" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("wheels", "says"),
    [
        (["transformers"], "pins no wheel"),
        (["transformers>=5"], "pins no wheel"),
        (["/x.whl"], "not a file in the project"),
        ([{"wheel": "a==1", "remove": "b"}], "either 'wheel' or 'remove'"),
        (["a==1", "a==1"], "is repeated"),
        (["wheels/none-1-py3-none-any.whl"], "there is no wheel"),
    ],
)
def test_wrong_entries_are_explained(tmp_path: Path, wheels: list[Any], says: str) -> None:
    done = builder("check", "small", cwd=project(tmp_path, wheels))
    assert (done.code, says in done.err) == (2, True), done.err


def test_a_changed_file_of_a_wheel_is_found_by_verify(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW])
    tag = next(iter(build(root).document["tags"]))
    image = Image.load(root / "out", tag)
    image.change_file(f"{ROOT}/transformers/utils.py", lambda data: data + b"evil = 1\n")
    image.seal()
    done = builder("verify", "oci:out", cwd=root)
    assert done.code == 4
    assert "transformers/utils.py" in done.err + done.out


def test_the_sbom_and_the_provenance_have_them(tmp_path: Path) -> None:
    root = project(tmp_path, [NEW, {"remove": "six", "accept_unmet": {"vllm": "x"}}], files=["a.txt"])
    (root / "a.txt").write_text("a\n")
    assert builder("lock", "small", cwd=root).code == 0
    lock = read_lock(root / "images/small.lock.yaml")
    subject = Descriptor("application/vnd.oci.image.manifest.v1+json", f"sha256:{'0' * 64}", 2)
    sbom = json.loads(make_sbom(lock, "linux/amd64", subject))
    found = {each["name"]: each for each in sbom["components"]}
    assert found["transformers"]["version"] == "5.6.0"
    assert found["transformers"]["hashes"] == [{"alg": "SHA-256", "content": installed_of(root).sha256}]
    assert {"name": "overlay-image-builder:replaces", "value": "transformers==4.9.0"} in found["transformers"][
        "properties"
    ]
    assert "six" not in found
    assert found["/opt/builder/files/a.txt"]["type"] == "file"
    provenance = json.loads(make_provenance(lock, subject, ["linux/amd64"]))
    parts = {each["name"]: each for each in provenance["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert parts[f"wheel {NEW.filename}"]["digest"] == {"sha256": installed_of(root).sha256}
    assert "file a.txt" in parts


def test_a_base_without_wheels_is_read_as_before(tmp_path: Path) -> None:
    """A recipe without `wheels:` and `files:` has a lock and a record without their keys."""
    root = project(tmp_path, [])
    built(root)
    text = (root / "images/small.lock.yaml").read_text()
    assert "installed" not in text and "added" not in text and "unmet" not in text
    assert len(BASE) == 4
