"""What is shipped works: wheel and sdist, each installed into a fresh environment that does not see the checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.published import patched_project, small_base
from tests.support.shipped import build_distributions, install

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
    return build_distributions(tmp_path_factory.mktemp("built"))


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_main_job_runs_from_what_is_shipped(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    program = install(tmp_path / "environment", built[kind])
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
