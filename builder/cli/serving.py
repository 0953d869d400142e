"""What `smoke` and `gate` are pointed at: a server that runs, or a recipe's image with a profile."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from builder.cli.console import Console
from builder.cli.start_options import StartOptions
from builder.documents.profile import load_profile, profile_path
from builder.oci.docker_cli import choose
from builder.pipeline.workspace import open_workspace
from builder.serve.configuration import configuration
from builder.serve.container import (
    Container,
    cache_for,
    default_profile,
    free_port,
    image_to_run,
    local_platform,
    locked_profile,
    model_source,
    startup_seconds,
)
from builder.serve.model import make_ready
from builder.serve.smoke.run import Wanted
from builder.serve.smoke.subject import AnyServer, Subject, running_container, started
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.project import project_folder

_SERVER_LIMIT = 60.0
_LIKE_AN_ADDRESS = re.compile(r"\w+:/+(.+)|([\w.-]+:\d+(?:/.*)?)")


def is_server(target: str) -> bool:
    """Whether `target` is the address of a server, and not a recipe. Raises `InputError` for one without http:// before it."""
    if target.lower().startswith(("http://", "https://")):
        return True
    match = _LIKE_AN_ADDRESS.fullmatch(target)
    if match is not None:
        raise InputError(
            f"{target!r} is neither a recipe nor the address of a server",
            hint=f"an address begins with http:// or https://, such as http://{match[1] or match[2]}",
        )
    return False


def open_server(
    url: str, profile: str | None, log_file: Path | None, container: str | None
) -> tuple[AbstractContextManager[Subject], Wanted, Path]:
    """A server that somebody else has started, by its address; what is wanted of it; and where results go."""
    path = None
    if profile is not None:
        path = profile_path(profile, project_folder() / "profiles")
    loaded = load_profile(path.absolute()) if path is not None else None
    wanted = Wanted(profile=loaded, limit=_SERVER_LIMIT, configuration=configuration(loaded))
    watched = tuple(text for each in (loaded.expect if loaded else ()) for text in each.log)
    if container is not None and log_file is not None:
        raise InputError("--log and --container are two logs of one server: name one")
    if container is not None:
        return running_container(url.rstrip("/").removesuffix("/v1"), container, watched), wanted, Path("dist/smoke")
    subject: Subject = AnyServer(url, log_file, watched)
    return nullcontext(subject), wanted, Path("dist/smoke")


def open_recipe(
    recipe: str,
    profile: str | None,
    arguments: tuple[str, ...],
    start: StartOptions,
    *,
    keep: bool,
    console: Console,
) -> tuple[AbstractContextManager[Subject], Wanted, Path]:
    """A recipe's image as a container of this machine's Docker, started when the result is entered and ended when it is left."""
    workspace = open_workspace(recipe, context=Context(console), make=False)
    lock = workspace.lock
    locked = locked_profile(lock, profile or default_profile(lock))
    limit = startup_seconds(lock)
    container = Container(
        image=image_to_run(lock, start.image),
        profile=locked,
        arguments=arguments,
        model=model_source(workspace.project, lock, start.model, context=workspace.context),
        cache=cache_for(lock, start.user),
        port=free_port() if start.network == "host" else None,
        gpus=start.gpus,
        network=start.network,
        user=start.user,
        read_only=start.read_only,
        startup_seconds=limit,
    )
    watched = tuple(text for each in locked.expect for text in each.log)
    wanted = Wanted(
        profile=locked,
        recipe=lock.name,
        limit=limit,
        configuration=configuration(locked, lock),
        vllm=lock.base.platforms[local_platform(lock)].distribution.version,
        changed={file.path: tuple(file.overlays) for file in lock.base.platforms[local_platform(lock)].files},
    )
    docker = choose().path
    make_ready(container.model, docker, podman=False, context=workspace.context)
    opening = started(container, docker, inputs=lock.inputs, watched=watched, keep=keep)
    return opening, wanted, workspace.project.dist / "smoke"
