"""Running the command line as a user does, in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import forkserver


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


def builder(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None, python: str = sys.executable) -> Ran:
    """Run `builder` with arguments. Another Python than this one is started from nothing; see tests/support/forkserver.py."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})}
    if python == sys.executable:
        ended = forkserver.run("builder", arguments, cwd=cwd, env=env, timeout=280)
        return Ran(ended.code, _text(ended.out), _text(ended.err))
    done = subprocess.run(
        [python, "-m", "builder", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=env,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _text(data: bytes) -> str:
    """As `subprocess` reads text."""
    return io.TextIOWrapper(io.BytesIO(data)).read()


def builder_peak(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[Ran, int]:
    """Run `builder` with arguments; its end, and its largest resident memory in kB (1,024 bytes)."""
    script = (
        "import sys; from pathlib import Path; from builder.cli.app import run; code = run(sys.argv[1:]);"
        "print([line.split()[1] for line in Path('/proc/self/status').open() if 'VmHWM' in line][0], file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr), int(done.stderr.split()[-1])
