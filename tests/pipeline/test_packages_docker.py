"""Several packages with the docker engine: Docker's own image runs with all of them patched, and `docker:` bases have them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from builder.documents.lock import read_lock
from tests.support.cli import Ran, builder
from tests.support.severalpackages import FLASHINFER, VLLM, files_of
from tests.support.smallwheel import make_project
from tests.support.standin import ROOT, debian, tar_of, write_layout
from tests.support.trees import git_diff

FILES = files_of([VLLM, FLASHINFER])
EDITED = {
    **FILES,
    "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n"),
    "flashinfer/decode.py": FILES["flashinfer/decode.py"].replace(b"= 7\n", b"= 77\n"),
}
LOOK = "import vllm.config as v, flashinfer.decode as f; print(v.option_20, f.plan_07)"


def test_docker_runs_what_two_packages_became(docker_engine: str, tmp_path: Path) -> None:
    installed = {f"{ROOT}/{path}": data for each in (VLLM, FLASHINFER) for path, data in each.installed.items()}
    write_layout(tmp_path / "layout", [debian().read_bytes(), tar_of(installed)])
    diff = git_diff(tmp_path / "git", FILES, EDITED)
    overlays = [{"file": "overlays/both.diff", "package": ["vllm", "flashinfer"]}]
    project = make_project(tmp_path / "project", {"both.diff": diff}, base="oci:../layout:base", overlays=overlays)
    document = yaml.safe_load((project / "images/small.yaml").read_text())
    env = {"DOCKER_HOST": docker_engine, "BUILDER_CACHE_DIR": str(tmp_path / "cache")}

    def built(name: str) -> str:
        done: Ran = builder("build", name, "--engine", "docker", "--json", cwd=project, env=env)
        assert done.code == 0, done.err
        image: str = done.document["output"].removeprefix("docker:")
        return image

    def docker(*arguments: str) -> str:
        done = subprocess.run(["docker", "-H", docker_engine, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def judged(image: str) -> None:
        assert docker("run", "--rm", "--network=none", "--entrypoint=python3", image, "-c", LOOK).split() == [
            "2020",
            "77",
        ]
        assert "2 files are as recorded" in docker("run", "--rm", "--network=none", image, "verify")

    def names() -> set[str]:
        return set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())

    # The daemon is shared with the tests of other files, which leave images of their own.
    before = names()
    judged(built("small"))
    first = distributions(project, "small")
    # Docker's name of the base, as a base.
    (name,) = (each for each in names() - before if "small" not in each and "<none>" not in each)
    (project / "images/again.yaml").write_text(yaml.safe_dump({**document, "name": "again", "base": f"docker:{name}"}))
    judged(built("again"))
    assert distributions(project, "again") == first


def distributions(project: Path, name: str) -> Any:
    """The packages of a lock, with folder, version and RECORD; the distribution's name is spelled in two ways."""
    lock = read_lock(project / f"images/{name}.lock.yaml")
    platform = next(iter(lock.base.platforms.values()))
    owners = platform.distributions(lock.package).items()
    return platform.root, [(package, each.dist_info, each.version, each.record) for package, each in owners]
