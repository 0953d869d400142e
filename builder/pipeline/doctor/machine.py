"""What this machine has: programs, Docker, a GPU, room on its disks. No server is asked."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from builder.oci.daemon import daemon
from builder.oci.docker_cli import candidates, inspect
from builder.patch import gnupatch
from builder.pipeline.doctor.model import Finding
from builder.util.errors import EXIT_INPUT, BuilderError, UnreachableError
from builder.util.files import CacheError, cache_dir
from builder.util.process import run

_PYTHON = ((3, 11), (3, 13))
_GIT = (2, 32)
_ENOUGH = 1 << 30
"""Bytes that a folder should have free: an image without its base takes less than a tenth of it."""
_SECONDS = 20


def machine(folder: Path, *, wants_git: bool) -> Iterator[Finding]:
    """Everything local. `wants_git`: whether a recipe has a pull request, which git fetches where the API does not."""
    yield _python()
    yield _patch()
    yield _git(wanted=wants_git)
    yield from _docker()
    yield _podman()
    yield _gpu()
    yield from _disks(folder)


def _python() -> Finding:
    found = f"{platform.python_version()}, {platform.platform()}"
    if not _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]:
        return Finding("Python", "problem", found, "use Python 3.11 to 3.13: make PYTHON=python3.12 setup", EXIT_INPUT)
    return Finding("Python", "ok", found)


def _patch() -> Finding:
    try:
        path = gnupatch.program()
    except BuilderError as error:
        return Finding("GNU patch", "problem", error.message, error.hint or "", EXIT_INPUT)
    return Finding("GNU patch", "ok", f"{_first_line([path, '--version'])} at {path}")


def _git(*, wanted: bool) -> Finding:
    path = shutil.which("git")
    hint = "install git 2.32 or newer (Debian: apt-get install git)"
    if path is None:
        text = "there is none: pull requests come by GitHub's API alone"
        return Finding("git", "note", text, hint if wanted else "")
    said = _first_line([path, "--version"])
    match = re.search(r"(\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < _GIT:
        return Finding("git", "note", f"{said} is too old to fetch pull requests", hint)
    return Finding("git", "ok", said)


def _docker() -> Iterator[Finding]:
    try:
        with daemon(timeout=_SECONDS) as client:
            found = client.version()
            text = f"daemon {found.get('Version')} for {found.get('Os')}/{found.get('Arch')}"
            yield Finding("Docker", "ok", text)
    except UnreachableError as error:
        why = dict(error.details).get("why", error.message)
        hint = f"{error.hint}; builds do without it, runs do not"
        yield Finding("Docker", "note", f"does not respond: {why}", hint)
        return
    found_here = [cli for cli in map(inspect, candidates()) if cli is not None]
    if not found_here:
        yield Finding("docker command", "note", "none can talk to the daemon", "apt-get install docker.io, for example")
    elif not any(cli.buildkit for cli in found_here):
        yield Finding(
            "buildx", "note", f"{found_here[0].path} has no BuildKit: images are built by the classic builder",
            "install the plugin docker-buildx",
        )  # fmt: skip
    else:
        cli = next(each for each in found_here if each.buildkit)
        yield Finding("buildx", "ok", f"{cli.path} {cli.version} with BuildKit")


def _podman() -> Finding:
    path = shutil.which("podman")
    if path is None:
        return Finding("podman", "note", "there is none, and nothing needs it where Docker responds")
    return Finding("podman", "ok", _first_line([path, "--version"]))


def _gpu() -> Finding:
    for program, arguments in (
        ("nvidia-smi", ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]),
        ("amd-smi", ["version"]),
    ):
        if (path := shutil.which(program)) is not None:
            try:
                done = run([path, *arguments], timeout=_SECONDS)
            except BuilderError as error:
                return Finding("GPU", "note", error.message, "see the driver; builds need no GPU")
            lines = done.output.strip().splitlines()
            if done.returncode == 0 and lines:
                return Finding("GPU", "ok", "; ".join(lines[:8]))
            said = lines[0] if lines else f"exit code {done.returncode}"
            return Finding("GPU", "note", f"{program} fails: {said}", "see the driver; builds need no GPU")
    return Finding(
        "GPU",
        "note",
        "there is none here",
        "builds need none; `builder profile fit RECIPE PROFILE --gpu GPU` estimates for another",
    )


def _disks(folder: Path) -> Iterator[Finding]:
    places = {"this folder": folder, "temporary files": Path(tempfile.gettempdir())}
    try:
        places["the cache"] = cache_dir("content").parent
    except CacheError as error:
        yield Finding("cache", "problem", error.message, error.hint or "", EXIT_INPUT)
    for name, path in places.items():
        free = shutil.disk_usage(path).free
        text = f"{name}: {free / (1 << 30):,.1f} GiB free at {path}"
        if free < _ENOUGH:
            hint = {"the cache": "make room, or set BUILDER_CACHE_DIR", "temporary files": "make room, or set TMPDIR"}
            yield Finding("disk", "problem", text, hint.get(name, "make room"), EXIT_INPUT)
        else:
            yield Finding("disk", "ok", text)


def _first_line(command: list[str]) -> str:
    try:
        lines = run(command, timeout=_SECONDS).output.strip().splitlines()
    except BuilderError as error:
        return error.message
    return lines[0] if lines else "it says nothing"
