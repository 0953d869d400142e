"""`wheels:` and `files:` with the docker engine: Docker's own image has what the oci engine's has, and Python finds it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import yaml

from tests.support.cli import builder
from tests.support.dists import NEW, OLD, SIX, TOKENIZERS, VLLM
from tests.support.smallwheel import make_project
from tests.support.standin import ROOT, debian, tar_of, write_layout

LOOK = """
import importlib.metadata as m, json, os, transformers, vllm
found = {each.name: each.version for each in m.distributions()}
print(json.dumps([transformers.v, found.get("transformers"), found.get("six"), os.path.exists(transformers.__path__[0] + "/models/old")]))
"""


def test_docker_runs_what_the_oci_engine_makes(docker_engine: str, tmp_path: Path) -> None:
    dists = [VLLM, OLD, TOKENIZERS, SIX]
    installed = {f"{ROOT}/{path}": data for each in dists for path, data in each.installed(bytecode=False).items()}
    write_layout(tmp_path / "layout", [debian().read_bytes(), tar_of(installed)])
    root = tmp_path / "project"
    new = replace(NEW, files={**NEW.files, "transformers/cli.py": b"def main():\n    print('cli')\n"})
    wheels = [f"wheels/{new.filename}", {"remove": "six", "accept_unmet": {"vllm": "not imported"}}]
    make_project(root, {}, base="oci:../layout:base", wheels=wheels, files=["note.txt"])
    new.wheel(root / "wheels")
    (root / "note.txt").write_text("hello\n")
    env = {"DOCKER_HOST": docker_engine, "BUILDER_CACHE_DIR": str(tmp_path / "cache")}

    def docker(*arguments: str) -> str:
        done = subprocess.run(["docker", "-H", docker_engine, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def judged(image: str) -> None:
        python = docker("run", "--rm", "--network=none", "--entrypoint=python3", image, "-c", LOOK)
        assert json.loads(python) == [5, "5.6.0", None, False]
        assert docker("run", "--rm", "--network=none", "--entrypoint=transformers-cli", image).strip() == "cli"
        assert (
            docker("run", "--rm", "--network=none", "--entrypoint=cat", image, "/opt/builder/files/note.txt")
            == "hello\n"
        )
        assert "transformers 5.6.0, every file by its RECORD" in docker(
            "run", "--rm", "--network=none", image, "verify"
        )

    def built(*arguments: str, name: str = "small") -> str:
        done = builder("build", name, *arguments, "--json", cwd=root, env=env)
        assert done.code == 0, done.err
        output: str = done.document["output"].removeprefix("docker:")
        return output

    def bases() -> set[str]:
        names = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
        return {each for each in names if each.startswith("overlay-image-builder/base:")}

    others = bases()
    image = built("--engine", "docker")
    judged(image)
    # The same recipe on Docker's name of the base, which its own Python lists.
    (name,) = bases() - others
    document = yaml.safe_load((root / "images/small.yaml").read_text())
    (root / "images/again.yaml").write_text(yaml.safe_dump({**document, "name": "again", "base": f"docker:{name}"}))
    judged(built("--engine", "docker", name="again"))
    locks = [yaml.safe_load((root / f"images/{each}.lock.yaml").read_text()) for each in ("small", "again")]
    one, two = (next(iter(each["base"]["platforms"].values()))["installed"] for each in locks)
    assert one == two
