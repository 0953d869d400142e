"""The action's steps, run as GitHub runs them, from the installed wheel: on success and on each kind of failure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.cli.ci import summary
from tests.release.test_ci_files import ACTION, bash
from tests.support.published import held, patched_project, small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require
from tests.support.shipped import build_distributions, install

DOCUMENT = yaml.safe_load(ACTION.read_text())
STEPS = {step["name"]: step for step in DOCUMENT["runs"]["steps"]}


@pytest.fixture(scope="module")
def temp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUNNER_TEMP once the step Install has run: what it installs is here the wheel."""
    folder = tmp_path_factory.mktemp("runner")
    install(folder / "overlay-image-builder", build_distributions(tmp_path_factory.mktemp("built"))["wheel"])
    return folder


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    require("skopeo", "docker-registry")
    with registry(tmp_path / "registry") as address:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{address}/base/image:v1")
        yield address


@pytest.fixture
def project(tmp_path: Path, host: str) -> Path:
    return patched_project(tmp_path / "project", f"{host}/base/image:v1")


class Step:
    """One run of the step Run, with what it left for later steps."""

    def __init__(self, temp: Path, folder: Path, project: Path, **given: str) -> None:
        inputs = {name: str(each.get("default", "")) for name, each in DOCUMENT["inputs"].items()} | given
        env = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: inputs[match[1]], text)
            for name, text in STEPS["Run"]["env"].items()
        }
        env |= {
            "LOGGED_IN": str(inputs["registry"] != "").lower(),
            "GITHUB_TOKEN": "",
            "BUILDER_CACHE_DIR": str(folder / "c"),
        }
        assert not [text for text in env.values() if "${{" in text]
        self.output, self.page = folder / "output", folder / "summary"
        for path in (self.output, self.page, temp / "overlay-image-builder-result.json"):
            path.unlink(missing_ok=True)
        env |= {"RUNNER_TEMP": str(temp), "GITHUB_OUTPUT": str(self.output), "GITHUB_STEP_SUMMARY": str(self.page)}
        outside = {"PYTHONPATH": "", "PATH": os.environ["PATH"]}
        done = bash(STEPS["Run"]["run"], project, **env, **outside)
        self.code, self.err, self.out = done.returncode, done.stderr, done.stdout

    @property
    def outputs(self) -> dict[str, str]:
        found = re.findall(
            r"^([\w-]+)<<(end-\w+)\n(.*?)\n?^\2$", self.output.read_text(), flags=re.MULTILINE | re.DOTALL
        )
        return {name: value for name, _, value in found}

    @property
    def document(self) -> Any:
        return json.loads(self.outputs["json"])

    @property
    def summary(self) -> str:
        return self.page.read_text()


def lock(temp: Path, project: Path) -> None:
    assert bash(f"{temp}/overlay-image-builder/bin/builder lock small", project, PYTHONPATH="").returncode == 0


def test_the_step_installs_what_runs_and_nothing_else() -> None:
    script = STEPS["Install"]["run"]
    assert '--require-hashes -r "$SOURCE/requirements.lock"' in script
    assert "requirements-dev" not in ACTION.read_text()


def test_a_publish_gives_digest_image_tags_and_predicate(temp: Path, tmp_path: Path, project: Path, host: str) -> None:
    lock(temp, project)
    step = Step(
        temp, tmp_path, project, command="publish", recipe="images/small.yaml", arguments=f"--to\n{host}/team/x\n"
    )
    assert step.code == 0, step.err
    outputs = step.outputs
    assert outputs["image"].partition("@")[::2] == (f"{host}/team/x", outputs["digest"])
    assert held(host, "team/x", outputs["tags"].splitlines()[0], evidence=3) == outputs["digest"]
    assert step.document["digest"] == outputs["digest"]
    predicate = json.loads(Path(outputs["predicate"]).read_text())
    assert outputs["predicate-type"] == "https://slsa.dev/provenance/v1"
    assert predicate["buildDefinition"]["externalParameters"]["recipe"] == "small"
    assert f"| base | {host}/base/image:v1 |" in step.summary
    assert "| 1 | overlays/one.diff |" in step.summary
    assert outputs["digest"] in step.summary


def test_a_build_and_a_check_give_theirs(temp: Path, tmp_path: Path, project: Path) -> None:
    lock(temp, project)
    built = Step(temp, tmp_path, project, command="build", recipe="small", arguments="--engine\noci")
    assert built.code == 0, built.err
    assert built.outputs["image"] == "oci:dist/small"
    assert built.outputs["digest"].startswith("sha256:")
    checked = Step(temp, tmp_path, project, command="check", recipe="small")
    assert checked.code == 0, checked.err
    assert (checked.outputs["digest"], checked.document["name"]) == ("", "small")
    assert "Failed" not in checked.summary


def test_every_failure_has_its_code_its_document_and_a_summary(
    temp: Path, tmp_path: Path, project: Path, host: str
) -> None:
    def failing(code: int, words: str, **given: str) -> None:
        step = Step(temp, tmp_path, project, **{"recipe": "small", **given})
        assert step.code == code, step.err
        assert words in step.document["error"]["message"], step.outputs
        assert step.document["error"]["exit_code"] == code
        assert step.outputs["digest"] == ""
        assert "**Failed**" in step.summary

    failing(2, "there is no recipe", recipe="images/none.yaml")
    failing(2, "No such option", command="build", arguments="--no-such-option")
    failing(4, "images/small.lock.yaml does not exist")
    lock(temp, project)
    failing(5, "", command="publish", arguments="--to\n127.0.0.1:9/team/x")
    profile = project / "profiles/tiny.yaml"
    profile.write_text(profile.read_text().replace("16", "17"))
    failing(4, "is not up to date")
    failing(4, "is older than what it locks", command="build")
    diff = project / "overlays/one.diff"
    diff.write_bytes(diff.read_bytes().replace(b"-option_20 = 20", b"-option_20 = 21"))
    failing(3, "does not apply")


def test_the_login_step_writes_what_the_run_step_reads(temp: Path, tmp_path: Path, project: Path) -> None:
    require("htpasswd")
    import subprocess

    line = subprocess.run(["htpasswd", "-Bbn", "me", 's:e"cret'], capture_output=True, text=True, check=True).stdout
    (tmp_path / "htpasswd").write_text(line.strip() + "\n")
    auth = f"auth: {{htpasswd: {{realm: test, path: '{tmp_path}/htpasswd'}}}}\n"
    lock(temp, project)
    with registry(tmp_path / "closed", auth=auth) as closed:
        arguments = f"--to\n{closed}/team/x"
        assert Step(temp, tmp_path, project, command="publish", recipe="small", arguments=arguments).code == 5
        given = {"REGISTRY": closed, "REGISTRY_USER": "me", "REGISTRY_PASSWORD": 's:e"cret', "RUNNER_TEMP": str(temp)}
        done = bash(STEPS["Log in"]["run"], project, **given, PYTHONPATH="")
        assert done.returncode == 0, done.stderr
        assert (temp / "overlay-image-builder-auth.json").stat().st_mode & 0o777 == 0o600
        step = Step(temp, tmp_path, project, command="publish", recipe="small", arguments=arguments, registry=closed)
        assert step.code == 0, step.err
        assert 's:e"cret' not in step.out + step.err + step.summary + step.output.read_text()
        assert (
            bash(STEPS["Log in"]["run"], project, **{**given, "REGISTRY_PASSWORD": ""}, PYTHONPATH="").returncode == 2
        )


def test_a_summary_cannot_be_written_by_a_title() -> None:
    page = summary({"error": {"message": "<img src=x> `a` | b\n# c", "details": [], "hint": None}}, "none", "check")
    assert "<img" not in page
    assert "\n# c" not in page
