"""The `docker` engine: `docker build` on the rendered context, with a command line that works."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError
from builder.util.process import run

_TAIL = 25


@dataclass(frozen=True)
class DockerCli:
    """A docker command line, its version, and the builder that it can use."""

    path: str
    version: str
    buildkit: bool

    @property
    def builder(self) -> str:
        return "BuildKit" if self.buildkit else "the classic builder"


def candidates() -> list[str]:
    """Every `docker` on the PATH, in its order; `BUILDER_DOCKER` names one and ends the search."""
    chosen = os.environ.get("BUILDER_DOCKER")
    if chosen:
        return [chosen]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found: list[str] = []
    for folder in folders:
        path = Path(folder or ".") / "docker"
        if (
            path.is_file()
            and os.access(path, os.X_OK)
            and path.resolve() not in [Path(each).resolve() for each in found]
        ):
            found.append(str(path))
    return found


def inspect(path: str) -> DockerCli | None:
    """What a command line can do; None when it cannot talk to the daemon.

    BuildKit is part of command lines before 23; later ones need the buildx plugin for it and fail without.
    """
    try:
        asked = run([path, "version", "--format", "{{.Client.Version}} {{.Server.Version}}"], timeout=60)
    except InputError:
        # What BUILDER_DOCKER names does not start.
        return None
    match = re.match(r"(\d+)\.(\S+) \S+", asked.stdout.decode("utf-8", "replace"))
    if asked.returncode != 0 or match is None:
        return None
    buildkit = int(match[1]) < 23 or run([path, "buildx", "version"], timeout=60).returncode == 0
    return DockerCli(path, f"{match[1]}.{match[2]}", buildkit)


def choose() -> DockerCli:
    """The first command line that has BuildKit, else the first that works at all."""
    found = [cli for cli in map(inspect, candidates()) if cli is not None]
    if not found:
        raise UnreachableError(
            "no docker command line here can talk to the daemon",
            details=[("tried", ", ".join(candidates()) or "nothing: there is no docker on the PATH")],
            hint=_without_daemon(),
        )
    return next((cli for cli in found if cli.buildkit), found[0])


def _without_daemon() -> str:
    if os.environ.get("BUILDER_DOCKER"):
        return "see that BUILDER_DOCKER names a docker command line, and that its daemon runs"
    if candidates():
        return "start the daemon (systemctl start docker), or set DOCKER_HOST to another one"
    return "install docker (Debian: apt-get install docker.io)"


def build(
    folder: Path, tags: Sequence[str], *, platform: str, context: Context, cli: DockerCli | None = None
) -> tuple[str, DockerCli]:
    """Build the context in `folder` and tag the image; its id, and the command line that built it.

    Raises `UnreachableError` with the end of the output when the build fails.
    """
    cli = cli or choose()
    context.console.say(f"building with {cli.path} {cli.version} and {cli.builder}")
    with tempfile.TemporaryDirectory(prefix="builder-docker-") as temporary:
        iid = Path(temporary) / "iid"
        # The one command that the build may run removes files: it needs no network, and gets none.
        command = [cli.path, "build", "--network=none", "--iidfile", str(iid), *(f"--tag={tag}" for tag in tags)]
        if cli.buildkit:
            # Not with the classic builder, which takes --platform only from experimental daemons.
            command.append(f"--platform={platform}")
        command.append(str(folder))
        done = run(command, extra_env={"DOCKER_BUILDKIT": "1" if cli.buildkit else "0"}, timeout=3600)
        context.console.detail(done.output)
        if done.returncode != 0 or not iid.is_file():
            raise UnreachableError(
                "docker build failed",
                details=[("command", " ".join(command)), ("said", "\n".join(done.output.splitlines()[-_TAIL:]))],
                hint="the last lines say why; `builder render RECIPE --output DIR` writes the context to look at",
            )
        return iid.read_text().strip(), cli
