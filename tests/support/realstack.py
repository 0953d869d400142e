"""The real stack: vLLM 0.20.0 -> 0.20.1 -> 0.20.2 as two overlays, made from the wheels at run time."""

from __future__ import annotations

import fcntl
import functools
import shutil
import tempfile
from pathlib import Path

from tests.support.trees import git_diff
from tests.support.wheels import folder, python_files

STEPS = (("0.20.0", "0.20.1"), ("0.20.1", "0.20.2"))


@functools.cache
def overlay_diffs() -> tuple[bytes, bytes]:
    """The Python changes of the two patch releases (38 and 8 files), made once per machine by git."""
    first, second = (_diff(old, new) for old, new in STEPS)
    return first, second


def _diff(old: str, new: str) -> bytes:
    path = folder() / f"python-{old}-{new}.diff"
    with (folder() / ".diffs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            temporary = Path(tempfile.mkdtemp(dir=folder()))
            try:
                before, after = python_files(old), python_files(new)
                changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
                diff = git_diff(
                    temporary,
                    {name: data for name, data in before.items() if name in changed},
                    {name: data for name, data in after.items() if name in changed},
                    "--full-index",
                )
                (temporary / "diff").write_bytes(diff)
                (temporary / "diff").replace(path)
            finally:
                shutil.rmtree(temporary)
    return path.read_bytes()
