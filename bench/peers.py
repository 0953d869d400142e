"""The peers that PyPI has: `make bench-peers` installs them once, in the cache, apart from this tool's own packages.

torch is what pip finds: without a package index of its own for the CPU, it brings CUDA along.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from builder.util.files import cache_dir

FOLDER = cache_dir("bench-peers")
NOT_INSTALLED = "it is not installed: make bench-peers"
_PACKAGES = {
    "kas": ("kas==5.5",),
    "llmcompressor": ("llmcompressor==0.14.0.1", "torch==2.13.0"),
}


def program(name: str, *, of: str) -> str | None:
    """A program of a peer, or None where it is not installed."""
    return shutil.which(name, path=str(FOLDER / of / "bin"))


def install() -> None:
    """Install what is missing, each peer in an environment of its own."""
    for name, requirements in _PACKAGES.items():
        done = FOLDER / name / "installed"
        if done.is_file() and done.read_text() == " ".join(requirements):
            continue
        print(f"installing {', '.join(requirements)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER / name)], check=True)
        python = str(FOLDER / name / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(" ".join(requirements))


if __name__ == "__main__":
    install()
