"""The real stack: vLLM 0.20.0 -> 0.20.1 -> 0.20.2 as two overlays, made from the wheels at run time."""

from __future__ import annotations

import fcntl
import functools
import shutil
import tempfile
from pathlib import Path

from tests.support.pytrees import package_tree
from tests.support.trees import git_diff
from tests.support.wheels import WHEELS, folder, python_files

STEPS = (("0.20.0", "0.20.1"), ("0.20.1", "0.20.2"))


@functools.cache
def overlay_diffs() -> tuple[bytes, bytes]:
    """The Python changes of the two patch releases (38 and 8 files), made once per machine by git."""
    first, second = (release_diff(old, new) for old, new in STEPS)
    return first, second


def _python(version: str) -> dict[str, bytes]:
    if version in WHEELS:
        return python_files(version)
    root = package_tree(version)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.py"))}


def release_diff(old: str, new: str) -> bytes:
    """The change of the Python files from one release to another, made once per machine by git."""
    path = folder() / f"python-{old}-{new}.diff"
    with (folder() / ".diffs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            temporary = Path(tempfile.mkdtemp(dir=folder()))
            try:
                before, after = _python(old), _python(new)
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
