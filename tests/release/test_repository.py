"""The project's own repository, as provenance names it: real git repositories, and an environment that points elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.release.evidence.repository import Repository, find_repository
from tests.support.trees import git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "images").mkdir()
    (folder / "images/a.yaml").write_text("name: a\n")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=N", "-c", "user.email=e@x", "commit", "-q", "-m", "first")
    return folder


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD").decode().strip()


def test_root_commit_state_and_remote(repository: Path) -> None:
    assert find_repository(repository / "images") == Repository(repository, head(repository), dirty=False, remote=None)
    git(repository, "remote", "add", "origin", "https://name:secret@git.example/team/project.git")
    (repository / "images/a.yaml").write_text("name: b\n")
    (repository / "untracked").write_text("x")
    found = find_repository(repository)
    assert found == Repository(repository, head(repository), dirty=True, remote="https://git.example/team/project.git")


def test_nothing_outside_a_repository_or_before_the_first_commit(tmp_path: Path) -> None:
    assert find_repository(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert find_repository(tmp_path) is None


def test_what_the_commit_lacks_makes_it_dirty(repository: Path) -> None:
    (repository / "dist").mkdir()
    (repository / "dist/x").write_text("x")
    assert find_repository(repository) == Repository(repository, head(repository), dirty=False, remote=None)
    (repository / "images/a.lock.yaml").write_text("x")
    assert find_repository(repository) == Repository(repository, head(repository), dirty=True, remote=None)


def test_a_repository_whose_commit_cannot_be_told_is_a_warning(tmp_path: Path, repository: Path) -> None:
    said: list[str] = []
    assert find_repository(tmp_path / "project/images", warn=said.append) is not None
    assert said == []
    shutil.rmtree(repository / ".git/objects")
    assert find_repository(repository, warn=said.append) is None
    (repository / ".git/HEAD").write_text("garbage")
    assert find_repository(repository, warn=said.append) is None
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "-q")
    assert find_repository(tmp_path / "new", warn=said.append) is None
    assert all(each.startswith("the provenance names no commit of the project's repository: ") for each in said), said
    assert (len(said), said[-1].endswith(": it has no commit yet")) == (3, True), said


def test_the_environment_does_not_choose_the_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    wanted = head(repository)
    for name, place in (("GIT_DIR", other / ".git"), ("GIT_WORK_TREE", other), ("GIT_INDEX_FILE", other / "none")):
        monkeypatch.setenv(name, str(place))
    assert find_repository(repository) == Repository(repository, wanted, dirty=False, remote=None)


def test_no_program_that_the_configuration_names_is_run(repository: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    assert find_repository(repository) is not None
    assert not (tmp_path / "sprung").exists()
