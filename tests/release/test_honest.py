"""Honest images pass: five kinds of base, five recipes, layouts and registries, with and without the referrers API."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.cli.app import run
from tests.release.test_judges import two_platforms
from tests.support.published import ROOT
from tests.support.referrers_api import with_referrers_api
from tests.support.registry import registry, skopeo_copy
from tests.support.smallwheel import FILES, make_project
from tests.support.standin import tar_of, write_layout
from tests.support.tampering import verify
from tests.support.trees import git_diff

BASES = ("layout", "zstd layout", "registry", "registry of Docker's types", "wheel")
LONG = f"vllm/{'a_long_folder_name/' * 6}module.py"
STALE = "vllm/__pycache__/config.cpython-312.pyc"


@dataclass
class Place:
    """A registry, a proxy with the referrers API before it, a project, and what its bases are called."""

    hub: str
    api: str
    project: Path
    bases: dict[str, str]
    cache: str


def base_files() -> list[bytes]:
    files = {f"{ROOT}/{path}": data for path, data in FILES.items()}
    files |= {
        f"{ROOT}/vllm-0.0.1.dist-info/RECORD": "".join(f"{path},,\r\n" for path in [*FILES, STALE]).encode(),
        f"{ROOT}/vllm-0.0.1.dist-info/METADATA": b"Name: vllm\n",
        f"{ROOT}/{STALE}": b"stale",
    }
    return [tar_of({"usr/bin/python3": b"#!"}), tar_of(files)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("honest")
    labels = {"config": {"Labels": {"base.example": "kept"}, "Cmd": ["--help"], "Healthcheck": {"Test": ["NONE"]}}}
    write_layout(root / "plain", base_files(), config=labels["config"])
    write_layout(root / "zstd", base_files(), compress="zstd", config=labels["config"])
    two_platforms(root / "two")
    with registry(root / "registry") as hub, with_referrers_api(hub) as api:
        skopeo_copy(f"oci:{root}/plain:base", f"docker://{hub}/base/plain:v1")
        skopeo_copy(f"oci:{root}/two:base", f"docker://{hub}/base/two:v1")
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", "--format", "v2s2", "--dest-tls-verify=false",
             f"oci:{root}/plain:base", f"docker://{hub}/base/docker:v1"],
            check=True, capture_output=True,
        )  # fmt: skip
        first = {**FILES, "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n"), LONG: b"x = 1\n"}
        second = {
            **first,
            "vllm/config.py": first["vllm/config.py"].replace(b"= 5\n", b"= 55\n"),
            "vllm/é.py": b"y = 1\n",
        }
        del second["vllm/old.py"]
        diffs = {"1.diff": git_diff(root / "1", FILES, first), "2.diff": git_diff(root / "2", first, second)}
        project = make_project(root / "project", diffs)
        bases = dict(zip(BASES, ("oci:../plain:base", "oci:../zstd:base", f"{hub}/base/plain:v1", f"{hub}/base/docker:v1",
                                 "wheel:vllm-0.0.1-py3-none-any.whl"), strict=True))  # fmt: skip
        yield Place(hub, api, project, bases, str(root / "cache"))


RECIPES: dict[str, dict[str, Any]] = {
    "everything": {"checkpoint": {"digest": "c0" * 32}, "description": "a 'b' \"c\" $HOME é \\ #"},
    "no overlays": {"overlays": []},
    "one overlay": {"overlays": [{"file": "overlays/1.diff", "title": "T: é", "why": "w", "drop_when": "never"}]},
    "no profiles": {"profiles": [], "default_profile": None},
    "a checkpoint's needs": {
        "overlays": [
            {
                "file": "overlays/1.diff",
                "requires": {"opt_ins": ["lm_head"], "tensors": {"a": {"dtype": "BF16", "shape": [1]}}},
            }
        ]
    },
}


def command(*arguments: str) -> Any:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*arguments, "--json"])
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue())


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(place.project)
    monkeypatch.setenv("BUILDER_CACHE_DIR", place.cache)
    return place


def write_recipe(place: Place, name: str, **keys: Any) -> None:
    document = yaml.safe_load((place.project / "images/small.yaml").read_text())
    merged = {key: value for key, value in {**document, **keys, "name": name}.items() if value is not None}
    (place.project / f"images/{name}.yaml").write_text(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("base", BASES)
def test_an_honest_image_passes(here: Place, tmp_path: Path, base: str, recipe: str) -> None:
    name = f"{BASES.index(base)}-{list(RECIPES).index(recipe)}"
    write_recipe(here, name, base=here.bases[base], **RECIPES[recipe])
    command("build", name, "--engine", "oci", "--output", f"oci:{tmp_path}/out")
    references = [f"oci:{tmp_path}/out"]
    if base != "wheel":
        host = here.api if recipe == "everything" else here.hub
        done = command("publish", name, "--to", f"{host}/team/x{name}", "--tag", "latest")
        references += [f"{host}/team/x{name}:latest", f"{host}/team/x{name}:{done['tags'][0]}"]
    for reference in references:
        for arguments in ((), ("--quick",)):
            found = verify(reference, *arguments)
            assert found.code == 0, found.err
    assert verify(references[0], "--recipe", name).code == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_honest_image_of_two_platforms_passes(here: Place, tmp_path: Path, recipe: str) -> None:
    name = f"two-{list(RECIPES).index(recipe)}"
    keys = {**RECIPES[recipe], "base": f"{here.hub}/base/two:v1", "platforms": ["linux/arm64", "linux/amd64"]}
    write_recipe(here, name, **keys)
    command("build", name, "--engine", "oci", "--output", f"oci:{tmp_path}/out")
    command("publish", name, "--to", f"{here.hub}/team/{name}", "--tag", "latest")
    for reference in (f"oci:{tmp_path}/out", f"{here.hub}/team/{name}:latest"):
        for arguments in ((), ("--recipe", name), ("--quick",)):
            found = verify(reference, *arguments)
            assert found.code == 0, found.err


def test_a_later_build_of_the_recipe_takes_its_evidence_along(here: Place, tmp_path: Path) -> None:
    """Lock and sources of an earlier build leave the layout with it; another recipe's stay."""
    write_recipe(here, "again", base=here.bases["layout"])
    write_recipe(here, "beside", base=here.bases["layout"], description="another")
    out = f"oci:{tmp_path}/out"
    for name in ("again", "beside"):
        command("build", name, "--engine", "oci", "--output", out)
    write_recipe(here, "again", base=here.bases["layout"], description="changed")
    command("lock", "again")
    command("build", "again", "--engine", "oci", "--output", out)
    index = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert len([each for each in index if "artifactType" in each]) == 4
    for each in index:
        if "artifactType" not in each:
            tag = each["annotations"]["org.opencontainers.image.ref.name"]
            found = verify(f"{out}:{tag}")
            assert found.code == 0, found.err
