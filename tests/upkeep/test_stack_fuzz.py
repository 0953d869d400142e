"""Overlays that need fuzz, handed over: git and quilt know no fuzz, or another, and give what our stack gives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from builder.upkeep.series.series import read_series
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.trees import git, git_diff, write_tree
from tests.upkeep.test_stack_handover import files_of, repository

LATIN = b"# -*- coding: latin-1 -*-\r\n" + b"".join(b"x%d = '\xe4'\r\n" % n for n in range(12)) + b"last = 1"
LONG = b"".join(b"line_%d = 1\n" % number for number in range(30))
BASE = {**FILES, "vllm/latin.py": LATIN, "vllm/long.py": LONG}
# What the diffs are made on: beside the lines that they change, lines that the base has otherwise.
OTHER = {
    **BASE,
    "vllm/config.py": FILES["vllm/config.py"].replace(b"option_18 = 18\n", b"option_18 = 'theirs'\n"),
    "vllm/latin.py": LATIN.replace(b"x4 = ", b"x4 = 4, "),
    "vllm/long.py": LONG.replace(b"line_8 = 1\n", b"line_8 = 8\n"),
    "tests/t.py": b"t = 1\n",
}


def changed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The overlay's change of a tree: three files inside the package, one of them renamed, and one outside."""
    then = {
        **files,
        "vllm/config.py": files["vllm/config.py"]
        .replace(b"option_20 = 20\n", b"option_20 = 2020\n")
        .replace(b"option_35 = 35\n", b"option_35 = 3535\n"),
        "vllm/latin.py": files["vllm/latin.py"].replace(b"x6 = '\xe4'\r\n", b"x6 = '\xf6'\r\n") + b" + 1",
        "vllm/sub/long.py": files["vllm/long.py"].replace(b"line_10 = 1\n", b"line_10 = 10\n"),
    }
    del then["vllm/long.py"]
    return then | ({"tests/t.py": b"t = 2\n"} if "tests/t.py" in files else {})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose first overlay needs fuzz, and whose second changes what the first one made."""
    then = changed(OTHER)
    made = make_project(
        tmp_path / "project",
        {
            "one.diff": git_diff(tmp_path / "1", OTHER, then, "-M"),
            "two.diff": git_diff(tmp_path / "2", then, {**then, "vllm/sub/long.py": then["vllm/sub/long.py"] + b"y = 1\n"}),
        },
    )  # fmt: skip
    make_wheel(made / "vllm-0.0.1-py3-none-any.whl", BASE)
    path = made / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["overlays"][0] |= {"fuzz": 2, "title": "Needs fuzz"}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert builder("lock", "small", cwd=made).code == 0
    return made


@pytest.mark.parametrize("whole", [False, True], ids=["package", "whole"])
def test_git_and_quilt_take_an_overlay_that_needs_fuzz(whole: bool, project: Path, tmp_path: Path) -> None:
    done = builder("stack", "export", "small", "--output", "out", *(["--whole"] if whole else []), cwd=project)
    assert done.code == 0, done.err
    tree = {**BASE, **({"tests/t.py": b"t = 1\n"} if whole else {})}
    wanted = changed(tree)
    wanted["vllm/sub/long.py"] += b"y = 1\n"
    target = repository(tmp_path / "am", tree)
    git(target, "am", "-q", *(str(path) for path in sorted((project / "out/mail").iterdir())))
    assert files_of(target) == wanted
    body = git(target, "log", "-1", "--format=%b", "HEAD~1").decode()
    assert "Refreshed-On: wheel:vllm-0.0.1-py3-none-any.whl" in body
    assert "Refreshed-On" not in git(target, "log", "-1", "--format=%b").decode()
    if shutil.which("quilt"):
        folder = tmp_path / "quilt"
        write_tree(folder, tree)
        # quilt's own amount of fuzz is another one than the recipe's; the series must not need any.
        env = {
            "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "QUILT_PATCHES": str(project / "out/patches"),
            "QUILT_PATCH_OPTS": "--fuzz=0",
        }  # fmt: skip
        subprocess.run(["quilt", "push", "-a", "-q"], cwd=folder, check=True, capture_output=True, env=env)
        assert files_of(folder) == wanted


def test_what_needed_fuzz_comes_back_without(project: Path, tmp_path: Path) -> None:
    assert builder("stack", "export", "small", "--output", "out", cwd=project).code == 0
    assert len(read_series(project / "out")) == 2
    base = "wheel:vllm-0.0.1-py3-none-any.whl"
    done = builder("stack", "import", "out", "--recipe", "taken", "--base", base, cwd=project)
    assert done.code == 0, done.err
    done = builder("lock", "taken", cwd=project)
    assert done.code == 0, done.err
    assert files_then(project, "taken") == files_then(project, "small")


def files_then(project: Path, name: str) -> dict[str, str | None]:
    """The digest that each file of a recipe's stack has in the end."""
    lock = yaml.safe_load((project / f"images/{name}.lock.yaml").read_text())
    [platform] = lock["base"]["platforms"].values()
    return {file["path"]: file.get("after") for file in platform["files"]}
