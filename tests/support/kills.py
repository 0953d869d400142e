"""Ending a command at each of its steps: the changes that it makes to files, which Python's audit events tell of."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.support import forkserver

_CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "open", "os.chmod")


def killed_at(step: int, root: Path, *command: str) -> bool:
    """Run a command that is killed at its `step`th change to a file below `root`; whether it came to that."""
    env = {**os.environ, "PYTHONPATH": str(forkserver.REPOSITORY)}
    words = [str(step), str(root), *command]
    ended = forkserver.run("tests.support.kills", words, cwd=root, env=env, timeout=120)
    assert ended.code in (0, -signal.SIGKILL), ended.err
    return ended.code != 0


def fork_killed_at(step: int, root: Path, *command: str) -> bool:
    """As `killed_at`, in a child of this process: what is loaded and compiled here need not be there again."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _main(step, str(root), list(command))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _main(step: int, root: str, command: list[str]) -> int:
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in _CHANGES and any(
            isinstance(each, str | bytes | os.PathLike) and os.fsdecode(each).startswith(root) for each in arguments
        ):
            if event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
                return
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    from builder.cli.app import run

    sys.addaudithook(hook)
    return run(command)


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
