"""What is shipped, installed into a fresh environment that does not see the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_distributions(folder: Path) -> dict[str, Path]:
    """The wheel and the sdist, as `python -m build` makes them from a checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def install(place: Path, what: Path) -> Path:
    """The `builder` command of a fresh environment with `what`. The dependencies are those that run these tests."""
    venv.create(place, with_pip=True, symlinks=True)
    python = place / "bin/python"
    # A path file inside a path file is not read, so the checkout that is installed beside the dependencies is not seen.
    site = next((place / "lib").glob("python3.*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall", what],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return place / "bin/builder"
