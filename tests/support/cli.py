"""Running the command line as a user does, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    """Run `builder` with arguments."""
    done = subprocess.run(
        [python, "-m", "builder", *arguments], cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)
