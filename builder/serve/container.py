"""How a container of an image is started for a profile: one description for `run`, `smoke` and `deploy`."""

from __future__ import annotations

import json
import os
import platform as machine
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.checkpoint.artifact import pull, pulled_folder
from builder.documents.lock import Lock
from builder.documents.profile import Profile
from builder.documents.record import MODEL_FOLDER
from builder.image.tags import image_tags
from builder.serve.model import Model, ModelImage, recipe_image
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import cache_dir, sha256
from builder.util.project import Project

PORT = 8000
CACHE_FOLDER = "/cache"
# Every cache of vLLM 0.20.0 and of what it uses is below HOME, but for torch's, which is named after the user's login
# and fails for a user id that has none (getpass.getuser). One writable folder then serves any user on a read-only root.
CACHE_ENVIRONMENT = {
    "HOME": CACHE_FOLDER,
    "USER": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE_FOLDER}/torchinductor",
}
SHARED_MEMORY_GIB = 8
# Start-up with an empty cache: compiling and capturing, and reading the weights from a slow network disk.
_FIXED_SECONDS = 600
_BYTES_PER_SECOND = 100e6


def server_environment(profile: Profile) -> dict[str, str]:
    """The variables of a profile's container: where its caches are, then the profile's own."""
    return {**CACHE_ENVIRONMENT, **profile.env}


def stack_key(lock: Lock, platform: str) -> str:
    """12 hexadecimal digits of what is compiled: the base and each patched file. Profiles and checkpoints are not in it.

    vLLM keys its compile cache by its configuration and by the files that it traced, but not by every file that an
    overlay can change.
    """
    locked = lock.base.platforms[platform]
    content = [lock.base.digest, locked.manifest, *([file.path, file.after] for file in locked.files)]
    content += [[each.name, each.record] for each in locked.installed]
    return sha256(json.dumps(content, separators=(",", ":")).encode())[:12]


def cache_name(lock: Lock, platform: str) -> str:
    """The name of the cache volume of a stack."""
    return f"{lock.name}-cache-{stack_key(lock, platform)}"


def local_platform(lock: Lock) -> str:
    """The lock's platform that this machine's Docker runs, else the first one."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine.machine(), machine.machine())
    return next(
        (name for name in lock.base.platforms if name.split("/")[1] == architecture), next(iter(lock.base.platforms))
    )


def cache_for(lock: Lock, user: str | None) -> str:
    """What to mount as the cache: a volume, or for `user` (UID or UID:GID) a folder of theirs, since volumes are root's.

    Raises `InputError` when `user` is not a number: a name means something else in every image.
    """
    name = cache_name(lock, local_platform(lock))
    if user is None:
        return name
    uid, _, gid = user.partition(":")
    if not uid.isdigit() or not (gid or uid).isdigit():
        raise InputError(f"--user {user!r} is not UID or UID:GID", hint="numbers, such as 1000:1000")
    folder = cache_dir("serving", f"{name}-{uid}")
    if os.geteuid() == 0:
        os.chown(folder, int(uid), int(gid or uid))
    return str(folder)


def default_profile(lock: Lock) -> str:
    """The profile that is meant when none is named. Raises `InputError` when the lock has no default."""
    if lock.default_profile is not None:
        return lock.default_profile
    names = ", ".join(profile.name for profile in lock.profiles)
    raise InputError("which profile?", hint=f"{lock.name} has no default; it has: {names or 'none'}")


def image_to_run(lock: Lock, image: str | None, *, starting: bool = True) -> str:
    """The image that was named, else the name that a build gives the lock's. Raises `InputError` when it is to start and cannot."""
    if starting and image is None and lock.base.wheel:
        raise InputError(
            "an image on a wheel base does not run: it has the package's files and nothing else",
            hint="give the recipe an image for a base, such as vllm/vllm-openai:v0.20.0; or run another one: --image REF",
        )
    return image or f"{lock.name}:{image_tags(lock).immutable}"


def locked_profile(lock: Lock, name: str) -> Profile:
    """The locked profile. Raises `InputError` with the names that there are."""
    for profile in lock.profiles:
        if profile.name == name:
            return profile
    names = ", ".join(profile.name for profile in lock.profiles)
    raise InputError(f"{lock.name} has no profile {name!r}", hint=f"it has: {names or 'none'}")


def model_folder(
    project: Project, lock: Lock, given: Path | None, *, context: Context | None = None, reading: bool = True
) -> Path:
    """The checkpoint's folder: the one that was named, else the recipe's own.

    One that is an OCI artifact is pulled into the cache when there is a `context`; without `reading` its place is named only.
    Raises `InputError` when there is none.
    """
    checkpoint = lock.checkpoint
    if given is None and checkpoint is not None and checkpoint.oci is not None and context is not None:
        return pull(checkpoint.oci, checkpoint.digest, context=context) if reading else pulled_folder(checkpoint.digest)
    folder = given or (project.root / checkpoint.path if checkpoint and checkpoint.path else None)
    if folder is None:
        raise InputError("which checkpoint is to be served?", hint="name its folder: --model DIR")
    return folder.resolve()


def model_source(
    project: Project, lock: Lock, given: Path | None, *, context: Context | None = None, reading: bool = True
) -> Model:
    """What is mounted as the checkpoint: a folder as of `model_folder`, or the recipe's image. Raises `InputError` when there is none."""
    image = recipe_image(lock) if given is None else None
    return image or model_folder(project, lock, given, context=context, reading=reading)


def startup_seconds(lock: Lock) -> int:
    """How long a start may take before it has failed, in seconds, rounded up to ten: ten minutes, and 100 MB/s of weights."""
    size = sum(file.size for file in lock.checkpoint.files) if lock.checkpoint else 0
    return -(-int(_FIXED_SECONDS + size / _BYTES_PER_SECOND) // 10) * 10


def server_port(arguments: Sequence[str]) -> int:
    """The port that vLLM listens on with these arguments.

    Raises `InputError` for a port that is none.
    """
    found = str(PORT)
    for index, argument in enumerate(arguments):
        if argument == "--port" and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif argument.startswith("--port="):
            found = argument.split("=", 1)[1]
    if not found.isdigit() or not 0 < int(found) < 65536:
        raise InputError(f"--port {found!r} is not a port")
    return int(found)


def free_port() -> int:
    """A free port of this machine; the kernel picks it."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Container:
    """One container of an image that serves a profile.

    `model` is the checkpoint's folder on this machine or its image, `cache` a volume's name or a folder; `gpus` is what `docker run
    --gpus` takes (for podman `all` or `device=ID,ID`), or `none`; `port` is the one on this machine, None for any; `network` is Docker's.
    """

    image: str
    profile: Profile
    model: Model
    cache: str
    arguments: tuple[str, ...] = ()
    port: int | None = PORT
    gpus: str = "all"
    network: str | None = None
    user: str | None = None
    read_only: bool = False
    startup_seconds: int = _FIXED_SECONDS
    name: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    """What the caller sets beside the profile's variables, and instead of them."""
    podman: bool = False
    """Podman takes GPUs as CDI devices, and labels what it mounts where SELinux is on."""

    @property
    def inner_port(self) -> int:
        """The port that the server listens on. On the host's network it is the one of this machine."""
        return server_port([*self.profile.argv(), *self._flags()])

    def argv(self, docker: str, *, detach: bool = False) -> list[str]:
        """The whole `docker run`, ready for exec: no shell reads it."""
        words = [docker, "run", *(["--detach"] if detach else ["--rm"])]
        if self.name:
            words += ["--name", self.name]
        words += self._devices()
        words += ["--shm-size", f"{SHARED_MEMORY_GIB}g"]
        if self.network:
            words += ["--network", self.network]
        if self.network != "host":
            words += ["--publish", f"127.0.0.1:{self.port or ''}:{self.inner_port}"]
        if self.user:
            words += ["--user", self.user]
        if self.read_only:
            # Kernels that are compiled at run time are loaded from here: Docker's own default is noexec.
            words += ["--read-only", "--tmpfs", "/tmp:rw,exec,mode=1777"]  # noqa: S108
        words += ["--security-opt", "no-new-privileges"]
        words += self._model()
        words += ["--volume", f"{self.cache}:{CACHE_FOLDER}"]
        for name, text in {**server_environment(self.profile), **dict(self.environment)}.items():
            words += ["--env", f"{name}={text}"]
        words += [
            "--health-cmd", f"/opt/builder/serve health --port {self.inner_port}",
            "--health-interval", "10s", "--health-timeout", "6s", "--health-retries", "3",
            "--health-start-period", f"{self.startup_seconds}s",
        ]  # fmt: skip
        return [*words, self.image, self.profile.name, *self._flags()]

    def _model(self) -> list[str]:
        if isinstance(self.model, ModelImage):
            return ["--mount", self.model.mount(podman=self.podman)]
        return ["--volume", f"{self.model}:{MODEL_FOLDER}:ro"]

    def _devices(self) -> list[str]:
        if self.gpus == "none":
            return []
        if not self.podman:
            return ["--gpus", self.gpus]
        if not re.fullmatch(r"all|device=[\w:.-]+(?:,[\w:.-]+)*", self.gpus):
            raise InputError(
                f"--gpus {self.gpus!r} has no name among CDI's devices",
                hint="with podman: all, device=0, device=0,1, or none",
            )
        devices = self.gpus.removeprefix("device=").split(",")
        return [
            *(word for each in devices for word in ("--device", f"nvidia.com/gpu={each}")),
            "--security-opt",
            "label=disable",
        ]

    def _flags(self) -> tuple[str, ...]:
        """The caller's flags; on the host's network nothing maps the port, so the server is told."""
        named = any(each == "--port" or each.startswith("--port=") for each in self.arguments)
        if self.network == "host" and self.port is not None and not named:
            return (*self.arguments, "--port", str(self.port))
        return self.arguments
