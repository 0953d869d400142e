"""The one way in which this tool starts other programs.

A fixed locale and a scrubbed environment make their output and their behaviour the same on every machine: no `GIT_*`,
`PATCH_*`, `POSIXLY_CORRECT`, `QUILT_*` or `SIMPLE_BACKUP_SUFFIX` of the caller reaches them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from builder.util.errors import InputError, UnreachableError
from builder.util.redact import without_secrets

_KEPT = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
_GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_KEPT_PREFIXES = ("DOCKER_", "BUILDX_", "BUILDKIT_", "CONTAINERS_", "REGISTRY_AUTH")


class TimeLimitError(UnreachableError):
    """A program did not end in time."""


@dataclass(frozen=True)
class Finished:
    """A program that ended: its argument vector, exit code and what it printed."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def output(self) -> str:
        """Standard output and standard error as text, for messages."""
        return (self.stdout + self.stderr).decode("utf-8", "replace").strip()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The scrubbed environment of a child process, with `extra` on top."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept | {"LC_ALL": "C", "LANG": "C", "TZ": "UTC"} | dict(extra or {})


def find(program: str, *, hint: str) -> str:
    """The full path of `program`, or an `InputError` with `hint` when this machine does not have it."""
    found = shutil.which(program)
    if found is None:
        raise InputError(f"{program} is not installed", hint=hint)
    return found


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    extra_env: Mapping[str, str] | None = None,
    timeout: float = 600.0,
    inherited: Sequence[int] = (),
    most_processes: int | None = None,
) -> Finished:
    """Run a program to its end and return what came out, whatever its exit code; the caller judges it.

    `inherited` are file descriptors that the program keeps open, such as a lock's. Such a program is ended with this one,
    however that ends: else the lock would be held for as long as some server likes.
    `most_processes` is how many programs it may have running at once: git fetches what a fetch lacks by another fetch, which a
    server can make it repeat without an end.
    Raises `InputError` when the program does not exist, `TimeLimitError` when it does not end within `timeout` seconds or starts too many. A
    program that does not end, or is interrupted, is ended together with the programs that it has started.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=environment(extra_env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A group of its own: a helper such as git-remote-https would hold the pipes open and keep us waiting.
            start_new_session=True,
            pass_fds=inherited,
        )
    except OSError as error:
        raise InputError(f"cannot start {argv[0]}: {error.strerror}", hint=f"install {argv[0]}") from error
    with process:
        try:
            with _lifeline(process.pid) if inherited else nullcontext():
                out, err = _communicate(process, argv[0], stdin if stdin is not None else b"", timeout, most_processes)
        except subprocess.TimeoutExpired as error:
            raise TimeLimitError(
                f"{argv[0]} did not end within {timeout:g} s",
                details=[("command", without_secrets(" ".join(argv)))],
                hint="see whether the service that it talks to responds, then try again",
            ) from error
        finally:
            _end(process)
    return Finished(tuple(argv), process.returncode, out, err)


def _communicate(
    process: subprocess.Popen[bytes], program: str, stdin: bytes, timeout: float, most_processes: int | None
) -> tuple[bytes, bytes]:
    """Like `Popen.communicate`, looking now and then at how many programs the process has started."""
    if most_processes is None:
        return process.communicate(stdin, timeout=timeout)
    end = time.monotonic() + timeout
    while True:
        step = max(0.0, min(_LOOK_SECONDS, end - time.monotonic()))
        try:
            return process.communicate(stdin, timeout=step)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise
            if _session_size(process.pid) > most_processes:
                raise TimeLimitError(
                    f"{program} started more than {most_processes} programs",
                    hint="the server that it talks to sends it in circles: check the address",
                ) from None


def _session_size(session: int) -> int:
    """How many processes a session has. Its leader's id is its own; sixth field of proc_pid_stat(5)."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            found += int(path.read_text(errors="replace").rpartition(")")[2].split()[3]) == session
    return found


@contextmanager
def _lifeline(group: int) -> Iterator[None]:
    """End a program and those that it has started when this process is gone, even by SIGKILL.

    A shell waits for the end of a pipe whose other end is ours alone. Linux's PR_SET_PDEATHSIG would reach git, and not
    the git-remote-https that git has started: that one goes on, and keeps the lock.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", 'read -r line; kill -KILL "-$1"', "sh", str(group)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with watcher:
        try:
            yield
        finally:
            watcher.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what still runs: asked first, then forced."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE_SECONDS)
            return
