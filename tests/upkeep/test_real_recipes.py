"""`builder rebase` as a user runs it, on the real wheels from the package index, judged by the wheels' own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from builder.util.files import sha256
from tests.support.cli import Ran, builder
from tests.support.flagship import ARGUMENTS, PLATFORM, TURBOQUANT, hybrid_overlay, vocabulary_overlay
from tests.support.pytrees import package_tree
from tests.support.realstack import overlay_diffs
from tests.support.services import leave_out
from tests.support.smallwheel import make_project
from tests.support.trees import git_diff
from tests.support.wheels import python_files
from tests.upkeep.test_twelve_pairs import BASES, cherry_picked, release

pytestmark = pytest.mark.wheels

PROFILES = Path(__file__).parents[2] / "profiles"


def project_of(root: Path, diffs: dict[str, bytes], base: str = "wheel:vllm==0.20.0") -> Path:
    project = make_project(root, diffs, base=base, profiles=["smoke"], default_profile="smoke")
    shutil.copy(PROFILES / "smoke.yaml", project / "profiles")
    return project


def ran(*arguments: str, cwd: Path) -> Ran:
    done = builder(*arguments, cwd=cwd)
    if done.code == 5:
        leave_out(f"needs the package index: {done.err.strip()[-200:]}")
    return done


def test_a_matrix_over_four_releases_says_what_their_files_say(tmp_path: Path) -> None:
    one, two = overlay_diffs()
    project = project_of(tmp_path / "project", {"one.diff": one, "two.diff": two})
    bases = [word for version in BASES for word in ("--base", f"wheel:vllm=={version}")]
    assert ran("lock", "small", cwd=project).code == 0
    done = ran("rebase", "small", *bases, "--json", cwd=project)
    assert done.code == 3, done.err
    answers = dict(zip(BASES, done.document["bases"], strict=True))
    verdicts = {version: [each["verdict"] for each in answer["overlays"]] for version, answer in answers.items()}
    assert verdicts == {
        "0.20.0": ["applies", "applies"],
        "0.20.1": ["already in", "applies"],
        # The second has changed lines of the first once more: only together they are what 0.20.2 is.
        "0.20.2": ["already in", "already in"],
        "0.21.0": ["conflict", "conflict"],
    }
    assert answers["0.20.2"]["overlays"][0]["note"] == "together with overlays/two.diff"
    for index, (old, new) in enumerate((("0.20.0", "0.20.1"), ("0.20.1", "0.20.2"))):
        _, conflicts = cherry_picked(tmp_path / old, release(old), release(new), release("0.21.0"))
        assert {each["path"] for each in answers["0.21.0"]["overlays"][index]["conflicts"]} == conflicts
    for answer in answers.values():
        assert answer["unknown_flags"] == []
        assert answer["profiles"] == []
    # What is written builds 0.20.2, whatever the base.
    wanted = python_files("0.20.2")
    for version in BASES[:3]:
        again = project_of(tmp_path / f"write-{version}", {"one.diff": one, "two.diff": two})
        assert ran("lock", "small", cwd=again).code == 0
        assert ran("rebase", "small", "--base", f"wheel:vllm=={version}", "--write", cwd=again).code == 0
        built = ran("build", "small", "--engine", "oci", "--json", cwd=again)
        assert built.code == 0, built.err
        base = python_files(version)
        made = {each["path"]: each["after"] for each in built.document["files"] if each["path"].endswith(".py")}
        result = {path: sha256(data) for path, data in base.items()} | made
        assert {path: digest for path, digest in result.items() if digest is not None} == {
            path: sha256(data) for path, data in wanted.items()
        }


def test_the_real_39931_is_in_0_21_0_and_both_commands_say_so(tmp_path: Path) -> None:
    diffs = {"39931.diff": hybrid_overlay(), "41365.diff": vocabulary_overlay()}
    project = project_of(tmp_path / "old", diffs)
    assert ran("lock", "small", cwd=project).code == 0
    done = ran("rebase", "small", "--base", "wheel:vllm==0.21.0", "--json", cwd=project)
    assert done.code == 0, done.err
    [answer] = done.document["bases"]
    assert [each["verdict"] for each in answer["overlays"]] == ["already in", "applies"]
    assert answer["lock"]["overlays"] == ["overlays/41365.diff"]
    assert answer["unknown_flags"] == []
    # Its files in 0.21.0 have every line of it; one of the three has other changes beside it.
    new = package_tree("0.21.0")
    assert sha256((new / TURBOQUANT).read_bytes()) in (project / "images/small.lock.yaml").read_text()
    assert all((new / path).is_file() for path in (ARGUMENTS, PLATFORM))
    newer = project_of(tmp_path / "new", diffs, "wheel:vllm==0.21.0")
    check = ran("check", "small", cwd=newer)
    assert check.code == 3
    assert "next    all of it (6 of 6 hunks) is already in the base: merged upstream in this base" in check.err
    assert "drop overlays/39931.diff" in check.err
    # One line for a file, not one for a hunk: there is nothing to look at in it.
    assert check.err.count("  where ") == 3
    assert "hunks 1, 2, 3 and 4" in check.err


def test_an_overlay_on_a_file_that_0_21_0_has_elsewhere_is_written_to_its_new_place(tmp_path: Path) -> None:
    old = "vllm/model_executor/layers/fused_moe/fused_marlin_moe.py"
    new = "vllm/model_executor/layers/fused_moe/experts/marlin_moe.py"
    stock = python_files("0.20.0")[old]
    first = stock.split(b"\n", 1)[0]
    changed = stock.replace(first, first + b"\n# An overlay was here.", 1)
    project = project_of(tmp_path / "project", {"moe.diff": git_diff(tmp_path / "1", {old: stock}, {old: changed})})
    path = project / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["overlays"][0]["after"] = {old: sha256(changed)}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert ran("lock", "small", cwd=project).code == 0
    told = ran("rebase", "small", "--base", "wheel:vllm==0.21.0", cwd=project)
    assert told.code == 0, told.err
    assert f"{old} is {new} on this base" in " ".join(told.out.split())
    assert ran("rebase", "small", "--base", "wheel:vllm==0.21.0", "--write", cwd=project).code == 0
    there = (package_tree("0.21.0") / new).read_bytes()
    wanted = there.replace(first, first + b"\n# An overlay was here.", 1)
    [item] = yaml.safe_load(path.read_text())["overlays"]
    assert item == {"file": "overlays/rebased/moe-on-0.21.0.diff", "after": {new: sha256(wanted)}}
    built = ran("build", "small", "--engine", "oci", "--json", cwd=project)
    assert built.code == 0, built.err
    assert [(each["path"], each["after"]) for each in built.document["files"]] == [(new, sha256(wanted))]
