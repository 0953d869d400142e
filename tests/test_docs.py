"""Every command of README and docs, run as written in a project such as the page speaks of.

What is the reader's own (a folder of models, a registry, a repository) is put in its place, and nothing else is changed.
A command that needs more than this machine may have names the test that runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from builder.util.files import file_sha256
from tests.support.cli import builder
from tests.support.github import GitHub, github
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require
from tests.support.standin import package_files, tar_of, write_layout
from tests.support.trees import git_diff
from tests.support.wheels import python_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = [pytest.mark.wheels]

# A command that starts with this -> the test that runs the same with what it needs.
ELSEWHERE = {
    "pip install": "tests/test_shipped.py::test_the_main_job_runs_from_what_is_shipped",
    "make demo-serve": "tests/engine/test_container.py::test_",
    "cd dist/demo-serve": "tests/engine/test_container.py::test_",
    ". ../../.venv/bin/activate": "tests/engine/test_container.py::test_",
    "$EDITOR": "tests/engine/test_container.py::test_",
    "builder lock demo-serve": "tests/engine/test_container.py::test_",
    ".venv/bin/python -m pytest -m engine": "tests/engine/test_server.py::test_",
    ". .venv/bin/activate": "tests/test_docs.py::test_make_demo_prints_what_the_readme_shows",
    "make demo": "tests/test_docs.py::test_make_demo_prints_what_the_readme_shows",
    "make check": "tests/test_docs.py::test_the_makefiles_targets_are_the_commands",
    "make build": "tests/test_docs.py::test_the_makefiles_targets_are_the_commands",
    "make test": "tests/test_docs.py::test_the_makefiles_targets_are_the_commands",
    "make lint": "tests/test_docs.py::test_the_makefiles_targets_are_the_commands",
    "make bench": "tests/test_docs.py::test_the_makefiles_targets_are_the_commands",
    "builder run mine": "tests/cli/test_first_hour.py::test_from_a_number_to_a_response_in_four_commands",
    "curl": "tests/cli/test_first_hour.py::test_from_a_number_to_a_response_in_four_commands",
    "builder smoke mine smoke": "tests/cli/test_first_hour.py::test_from_a_number_to_a_response_in_four_commands",
    "builder smoke small smoke": "tests/serve/test_smoke_docker.py::test_a_good_server_passes_and_the_result_is_bound_to_the_image",
    "builder smoke http://127.0.0.1:8000": "tests/serve/test_smoke_server.py::test_",
    "docker run": "tests/serve/test_entrypoint.py::test_",
    "builder publish images/*.yaml": "tests/release/test_judges.py::test_many_recipes_at_once_and_one_that_fails",
    "builder render images/*.yaml": "tests/release/test_judges.py::test_the_matrix_builds_with_any_buildkit",
    "builder gate": "tests/gate/test_commands.py::test_two_suites_and_what_reads_their_verdicts",
    "builder verdict": "tests/gate/test_commands.py::test_two_suites_and_what_reads_their_verdicts",
    "builder attest": "tests/release/test_attest.py::test_a_signed_statement_is_stored_as_cosign_stores_one",
    "builder promote": "tests/release/test_promote.py::test_the_command_line",
    "builder verify registry.example/team/vllm:production --signer": "tests/release/test_attest.py::test_a_pinned_signer_must_have_signed",
    "builder profile import": "tests/vllm/test_profile_import.py::test_the_command_writes_a_profile_that_can_be_read",
    ".venv/bin/python -m tests.support.engine": "tests/engine/test_container.py::test_",
    "gh attestation": "tests/release/test_action.py::test_a_publish_gives_digest_image_tags_and_predicate",
    "builder checkpoint quantize": "tests/checkpoint/test_quantize.py::test_",
    "builder checkpoint check": "tests/checkpoint/test_check.py::test_",
    "find -L .": "tests/checkpoint/test_digest.py::test_",
    "builder deploy router": "tests/serve/test_router.py::test_the_files_are_what_the_hook_reads",
    "builder deploy promoted": "tests/serve/test_router_promoted.py::test_an_alert_follows_the_promoted_tag_and_the_verdicts",
    "LITELLM_MASTER_KEY=": "tests/serve/test_fleet_docker.py::test_compose_up_routes_watches_and_goes_down_again",
    "cd fleet &&": "tests/serve/test_router_proxy.py::test_every_prompt_goes_where_its_own_count_belongs",
    "builder deploy kserve": "tests/checkpoint/test_artifact.py::test_kubernetes_and_kserve_take_the_image_as_a_volume",
    "podman push": "tests/checkpoint/test_artifact.py::test_an_image_needs_the_digest_and_is_mounted_by_kubernetes",
    "cd /models/ckpt && printf": "tests/checkpoint/test_artifact.py::test_an_image_needs_the_digest_and_is_mounted_by_kubernetes",
    "cd /models/ckpt && oras": "tests/checkpoint/test_artifact.py::test_it_is_pulled_once_and_is_the_folder",
    "builder profile fit": "tests/vllm/test_fit.py::test_",
}


@dataclass(frozen=True)
class Line:
    """One command of a page."""

    page: Path
    number: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.number} {self.text[:60]}"


def commands(page: Path) -> Iterator[Line]:
    """The lines of `sh` blocks, and those of `console` blocks that begin with a dollar sign; continued lines are one."""
    kind = None
    text = page.read_text()
    lines = text.replace("\\\n", "").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            kind = line[3:].strip() if kind is None else None
        elif kind == "sh" and line.strip() and not line.startswith("#"):
            yield Line(page, number, line.strip())
        elif kind == "console" and line.startswith("$ "):
            yield Line(page, number, line[2:].strip())


LINES = [line for page in PAGES for line in commands(page)]


def elsewhere(line: Line) -> str | None:
    found = [start for start in ELSEWHERE if line.text.startswith(start)]
    return ELSEWHERE[max(found, key=len)] if found else None


def test_what_is_run_elsewhere_is_run_there() -> None:
    used = {test for line in LINES if (test := elsewhere(line)) is not None}
    assert len(LINES) > 40
    for each in used:
        path, _, name = each.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(), each
    assert not [start for start in ELSEWHERE if not any(line.text.startswith(start) for line in LINES)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], dict[str, str]]]:
    """A folder as the pages have it, the environment, and what takes the place of the reader's own names."""
    require("skopeo", "docker-registry", "git")
    root = tmp_path_factory.mktemp("docs")
    project = root / "project"
    for name in ("images", "overlays", "profiles", "docs"):
        shutil.copytree(ROOT / name, project / name)
    released = python_files("0.20.0")
    changed = "vllm/collect_env.py"
    (project / "fix.diff").write_bytes(
        git_diff(root / "fix", {"vllm/logger.py": released["vllm/logger.py"]}, {"vllm/logger.py": released["vllm/logger.py"] + b"\n\nFIXED = 1\n"})
    )  # fmt: skip
    (root / "models/ckpt").mkdir(parents=True)
    (root / "models/ckpt/config.json").write_text("{}")
    (root / "bin").mkdir()
    (root / "bin/builder").write_text(f'#!/bin/sh\nexec {sys.executable} -m builder "$@"\n')
    (root / "bin/gh").write_text('#!/bin/sh\necho "$@" > gh.called\n')
    for program in (root / "bin").iterdir():
        program.chmod(0o755)
    layout = write_layout(root / "base", [tar_of({"usr/bin/python3": b"#!"}), tar_of(package_files())])
    with github(root / "github") as hub, registry(root / "registry") as host:
        hub.commit({changed: released[changed]}, "v0.20.0")
        opened(hub, changed, released[changed])
        skopeo_copy(f"oci:{layout}:base", f"docker://{host}/vllm/vllm-openai:v0.20.0")
        env = {
            "PATH": f"{root}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "BUILDER_GITHUB_URL": hub.url,
            "BUILDER_GITHUB_API_URL": hub.url, "BUILDER_REGISTRY_MIRRORS": f"docker.io=http://{host}",
            "DOCKER_HOST": "unix:///nowhere.sock",
        }  # fmt: skip
        ours = {
            "/models/ckpt": f"{root}/models/ckpt", "registry.example": host, "ghcr.io/me/images@sha256:DIGEST": f"ghcr.io/me/images@sha256:{'0' * 64}",
            "HOST/OWNER": "example.org/me", "/data/builder-cache": str(root / "second-cache"), "https://mirror.example": f"http://{host}",
        }  # fmt: skip
        yield project, env, ours


def opened(hub: GitHub, path: str, data: bytes) -> None:
    hub.open_pull(39931, hub.commit({path: data + b"\n\nPATCHED = 1\n"}, "the change", branch="feature"))


def made(project: Path, env: dict[str, str]) -> None:
    """The recipe `mine` of the pages, as `init` writes it, locked and built."""
    if not (project / "images/mine.lock.yaml").is_file():
        begin = "init mine --pull 39931 --base vllm/vllm-openai:v0.20.0 --checkpoint ../models/ckpt"
        for words in (begin.split(), ["build", "mine"]):
            done = builder(*words, cwd=project, env=env)
            assert done.code == 0, done.err


def run(text: str, project: Path, env: dict[str, str], ours: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, own in ours.items():
        text = text.replace(name, own)
    return subprocess.run(
        ["bash", "-c", text],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, **env},
    )


HERE = [line for line in LINES if elsewhere(line) is None]


@pytest.mark.parametrize("line", HERE, ids=lambda line: line.id)
def test_a_command_runs_as_written(
    line: Line, place: tuple[Path, dict[str, str], dict[str, str]], tmp_path: Path
) -> None:
    project, env, ours = place
    env = {**env, "BUILDER_CACHE_DIR": str(project.parent / "cache")}
    if line.text.startswith("builder init"):
        # In an empty folder, as the page says; the project of the other commands has it already.
        done = run(line.text, tmp_path, env, ours)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load((tmp_path / "images/mine.yaml").read_text())["name"] == "mine"
        return
    made(project, env)
    (project / "gates").mkdir(exist_ok=True)
    prepare(line, project, env, ours)
    ours = {
        **ours,
        "ckpt-0123456789ab-0123456789ab": "production",
        "sha256:fe3b067c...": f"sha256:{file_sha256(project / 'images/mine.lock.yaml')}",
    }
    if line.text.startswith("builder mirror"):
        # It writes the mirror into the lock, which the other pages' images were not published with.
        project = Path(shutil.copytree(project, tmp_path / "copy"))
    done = run(line.text, project, env, ours)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def prepare(line: Line, project: Path, env: dict[str, str], ours: dict[str, str]) -> None:
    """What a page has had its reader do before the command."""
    if "registry.example" in line.text and "verify" in line.text:
        to = f"{ours['registry.example']}/team/vllm"
        done = builder("publish", "mine", "--to", to, "--tag", "production", cwd=project, env=env)
        assert done.code == 0, done.err
    if "dist/demo" in line.text:
        assert builder("build", "demo", "--engine", "oci", cwd=project, env=env).code == 0


def test_make_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    """The script behind `make demo`, with what the README shows of it: those lines, in that order."""
    for name in ("images", "overlays", "profiles", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/builder"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m builder "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "docs/demo.sh"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    printed = iter([line.rstrip() for line in done.stdout.splitlines() if line.strip()])
    shown = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[0].splitlines()
    for line in shown:
        if line.strip() and line != "...":
            assert any(line.rstrip() == each for each in printed), line
    for line in re.findall(r"^  (builder .*?)  +#", done.stdout, flags=re.MULTILINE):
        again = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, env=env, timeout=200, check=False)
        assert again.returncode == 0, line
    assert "@$(VENV)" not in done.stdout


def test_the_makefiles_targets_are_the_commands() -> None:
    """What `make` would run for each target that the pages name, with the set-up left out."""
    wanted = {
        "check": "builder check qwen3.6-27b-fp8-vocab", "build": "builder build qwen3.6-27b-fp8-vocab", "lock": "builder lock",
        "test": "-m pytest", "lint": "ruff check", "bench": "-m bench", "demo": "docs/demo.sh", "demo-serve": "docs/demo-serve.sh",
    }  # fmt: skip
    for target, words in wanted.items():
        done = subprocess.run(
            ["make", "--dry-run", "--assume-old=.venv/.setup", "--assume-old=.venv/.dev", target], cwd=ROOT,
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert words in done.stdout, target


def test_pages_that_are_linked_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.name}: {target}"
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("#")
    }
    for page in PAGES:
        for anchor in re.findall(r"README\.md#([\w-]+)", page.read_text()):
            assert anchor in headings, f"{page.name}: {anchor}"
