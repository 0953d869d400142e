"""The one way in which this tool starts other programs.

A fixed locale and a scrubbed environment make their output and their behaviour the same on every machine: no `GIT_*`,
`PATCH_*`, `POSIXLY_CORRECT`, `QUILT_*` or `SIMPLE_BACKUP_SUFFIX` of the caller reaches them.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.util.errors import InputError, UnreachableError
from builder.util.redact import without_secrets

_KEPT = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
_GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_READ_BYTES = 256 << 10
_IN_MEMORY_BYTES = 32 << 20
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
    with starting(
        argv, cwd=cwd, stdin=stdin, extra_env=extra_env, timeout=timeout, inherited=inherited,
        most_processes=most_processes,
    ) as finish:  # fmt: skip
        return finish()


@contextmanager
def starting(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    extra_env: Mapping[str, str] | None = None,
    timeout: float = 600.0,
    inherited: Sequence[int] = (),
    most_processes: int | None = None,
) -> Iterator[Callable[[], Finished]]:
    """As `run`, for a program that works while something else is done: the value waits for its end and returns what came out.

    The time limit counts from the start. A program that still runs when the block ends is ended.
    """
    begun = time.monotonic()
    with _input(stdin) as source:
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=environment(extra_env),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # A group of its own: a helper such as git-remote-https would hold the pipes open and keep us waiting.
                start_new_session=True,
                pass_fds=inherited,
            )
        except OSError as error:
            raise InputError(f"cannot start {argv[0]}: {error.strerror}", hint=f"install {argv[0]}") from error

    def finish() -> Finished:
        try:
            out, err = _read_out(process, argv[0], begun, timeout, most_processes)
        except subprocess.TimeoutExpired as error:
            raise TimeLimitError(
                f"{argv[0]} did not end within {timeout:g} s",
                details=[("command", without_secrets(" ".join(argv)))],
                hint="see whether the service that it talks to responds, then try again",
            ) from error
        return Finished(tuple(argv), process.returncode, out, err)

    with process:
        try:
            with _lifeline(process.pid) if inherited else nullcontext():
                yield finish
        finally:
            _end(process)


@contextmanager
def _input(data: bytes | None) -> Iterator[IO[bytes] | int]:
    """Standard input as a file that has no name: a pipe passes 4 KiB at a time, and GNU patch copies it to a file first."""
    if not data:
        yield subprocess.DEVNULL
        return
    with _unnamed(len(data)) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        file.seek(0)
        yield file


def _unnamed(size: int) -> IO[bytes]:
    """In memory where the kernel has such files (Linux), for what is not large."""
    if size <= _IN_MEMORY_BYTES and hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.fdopen(os.memfd_create("input"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _read_out(
    process: subprocess.Popen[bytes], program: str, begun: float, timeout: float, most_processes: int | None
) -> tuple[bytes, bytes]:
    """What a process prints until it ends, looking now and then at how many programs it has started.

    `Popen.communicate` with a limit sleeps until it looks whether the process has ended: up to a millisecond too long after
    each short program. Here the kernel says so. Raises `subprocess.TimeoutExpired`.
    """
    end = begun + timeout
    assert process.stdout is not None and process.stderr is not None  # noqa: S101  both are pipes
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    open_ = set(parts)
    poll = select.poll()
    for number in open_:
        poll.register(number, select.POLLIN | select.POLLHUP)
    look = time.monotonic() + _LOOK_SECONDS
    while open_:
        now = time.monotonic()
        if now >= end:
            raise subprocess.TimeoutExpired(process.args, timeout)
        if most_processes is not None and now >= look:
            look = now + _LOOK_SECONDS
            if _session_size(process.pid) > most_processes:
                raise TimeLimitError(
                    f"{program} started more than {most_processes} programs",
                    hint="the server that it talks to sends it in circles: check the address",
                )
        for number, _ in poll.poll(1000 * ((end if most_processes is None else min(look, end)) - now)):
            data = os.read(number, _READ_BYTES)
            if data:
                parts[number].append(data)
            else:
                poll.unregister(number)
                open_.discard(number)
    _wait(process, end)
    out, err = (b"".join(each) for each in parts.values())
    return out, err


def _wait(process: subprocess.Popen[bytes], end: float) -> None:
    """Wait until a process ends, without sleeping where the kernel can say when it does (Linux)."""
    if process.poll() is None and hasattr(os, "pidfd_open"):
        with suppress(OSError):
            handle = os.pidfd_open(process.pid)
            try:
                waiting = select.poll()
                waiting.register(handle, select.POLLIN)
                waiting.poll(max(0.0, end - time.monotonic()) * 1000)
            finally:
                os.close(handle)
    process.wait(timeout=max(0.0, end - time.monotonic()))


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
