"""Programs of `builder` that are forked from a process which has imported them already: without Python's start and our imports.

Each runs in a process of its own, with its own arguments, folder, environment, streams, exit code and end: the server forks
it, and then it is run as `python -m` runs it. Only the time until it begins is another. What Python reads when it starts
cannot be changed by then: such a program is started from nothing, see `run`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
# Programs of their own, and what loads numba, which reads its settings when it is loaded.
_NOT_LOADED = ("builder.__main__", "builder.checkpoint.quantize.", "builder.cli.commands.checkpoint_quantize", "builder.serve.entrypoint", "builder.serve.router.envelope")  # fmt: skip
_LIBRARIES = ("docker", "jinja2", "packaging.requirements", "requests", "rich.console", "rich.progress", "rich.table", "yaml")  # fmt: skip
# As it is before any test changes it.
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
# What Python, the C library and the loader read when a process starts.
_READ_AT_START = ("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_", "LANG", "TZ", "FAKETIME")


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code (negative: the signal) and what it wrote."""

    code: int
    out: bytes
    err: bytes


class ForkServer:
    """A server process. It ends when this process ends, or `end` is called."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork-")
        self._address = str(Path(self._folder.name) / "s")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._address)
            listening.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forkserver", str(listening.fileno())], cwd=REPOSITORY, env=_ENVIRONMENT,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[listening.fileno()],
            )  # fmt: skip
        atexit.register(self.end)

    def end(self) -> None:
        """End the server: the end of its standard input tells it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._folder.cleanup()

    def run(self, order: dict[str, Any], *, timeout: float) -> Ended:
        """Run one program to its end. Raises `subprocess.TimeoutExpired`, as `subprocess.run` does."""
        out, err = os.pipe(), os.pipe()
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(self._address)
                socket.send_fds(line, [b"x"], [0, out[1], err[1]])
            finally:
                os.close(out[1])
                os.close(err[1])
            data = json.dumps(order).encode()
            line.sendall(len(data).to_bytes(8, "big") + data)
            with line.makefile("rb") as responses, _limit(int(responses.readline()), timeout) as overdue:
                written = _read(out[0], err[0])
                code = int(responses.readline())
        if overdue.is_set():
            raise subprocess.TimeoutExpired(order["argv"], timeout, *written)
        return Ended(code, *written)


@contextlib.contextmanager
def _limit(process: int, seconds: float) -> Iterator[threading.Event]:
    """Kill a process after `seconds`; the event tells of that."""
    overdue = threading.Event()

    def kill() -> None:
        overdue.set()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield overdue
    finally:
        timer.cancel()


def _read(*ends: int) -> list[bytes]:
    """Read pipes to their ends, and close them."""
    found = {end: bytearray() for end in ends}
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 65536)
                found[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [bytes(found[end]) for end in ends]


@functools.cache
def _servers() -> tuple[list[ForkServer], itertools.cycle[ForkServer]]:
    """Two, taken in turn: each has a hash seed of its own, so that no two runs of a test agree by their order of sets."""
    both = [ForkServer(), ForkServer()]
    return both, itertools.cycle(both)


_choosing = threading.Lock()


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START)}


def run(module: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float) -> Ended:
    """Run `python -m MODULE ARGUMENTS`: forked, or from nothing when Python would start otherwise with this environment.

    Raises `subprocess.TimeoutExpired`, and `OSError` when there is no folder `cwd`.
    """
    with _choosing:
        server = next(_servers()[1])
    if _read_at_start(env) != _read_at_start(_ENVIRONMENT) or not cwd.is_dir():
        words = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, check=False, timeout=timeout)
        return Ended(done.returncode, done.stdout, done.stderr)
    order = {"module": module, "argv": list(arguments), "cwd": str(cwd.absolute()), "env": dict(env), "umask": _umask()}
    return server.run(order, timeout=timeout)


def _umask() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:"))
    return int(line.split()[1], 8)


# The rest runs in the server.


def _load() -> None:
    import builder

    for module in pkgutil.walk_packages(builder.__path__, "builder."):
        if not module.name.startswith(_NOT_LOADED):
            importlib.import_module(module.name)
    for name in _LIBRARIES:
        importlib.import_module(name)


def _receive(line: socket.socket) -> tuple[list[int], dict[str, Any]]:
    _, descriptors, _, _ = socket.recv_fds(line, 1, 3)
    with line.makefile("rb") as stream:
        return descriptors, json.loads(stream.read(int.from_bytes(stream.read(8), "big")))


def _become(order: dict[str, Any], descriptors: list[int]) -> None:
    """Make this process what was ordered."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, 1 << 20)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    os.umask(order["umask"])
    sys.path[0] = order["cwd"]
    sys.argv = [order["module"], *order["argv"]]
    sys.orig_argv = [sys.executable, "-m", order["module"], *order["argv"]]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _serve(listening: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork a process for each order until standard input ends. Returns in these processes only, each with its order."""
    running: dict[int, socket.socket] = {}
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        for each in (listening.fileno(), waking, 0):
            selector.register(each, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    sys.exit(0)
                if key.fd == waking:
                    os.read(waking, 4096)
                    _report(running)
                    continue
                line = listening.accept()[0]
                descriptors, order = _receive(line)
                child = os.fork()
                if child == 0:
                    signal.set_wakeup_fd(-1)
                    for other in (listening, line, *running.values()):
                        other.close()
                    return order, descriptors
                for descriptor in descriptors:
                    os.close(descriptor)
                running[child] = line
                line.sendall(b"%d\n" % child)


def _report(running: dict[int, socket.socket]) -> None:
    """Tell of each process that has ended how it ended."""
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        with running.pop(process) as line, contextlib.suppress(OSError):
            line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _load()
    gc.collect()
    gc.freeze()
    ordered, streams = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(ordered, streams)
    runpy.run_module(ordered["module"], run_name="__main__", alter_sys=True)
