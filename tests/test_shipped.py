"""What is shipped works: wheel and sdist, each installed into a fresh environment that does not see the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.published import patched_project, small_base

ROOT = Path(__file__).parents[1]
# The template is beside the modules only in what is shipped.
DOCKERFILE = """
from pathlib import Path
from builder.image.context import dockerfile
from builder.image.rootfs import Rootfs
print(dockerfile("a@sha256:" + "0" * 64, Rootfs(()), labels={}, entrypoint=["x"], name="small"))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist, as `python -m build` makes them from a checkout."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def _install(place: Path, what: Path) -> Path:
    """The `builder` command of a fresh environment with `what`. The dependencies are those that run these tests."""
    venv.create(place, with_pip=True, symlinks=True)
    python = place / "bin/python"
    # A path file inside a path file is not read, so the checkout that is installed beside the dependencies is not seen.
    site = next((place / "lib").glob("python3.*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall", what],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return place / "bin/builder"


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_main_job_runs_from_what_is_shipped(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    program = _install(tmp_path / "environment", built[kind])
    small_base(tmp_path / "project" / "base")
    project = patched_project(tmp_path / "project", "oci:base")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: str, program: Path = program) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=project, env=env, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [program.with_name("python"), "-c", "import builder; print(builder.__file__)"], cwd=tmp_path, env=env,
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert where.startswith(str(tmp_path)), "the checkout is what runs"
    image = json.loads(run("build", "small", "--engine", "oci", "--json"))
    assert image["files"][0]["path"] == "vllm/config.py"
    run("verify", "oci:dist/small", "--recipe", "small")
    assert "ENTRYPOINT" in run("-c", DOCKERFILE, program=program.with_name("python"))
    assert json.loads(run("schema"))["title"] == "Recipe"
