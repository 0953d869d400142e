"""Only GNU patch of a version that was measured may apply an overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("patch 2.0-12u11-Apple", "is not GNU patch"),
        ("GNU patch 2.5.8", "too old"),
        ("GNU patch 2.7.5", "too old"),
    ],
)
def test_another_or_an_older_patch_is_refused(tmp_path: Path, said: str, message: str) -> None:
    diff = git_diff(tmp_path / "d", FILES, {**FILES, "vllm/old.py": b"gone = False\n"})
    project = make_project(tmp_path / "p", {"a.diff": diff})
    other = tmp_path / "bin/patch"
    other.parent.mkdir()
    other.write_text(f"#!/bin/sh\necho '{said}'\n")
    other.chmod(0o755)
    done = builder("check", "small", cwd=project, env={"PATH": f"{other.parent}:/bin"})
    assert done.code == 2
    assert message in done.err
    assert "install GNU patch 2.7.6" in done.err


def test_without_any_patch_the_hint_says_what_to_install(tmp_path: Path) -> None:
    diff = git_diff(tmp_path / "d", FILES, {**FILES, "vllm/old.py": b"gone = False\n"})
    project = make_project(tmp_path / "p", {"a.diff": diff})
    done = builder("check", "small", cwd=project, env={"PATH": str(tmp_path)})
    assert done.code == 2
    assert "patch is not installed" in done.err
