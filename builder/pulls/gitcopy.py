"""The bare copy of a repository in the cache, and a git that nothing of the user's reaches: configuration, hooks, attributes."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from builder.pulls.access import github_url
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError
from builder.util.files import cache_dir
from builder.util.process import run

# GIT_CONFIG_COUNT came with git 2.31, GIT_CONFIG_GLOBAL with 2.32 (Documentation/RelNotes).
_OLDEST = (2, 32)
_TOLD_AFTER = 1.0
"""Seconds of waiting for another run before the user is told: most end sooner."""
_ALWAYS = {
    # What was fetched by its commit alone is under no ref: git would throw it away.
    "gc.auto": "0",
    "maintenance.auto": "false",
    # $XDG_CONFIG_HOME/git/attributes is read though no configuration is.
    "core.attributesFile": os.devnull,
    "core.hooksPath": os.devnull,
    "protocol.allow": "never",
}


def bare_copy(repository: str) -> Path:
    """The folder of the bare copy, made when it does not exist: under another name first, so that it is whole or absent.

    Raises `InputError` when the cache cannot be written.
    """
    place = urlsplit(github_url()).netloc.rpartition("@")[2] or "local"
    folder = cache_dir("git") / re.sub(r"[^A-Za-z0-9.-]", "_", f"{place}-{repository}.git")
    if folder.is_dir():
        return folder
    message = ""
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
            new = Path(name) / "new"
            # Without a template: the user's may have hooks, and attributes that change a diff.
            made = run(["git", "init", "--quiet", "--bare", "--template=", str(new)], extra_env=environment({}))
            message = made.output
            if made.returncode == 0:
                # For somebody who runs git in this folder: a commit that was fetched by its id is under no ref, and is not
                # garbage.
                made = run(["git", "config", "--file", str(new / "config"), "gc.auto", "0"], extra_env=environment({}))
                message = made.output
            if made.returncode == 0:
                with suppress(OSError):  # another run made it first
                    new.rename(folder)
    except OSError as error:
        message = str(error)
    if not folder.is_dir():
        raise InputError(
            f"git cannot make a repository in {folder.parent}", details=[("message", message[-600:])],
            hint="set BUILDER_CACHE_DIR to a writable folder with room",
        )  # fmt: skip
    return folder


@cache
def check_version(program: str) -> None:
    """Raises `UnreachableError` for a git that is too old: the API alone may still have it."""
    version = run([program, "--version"], extra_env=environment({})).output
    found = re.search(r"git version (\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        raise UnreachableError(
            f"git is older than {wanted}", details=[("found", f"{program}: {version[:200]}")],
            hint=f"install git {wanted} or later",
        )  # fmt: skip


@contextmanager
def alone(folder: Path, context: Context) -> Iterator[int]:
    """Keep other runs of this tool away from a bare copy; the handle keeps them away as long as a child has it.

    A lock file of git's that is found now was left by a killed git, and would block the copy for ever. Raises
    `UnreachableError` when another run has the copy for longer than an exchange may take.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(handle, folder, context)
        for stale in (*folder.glob("*.lock"), *folder.glob("refs/**/*.lock"), *folder.glob("objects/**/*.lock")):
            stale.unlink(missing_ok=True)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, context: Context) -> None:
    clock, told, limit = context.limits.clock, False, context.limits.exchange
    begun = clock.elapsed()
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            waited = clock.elapsed() - begun
            if waited > limit:
                raise UnreachableError(
                    f"another run has had {folder} for {limit:g} s",
                    hint="wait until it ends, or end it; another BUILDER_CACHE_DIR has its own copy",
                ) from error
            if waited > _TOLD_AFTER and not told:
                told = True
                context.console.warn(f"waiting for another run that uses {folder}, up to {limit:g} s")
            clock.sleep(0.02)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """git without the user's configuration, attributes, hooks and prompts; settings in the environment are in no file and
    no `ps`."""
    settings = {**_ALWAYS, **settings}
    pairs = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        pairs |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    return {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        **pairs,
    }
