"""What is under test: a container that this run has started, one that runs already, or a server anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from builder.documents.verdict import ImageIdentity
from builder.image.labels import INPUTS_LABEL, RECORD_LABEL
from builder.oci.daemon import daemon
from builder.serve.container import Container, server_port
from builder.serve.smoke import gpu as gpus
from builder.serve.smoke.gpu import Gpu
from builder.serve.startup_log import StartupLog
from builder.util.errors import InputError, MismatchError, UnreachableError
from builder.util.files import unreadable
from builder.util.process import run

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container as DockerContainer


_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STOP_SECONDS = 10


class Subject(Protocol):
    """A server with what can be known about it from outside."""

    url: str
    image: ImageIdentity | None
    command: tuple[str, ...] | None

    def ended(self) -> str | None:
        """How the server ended, None while it runs (or when that cannot be seen)."""

    def log(self) -> StartupLog | None:
        """What the log has said so far, None when there is none at hand."""

    def log_text(self) -> str: ...

    def gpu(self) -> Gpu | None:
        """The GPU that it runs on, with the memory that is free now."""

    def image_now(self) -> ImageIdentity | None:
        """The image that runs there now: another one when the container was made anew. None when that cannot be seen."""


class AnyServer:
    """A server that somebody else has started. `log_file` is its log, when there is one."""

    def __init__(self, url: str, log_file: Path | None, watched: tuple[str, ...]) -> None:
        self.url = url
        self.image: ImageIdentity | None = None
        self.command: tuple[str, ...] | None = None
        self._log_file = log_file
        self._watched = watched

    def ended(self) -> str | None:
        return None

    def image_now(self) -> ImageIdentity | None:
        return None

    def log_text(self) -> str:
        if self._log_file is None:
            return ""
        try:
            return self._log_file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise unreadable(f"the log {self._log_file}", error) from error

    def log(self) -> StartupLog | None:
        if self._log_file is None:
            return None
        log = StartupLog(watched=self._watched)
        log.feed(self.log_text())
        return log

    def gpu(self) -> Gpu | None:
        """This machine's GPU, for a server on this machine."""
        if urlsplit(self.url).hostname not in _LOOPBACK:
            return None
        try:
            done = run(gpus.QUERY, timeout=20)
        except (InputError, UnreachableError):
            return None
        return gpus.parse(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else None


class ContainerServer:
    """A server in a container of this machine's Docker, whose log is followed by a thread."""

    def __init__(self, url: str, container: DockerContainer, watched: tuple[str, ...]) -> None:
        self.url = url
        self.image: ImageIdentity | None = identify(container.image, container.attrs["Config"]["Image"])
        self.command: tuple[str, ...] | None = without_keys(container.attrs["Config"]["Cmd"] or ())
        self.name = str(container.name)
        self._container = container
        self._log = StartupLog(watched=watched)
        self._chunks: list[str] = []
        self._lock = threading.Lock()
        self._stream = container.logs(stream=True, follow=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        """Feed whole lines: the daemon splits its output anywhere."""
        rest = b""
        # The connection is closed when the container goes: whatever is raised then, the log ends here.
        with suppress(Exception):
            for chunk in self._stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line)
        self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        with self._lock:
            self._chunks.append(text)
            self._log.feed(text)

    def ended(self) -> str | None:
        from docker.errors import NotFound

        try:
            self._container.reload()
        except NotFound:
            return "the container is gone"
        state = self._container.attrs["State"]
        if state["Status"] not in ("exited", "dead"):
            return None
        # Its last lines say why: wait for them.
        self._thread.join(5)
        killed = ", out of the machine's memory" if state.get("OOMKilled") else ""
        return f"the container ended with exit code {state['ExitCode']}{killed}"

    def image_now(self) -> ImageIdentity | None:
        from docker.errors import NotFound

        try:
            self._container.reload()
            return identify(self._container.image, self._container.attrs["Config"]["Image"])
        except NotFound:
            return None

    def log(self) -> StartupLog | None:
        with self._lock:
            return self._log

    def log_text(self) -> str:
        with self._lock:
            return "\n".join(self._chunks)

    def gpu(self) -> Gpu | None:
        from docker.errors import APIError

        try:
            code, output = self._container.exec_run(list(gpus.QUERY))
        except APIError:
            return None
        said = output if isinstance(output, bytes) else b"".join(output)
        return gpus.parse(said.decode("utf-8", "replace")) if code == 0 else None


def identify(image: Any, reference: str) -> ImageIdentity:
    """What the daemon knows of an image that was named `reference`, and what its labels tie it to."""
    labels = image.labels or {}
    digests = [name.split("@", 1)[1] for name in image.attrs.get("RepoDigests") or () if "@" in name]
    return ImageIdentity(
        reference=reference,
        digest=digests[0] if digests else image.id,
        id=image.id,
        inputs=labels.get(INPUTS_LABEL),
        record=labels.get(RECORD_LABEL),
    )


@contextmanager
def started(
    container: Container, docker: str, *, inputs: str | None, watched: tuple[str, ...], keep: bool
) -> Iterator[ContainerServer]:
    """Start a container and end it again, whatever happens. With `keep` it runs on when the block ends well.

    Raises `MismatchError` when the image was not built from the lock `inputs`, `UnreachableError` when Docker refuses.
    """
    from docker.errors import ImageNotFound

    with daemon() as client:
        try:
            found = identify(client.images.get(container.image), container.image)
        except ImageNotFound as error:
            raise InputError(
                f"Docker has no image {container.image}",
                hint="`builder build RECIPE` builds it; or name one with --image",
            ) from error
        if inputs is not None and found.inputs != f"sha256:{inputs}":
            raise MismatchError(
                f"{container.image} was not built from this lock",
                details=[("wanted", f"sha256:{inputs}"), ("found", str(found.inputs))],
                hint="build it again",
            )
        done = run(container.argv(docker, detach=True), timeout=120)
        name = done.stdout.decode().strip()
        if done.returncode != 0:
            _remove(client, name)
            raise UnreachableError(
                "Docker cannot start the container",
                details=[("why", done.stderr.decode("utf-8", "replace").strip()[-600:])],
                hint="a machine without a GPU, or without the NVIDIA container toolkit, needs --gpus none",
            )
        kept = False
        try:
            running = client.containers.get(name)
            yield ContainerServer(_address(running, container), running, watched)
            kept = keep
        finally:
            if not kept:
                _remove(client, name)


def _address(running: DockerContainer, container: Container) -> str:
    """Where the server listens, as seen from this machine."""
    if container.network == "host":
        return f"http://127.0.0.1:{container.inner_port}"
    bindings = running.attrs["NetworkSettings"]["Ports"].get(f"{container.inner_port}/tcp")
    if not bindings:
        running.reload()
        bindings = running.attrs["NetworkSettings"]["Ports"].get(f"{container.inner_port}/tcp")
    if not bindings:
        raise UnreachableError("Docker has not published the server's port", hint="try --network host")
    return f"http://127.0.0.1:{bindings[0]['HostPort']}"


def _remove(client: DockerClient, name: str) -> None:
    from docker.errors import APIError

    if name:
        with suppress(APIError):
            found = client.containers.get(name)
            found.stop(timeout=_STOP_SECONDS)
            found.remove(force=True, v=False)


@contextmanager
def running_container(url: str, name: str, watched: tuple[str, ...]) -> Iterator[ContainerServer]:
    """A container that somebody else has started.

    Raises `InputError` when Docker does not have it, or when it is not the one behind `url`.
    """
    from docker.errors import NotFound

    with daemon() as client:
        try:
            found = client.containers.get(name)
        except NotFound as error:
            raise InputError(f"Docker has no container {name}", hint="docker ps") from error
        check_serves(url, name, found.attrs)
        yield ContainerServer(url, found, watched)


def without_keys(command: Sequence[str]) -> tuple[str, ...]:
    """A command without the values of `--api-key`, of which vLLM takes several: verdicts and pages show the rest."""
    found, secret = [], False
    for each in command:
        if each.startswith("-"):
            flag, equals, _ = each.partition("=")
            secret = flag == "--api-key"
            found.append(f"{flag}=***" if secret and equals else each)
        else:
            found.append("***" if secret else each)
    return tuple(found)


def check_serves(url: str, name: str, attributes: Mapping[str, Any]) -> None:
    """Raise `InputError` unless `url` leads to the container with these attributes, as `docker inspect` gives them.

    What is said of the image is only worth something when it is the image that responds. A port of this machine leads to a
    container that publishes it, or that has the host's network and listens on it; a container's own address leads to it.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme, 80)
    networks = attributes["NetworkSettings"].get("Networks") or {}
    listens = server_port(attributes["Config"].get("Cmd") or ())
    reached = {(each.get("IPAddress") or "", listens) for each in networks.values()}
    if _is_here(host):
        published = attributes["NetworkSettings"].get("Ports") or {}
        reached |= {(host, int(each["HostPort"])) for bindings in published.values() for each in bindings or ()}
        if attributes["HostConfig"].get("NetworkMode") == "host":
            reached.add((host, listens))
    if (host, port) not in reached:
        ways = sorted(f"{place}:{number}" for place, number in reached if place)
        raise InputError(
            f"the container {name} is not what responds at {host}:{port}",
            details=[("reached", ", ".join(ways) or "nowhere from here")],
            hint="name the container's own address and port, or leave --container out",
        )


def _is_here(host: str) -> bool:
    """Whether a name or address is one of this machine's."""
    import socket

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            probe.bind((found[0][4][0], 0))
    except OSError:
        return False
    return True
