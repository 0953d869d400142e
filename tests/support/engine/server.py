"""Start and stop the real engine on this machine's CPU, from unpacked packages: no Docker, no root."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from builder.serve.container import free_port

# What lets vLLM for CPUs start with little memory, no network and no compiler.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCH_COMPILE_DISABLE": "1",
}
PROGRAM = """\
#!{python}
import sys

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""
FLAGS = (
    "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8", "--reasoning-parser",
    "qwen3", "--enable-auto-tool-choice", "--tool-call-parser", "qwen3_coder",
)  # fmt: skip
_START_SECONDS = 900


def interpreter() -> str:
    """The Python that this virtual environment was made from: its own packages must not be seen by the engine."""
    return str(getattr(sys, "_base_executable", sys.executable))


def environment(packages: Sequence[Path], work: Path) -> dict[str, str]:
    """The environment of an engine whose packages are in `packages`, the first one first; it writes below `work`."""
    program = work / "bin" / "vllm"
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM.format(python=interpreter()))
        program.chmod(0o755)
    kept = {name: os.environ[name] for name in ("LANG", "TERM") if name in os.environ}
    return {
        **kept, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, packages)), "HOME": str(work),
        "PATH": f"{program.parent}:/usr/local/bin:/usr/bin:/bin", "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip


@dataclass
class Running:
    """A server that was started here."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self) -> int | None:
        return self.process.poll()


@contextmanager
def serving(command: Sequence[str], *, env: Mapping[str, str], log: Path, port: int | None = None) -> Iterator[Running]:
    """Run `command` with `--port N` behind it in a process group of its own; ended, with its workers, at the end.

    Not waited for: see `healthy`.
    """
    port = port or free_port()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=stream,
            stderr=stream,
            env=dict(env),
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield Running(f"http://127.0.0.1:{port}", log, process)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], seconds: float = 60) -> float:
    """End a server as Docker does, by SIGTERM, and its group when it does not end; how long it took, in seconds."""
    begun = time.monotonic()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return time.monotonic() - begun


def healthy(server: Running, seconds: float = _START_SECONDS) -> bool:
    """Wait until the server answers; False when it has ended before."""
    end = time.monotonic() + seconds
    while server.ended() is None:
        try:
            if requests.get(f"{server.url}/health", timeout=5).ok:
                return True
        except requests.RequestException:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"not healthy within {seconds:g} s: {shlex.join(map(str, server.process.args))}")  # type: ignore[arg-type]
        time.sleep(0.5)
    return False
