"""One lock, one digest: whoever builds, wherever, whenever, with whichever Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from tests.support.cli import builder
from tests.support.services import require
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reproducible")
    diff = git_diff(
        root / "1", FILES, {**FILES, "vllm/žluť/new module.py": b"x = 1\n", "vllm/" + "deep/" * 40 + "x.py": b"y = 1\n"}
    )
    project = make_project(
        root / "project",
        {"one.diff": diff},
        description='quotes " and $HOME {{x}} \\ č',
        checkpoint={"digest": "ab" * 32},
    )
    assert builder("lock", "small", cwd=project).code == 0
    return project


def digest(
    project: Path,
    env: dict[str, str],
    *,
    prefix: tuple[str, ...] = (),
    python: str = sys.executable,
    umask: int = 0o022,
) -> str:
    done = subprocess.run(
        [*prefix, python, "-m", "builder", "build", "small", "--engine", "oci", "--output", "oci:out", "--json"],
        cwd=project, capture_output=True, text=True, check=False, timeout=250, umask=umask,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(REPOSITORY), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import json

    return str(json.loads(done.stdout)["digest"])


def copy(project: Path, target: Path) -> Path:
    return Path(shutil.copytree(project, target / "elsewhere" / "deeper"))


def test_the_digest_is_the_same_under_every_condition(locked: Path, tmp_path: Path) -> None:
    cache = {"BUILDER_CACHE_DIR": str(tmp_path / "cache")}
    reference = digest(copy(locked, tmp_path / "0"), cache)
    conditions: dict[str, dict[str, object]] = {
        "umask": {"umask": 0o077},
        "time zone": {"env": {"TZ": "Pacific/Kiritimati"}},
        "locale": {"env": {"LC_ALL": "tr_TR.UTF-8", "LANG": "C", "PYTHONUTF8": "0"}},
        "plain C locale": {"env": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}},
        "hash seed": {"env": {"PYTHONHASHSEED": "12345"}},
        "empty cache": {"env": {"BUILDER_CACHE_DIR": str(tmp_path / "other")}},
    }
    if shutil.which("faketime"):
        conditions["clock"] = {"prefix": ("faketime", "2031-05-06 07:08:09")}
    else:
        require("faketime")
    for index, (name, how) in enumerate(conditions.items(), 1):
        env = {**cache, **how.pop("env", {})}  # type: ignore[dict-item]
        assert digest(copy(locked, tmp_path / str(index)), env, **how) == reference, name  # type: ignore[arg-type]


ANOTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# A build starts its own interpreter again, to judge syntax in a child.
STARTS_ITSELF = "import subprocess, sys, pydantic; subprocess.run([sys.executable, '-c', ''], check=True)"


def reachable_python() -> tuple[str | None, str]:
    """An interpreter of this version that another user can start, and the folder with this one's packages."""
    packages = str(Path(pydantic.__file__).parents[1])
    version = f"python3.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        if not Path(program).exists():
            continue
        done = subprocess.run(
            [*ANOTHER_USER, program, "-c", STARTS_ITSELF],
            capture_output=True, check=False, env={"PATH": os.environ["PATH"], "PYTHONPATH": packages},
        )  # fmt: skip
        if done.returncode == 0:
            return program, packages
    return None, packages


def test_another_user_builds_the_same(locked: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    require("setpriv")
    reference = digest(copy(locked, tmp_path / "0"), {"BUILDER_CACHE_DIR": str(tmp_path / "cache")})
    # Somewhere that the other user may reach, interpreter and source included.
    import tempfile

    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o777)
        project = copy(locked, place)
        shutil.copytree(
            REPOSITORY / "builder", place / "source" / "builder", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(REPOSITORY / "Dockerfile.j2", place / "source")
        subprocess.run(["chown", "-R", "65534:65534", str(place)], check=True)
        python, packages = reachable_python()
        if python is None:
            pytest.skip("another user cannot reach a Python of this version")
        found = digest(
            project, {"BUILDER_CACHE_DIR": str(place / "cache"), "HOME": str(place), "PYTHONPATH": f"{place / 'source'}:{packages}"},
            prefix=ANOTHER_USER, python=python,
        )  # fmt: skip
    assert found == reference


LAYER = """
import hashlib, sys
sys.path.insert(0, {path!r})
from builder.image.layer import make_layer
from builder.image.rootfs import Entry, Rootfs
from builder.image.manifest import encode, timestamp
deep = "/".join(["folder"] * 40)
entries = [Entry("a", "directory", 0o755), Entry("a/gone", "whiteout"), Entry("a/x", "file", 0o755, b"x" * 5000),
           Entry(deep + "/f", "file", 0o644, b"y"), Entry("ž/č.py", "file", 0o644, b"z")]
data = make_layer(Rootfs(tuple(sorted(entries, key=lambda e: e.path.encode()))), epoch=1_700_000_000).data
print(hashlib.sha256(data + encode({{"a": "č", "b": [1, 2]}}) + timestamp(1_700_000_000).encode()).hexdigest())
"""


def interpreters() -> list[str]:
    """Other Pythons of this machine that start."""
    folders = [Path(part) for part in os.environ["PATH"].split(":")]
    folders += sorted(
        (Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions").glob("3.1[123].*/bin")
    )
    found = {}
    for folder in folders:
        for minor in (11, 12, 13):
            program = folder / f"python3.{minor}"
            if (
                minor not in found
                and program.is_file()
                and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0
            ):
                found[minor] = str(program)
    return list(found.values())


def test_every_python_here_writes_the_same_layer(tmp_path: Path) -> None:
    """The modules that make bytes import nothing but the standard library, so that any interpreter can run them."""
    digests = {}
    for program in [sys.executable, *interpreters()]:
        done = subprocess.run(
            [program, "-c", LAYER.format(path=str(REPOSITORY))], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        digests[program] = done.stdout.strip()
    assert len(set(digests.values())) == 1, digests
