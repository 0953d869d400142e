"""The one way in which this tool starts other programs.

A fixed locale and a scrubbed environment make their output and their behaviour the same on every machine: no `GIT_*`,
`PATCH_*`, `POSIXLY_CORRECT`, `QUILT_*` or `SIMPLE_BACKUP_SUFFIX` of the caller reaches them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
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
) -> Finished:
    """Run a program to its end and return what came out, whatever its exit code; the caller judges it.

    `inherited` are file descriptors that the program keeps open, such as a lock's. Such a program is ended with this one,
    however that ends: else the lock would be held for as long as some server likes.
    Raises `InputError` when the program does not exist, `TimeLimitError` when it does not end within `timeout` seconds. A
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
                out, err = process.communicate(stdin if stdin is not None else b"", timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeLimitError(
                f"{argv[0]} did not end within {timeout:g} s",
                details=[("command", without_secrets(" ".join(argv)))],
                hint="see whether the service that it talks to responds, then try again",
            ) from error
        finally:
            _end(process)
    return Finished(tuple(argv), process.returncode, out, err)


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
