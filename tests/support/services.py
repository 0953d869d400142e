"""Real parts that tests start: whether this machine has them, and how a test says that it needs one."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

STRICT = os.environ.get("BUILDER_REQUIRE_SERVICES") == "1"


def leave_out(reason: str) -> NoReturn:
    """Skip the test with a reason that `make test` prints; with BUILDER_REQUIRE_SERVICES=1, fail it."""
    if STRICT:
        pytest.fail(f"{reason} (BUILDER_REQUIRE_SERVICES=1)")
    pytest.skip(reason)


def require(*programs: str) -> None:
    """Leave the test out unless every program is on the PATH (or in /usr/sbin)."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        leave_out(f"needs {', '.join(missing)}")


def require_root() -> None:
    """Leave the test out unless it runs as root, which dockerd and mounts need."""
    if os.geteuid() != 0:
        leave_out("needs root")
