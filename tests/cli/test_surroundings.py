"""Where a command is called: in a folder that was removed, by a user without a home, with a file in a folder's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.oci.docker_cli import choose
from builder.util.errors import UnreachableError
from tests.support.cli import builder
from tests.support.services import require, require_root
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
import json
import os
from builder.cli.app import _have_home
from builder.util.files import CacheError
from builder.util.files import cache_dir
for name in ("HOME", "BUILDER_CACHE_DIR", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.setuid(54321)
_have_home()
try:
    cache_dir()
except CacheError as error:
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


def test_a_cache_that_cannot_be_used_is_no_difference_and_is_a_finding(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    assert builder("build", "small", cwd=project).code == 0
    unusable = {"BUILDER_CACHE_DIR": "/dev/null", "DOCKER_HOST": "unix:///nowhere.sock"}
    done = builder("verify", "dist/small", "--recipe", "small", cwd=project, env=unusable)
    assert (done.code, "cannot make the cache folder" in done.err) == (2, True), done.err
    assert "find out who changed it" not in done.err
    doctor = builder("doctor", "--offline", "--json", cwd=project, env=unusable)
    assert doctor.code == 2, doctor.err
    found = {each["name"]: each for each in doctor.document["findings"]}
    assert (found["cache"]["state"], found["Docker"]["state"]) == ("problem", "note")


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


def obeying_modes(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `builder` as a user whom the modes of files concern: root without its exemption from them."""
    words = [sys.executable, "-m", "builder", *arguments]
    if os.geteuid() == 0:
        require("setpriv")
        words = [
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search",
            *words,
        ]
    return subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )  # fmt: skip


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_images_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path, mode: int) -> None:
    project = make_project(tmp_path, {})
    (project / ".git").mkdir()
    (project / "below").mkdir()
    (project / "images").chmod(mode)
    try:
        for folder in (project, project / "below"):
            done = obeying_modes("list", cwd=folder)
            assert done.returncode == 2, done.stdout
            assert done.stderr.startswith(f"error: Permission denied\n  where  {project}/images"), done.stderr
    finally:
        (project / "images").chmod(0o755)


def test_a_file_that_cannot_be_read_is_named_beside_the_others(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    images = project / "images"
    (images / "other.yaml").write_bytes((images / "small.yaml").read_bytes())
    (images / "other.yaml").chmod(0)
    (images / "small.lock.yaml").write_text("")
    (images / "small.lock.yaml").chmod(0)
    done = obeying_modes("list", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    other, small = json.loads(done.stdout)["recipes"]
    assert "cannot read other.yaml: Permission denied" in other["error"]
    assert (small["lock"], "Permission denied" in small["changed"]) == ("unreadable", True)


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


@pytest.mark.parametrize("command", [["smoke"], ["gate", "run"]], ids=" ".join)
@pytest.mark.parametrize("target", ["127.0.0.1:1/v1", "htp://127.0.0.1:1/v1"])
def test_an_address_without_its_scheme_is_no_recipe(tmp_path: Path, command: list[str], target: str) -> None:
    suite = ["--suite", "sample"] if command[0] == "gate" else []
    done = builder(*command, target, *suite, cwd=tmp_path)
    assert done.code == 2
    assert "is neither a recipe nor the address of a server" in done.err
    assert "such as http://127.0.0.1:1/v1\n" in done.err


def test_a_server_is_checked_from_a_folder_of_the_project(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    (project / "profiles").mkdir(exist_ok=True)
    (project / "profiles/own.yaml").write_text("name: own\nflags: {max-model-len: 128}\n")
    done = builder("smoke", "http://127.0.0.1:1", "own", "--limit", "0.1", cwd=project / "images")
    assert done.code == 6, done.err


def test_a_folder_that_does_not_exist_is_no_image(tmp_path: Path) -> None:
    done = builder("verify", "./dist/mine", cwd=tmp_path)
    assert done.code == 2
    assert "there is no folder ./dist/mine" in done.err


def test_a_lock_of_a_newer_builder_asks_for_an_upgrade(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    assert builder("lock", "small", cwd=project).code == 0
    lock = project / "images/small.lock.yaml"
    lock.write_text(lock.read_text().replace("schema: 1\n", "schema: 2\nbeyond: {}\n"))
    done = builder("build", "small", cwd=project)
    assert done.code == 2
    assert "for the lock of a newer builder, upgrade this one" in done.err


def test_a_docker_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_DOCKER", "/nowhere/docker")
    with pytest.raises(UnreachableError) as raised:
        choose()
    assert raised.value.details == (("tried", "/nowhere/docker"),)
    assert raised.value.hint == "see that BUILDER_DOCKER names a docker command line, and that its daemon runs"


@pytest.mark.parametrize("limit", ["nan", "inf"])
def test_a_limit_that_never_ends_is_none(tmp_path: Path, limit: str) -> None:
    done = builder("smoke", "http://127.0.0.1:1", "--limit", limit, cwd=tmp_path)
    assert done.code == 2
    assert f"'{limit}' is not a number" in done.err
