"""Where a command is called: in a folder that was removed, by a user without a home, with a file in a folder's place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.cli import builder
from tests.support.services import require_root
from tests.support.smallwheel import make_project

REPOSITORY = Path(__file__).parents[2]


def test_a_removed_working_folder_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["bash", "-c", 'rmdir "$PWD"; "$0" -m builder list', sys.executable], cwd=gone, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error: the working folder does not exist any more\n  next  change to one that exists: cd ~\n" in done.stderr


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    assert builder("lock", "small", cwd=project).code == 0
    (project / "dist").write_text("a file\n")
    done = builder("build", "small", "--engine", "oci", cwd=project)
    assert done.code == 2, done.err
    assert f"where  {project}/dist" in done.err
    assert "next   a file is in the place of a folder: move it away, or name another place" in done.err
    assert (project / "dist").read_text() == "a file\n"


HOMELESS = """
import os
from builder.cli.app import _have_home
from builder.util.errors import InputError
from builder.util.files import cache_dir
for name in ("HOME", "BUILDER_CACHE_DIR", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.setuid(54321)
_have_home()
try:
    cache_dir()
except InputError as error:
    print(error.message, error.hint)
"""


def test_a_user_without_a_home_is_told_to_name_a_cache(tmp_path: Path) -> None:
    """As in `docker run --user 54321`: no HOME, and no entry in /etc/passwd."""
    require_root()
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot make the cache folder /.cache/overlay-image-builder: Permission denied" in done.stdout
    assert "set BUILDER_CACHE_DIR to a writable folder" in done.stdout


def test_what_is_no_file_in_images_is_no_recipe(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    images = project / "images"
    (images / "dangling.yaml").symlink_to("nowhere.yaml")
    (images / "loop.yaml").symlink_to("loop.yaml")
    (images / "folder.yaml").mkdir()
    os.mkfifo(images / "pipe.yaml")
    (images / "small.yaml").rename(images / "other.yml")
    listed = builder("list", "--json", cwd=project)
    assert listed.code == 0, listed.err
    assert [row["recipe"] for row in listed.document["recipes"]] == ["other"]
    assert builder("profile", "list", "--recipe", "other", cwd=project).code == 0
    done = builder("check", "dangling", cwd=project)
    assert done.code == 2
    assert "recipes here: other\n" in done.err


def test_an_encoding_that_lacks_characters_ends_no_command(tmp_path: Path) -> None:
    project = make_project(tmp_path / "größe", {})
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"}
    listed = builder("list", cwd=project, env=ascii_only)
    assert listed.code == 0, listed.err
    assert listed.out.isascii()
    for name in ("fehlt-ü", "fehlt-\udcff"):
        done = builder("check", name, "--json", cwd=project, env=ascii_only)
        assert done.code == 2
        assert done.document["error"]["message"] == f"there is no recipe {name!r}"
        assert builder("check", name, "--json", cwd=project).document["error"]["exit_code"] == 2
