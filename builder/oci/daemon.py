"""The Docker daemon: whether it responds, which images it has, and bringing an image into it with its own digest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.documents.reference import Platform
from builder.net.trouble import UNKNOWN, reason
from builder.oci.archive import choose_manifest, write_archive
from builder.oci.document import read_manifest
from builder.oci.layout import Layout
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.errors import MismatchError, UnreachableError

if TYPE_CHECKING:
    from docker import DockerClient


_TIMEOUT = 600


@contextmanager
def daemon(timeout: int = _TIMEOUT) -> Iterator[DockerClient]:
    """A client of the daemon that `DOCKER_HOST` names, or the local one. Raises `UnreachableError` when none responds."""
    import docker
    import requests
    from docker.errors import DockerException

    where = os.environ.get("DOCKER_HOST") or "the local socket"
    client = None
    try:
        client = docker.from_env(timeout=timeout)
        client.ping()
    except (DockerException, requests.RequestException) as error:
        if client is not None:
            client.close()
        denied = "Permission denied" in str(error)
        known = reason(error)
        raise UnreachableError(
            "Docker does not respond",
            details=[("where", where), ("why", str(error).split("\n")[0][:300] if known == UNKNOWN else known)],
            hint="you may not use the socket: join the group docker, or use sudo"
            if denied
            else "start the daemon, or set DOCKER_HOST",
        ) from error
    try:
        yield client
    except requests.RequestException as error:
        raise UnreachableError(
            f"Docker stopped responding: {reason(error)}",
            details=[("where", where)],
            hint="look at the daemon's log",
        ) from error
    finally:
        client.close()


def responds() -> bool:
    """Whether a daemon responds, without waiting long for one that does not."""
    try:
        with daemon(timeout=5):
            return True
    except UnreachableError:
        return False


def has_image(client: DockerClient, name: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


def load(
    layout: Layout,
    top: Descriptor,
    names: Sequence[str],
    platform: Platform,
    *,
    context: Context,
    base: str | None = None,
) -> str:
    """Load one image of `layout` under `names` and return its id, which is its own digest.

    When the layout lacks the base's layers, `base` is the registry's name for it, and the daemon pulls it first.
    Raises `MismatchError` when the daemon ends up with another image than the one that was built.
    """
    from docker.errors import APIError, ImageNotFound

    chosen = choose_manifest(layout, top, platform)
    manifest = read_manifest(layout.read(chosen), f"manifest {chosen.digest}")
    config = manifest.config.digest
    missing = [each for each in manifest.layers if not layout.blob_path(each.digest).is_file()]
    with daemon() as client, tempfile.TemporaryDirectory(prefix="builder-load-") as folder:
        if missing and base is not None and not has_image(client, base):
            context.console.say(f"Docker does not have the base yet: pulling {base}")
            try:
                client.images.pull(base)
            except (APIError, ImageNotFound) as error:
                raise UnreachableError(
                    f"Docker cannot pull {base}",
                    details=[("why", str(error.explanation or error))],
                    hint="log in with `docker login`, or build with --with-base",
                ) from error
        archive = Path(folder) / "image.tar"
        write_archive(archive, layout, top, names, platform, skip_missing=bool(missing))
        try:
            with archive.open("rb") as stream:
                client.images.load(stream)
            found = {client.images.get(name).id for name in names}
        except (APIError, ImageNotFound) as error:
            raise UnreachableError(
                "Docker refused the image", details=[("why", str(error))], hint="build with --with-base and try again"
            ) from error
    # An engine with the classic store names an image by its config, one with the containerd store by its manifest.
    if not found <= {config, chosen.digest}:
        raise MismatchError(
            "Docker has another image than the one that was built",
            details=[("wanted", f"{config} or {chosen.digest}"), ("found", ", ".join(sorted(map(str, found))))],
            hint="this engine changes images as it loads them: push to a registry instead",
        )
    return str(next(iter(found)))
