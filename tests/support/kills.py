"""Ending a command at each of its steps: the changes that it makes to files, which Python's audit events tell of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_KILL = """
import os, signal, sys
left = int(sys.argv[1])
root = sys.argv[2]
def hook(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.remove", "os.mkdir", "open", "os.chmod") and any(
        isinstance(each, (str, bytes, os.PathLike)) and os.fsdecode(each).startswith(root) for each in arguments
    ):
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
from builder.cli.app import run
sys.addaudithook(hook)
code = run(sys.argv[3:])
print(left)
sys.exit(code)
"""


def killed_at(step: int, root: Path, *command: str) -> bool:
    """Run a command that is killed at its `step`th change to a file below `root`; whether it came to that."""
    done = subprocess.run(
        [sys.executable, "-c", _KILL, str(step), str(root), *command], cwd=root, capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0
