"""Where a server's checkpoint comes from: a folder of the machine, or an OCI image that the engine mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.documents.lock import Lock
from builder.documents.record import MODEL_FOLDER
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError
from builder.util.process import run

_API = (1, 48)
"""Docker 28: the first engine that mounts images."""
_PODMAN_FOLDERS = (5, 4)
"""The oldest podman whose image mounts are known here to take `subpath`; 4.3 does not."""
_PULL_SECONDS = 86400.0


@dataclass(frozen=True)
class ModelImage:
    """A checkpoint that is an OCI image: REF@DIGEST, and the folder in it that has the files, None for its root."""

    reference: str
    folder: str | None = None

    def mount(self, *, podman: bool) -> str:
        """What `--mount` takes: podman wants the folder from the image's root, Docker relative to it."""
        name = "subpath=/" if podman else "image-subpath="
        return ",".join(
            [f"type=image,source={self.reference},target={MODEL_FOLDER}", *([f"{name}{self.folder}"] if self.folder else ())]
        )  # fmt: skip


def pod_volume(image: ModelImage | None, claim: str) -> dict[str, Any]:
    """A pod's volume with the checkpoint: its image, for Kubernetes 1.33 and newer, else a claim that exists."""
    if image is not None:
        return {"name": "model", "image": {"reference": image.reference, "pullPolicy": "IfNotPresent"}}
    return {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def pod_mount(image: ModelImage | None) -> dict[str, Any]:
    """Where a container of that pod has it."""
    mount = {"name": "model", "mountPath": MODEL_FOLDER, "readOnly": True}
    return {**mount, "subPath": image.folder} if image is not None and image.folder else mount


Model = Path | ModelImage


def recipe_image(lock: Lock) -> ModelImage | None:
    """The image that is the recipe's checkpoint; None for another source, or for an artifact, whose files are pulled."""
    checkpoint = lock.checkpoint
    if checkpoint is None or checkpoint.oci is None or checkpoint.files:
        return None
    return ModelImage(checkpoint.oci, checkpoint.folder)


def make_ready(model: Model, program: str, *, podman: bool, context: Context) -> None:
    """Pull an image that is to be mounted: engines do not do it for a mount.

    Raises `InputError` when the engine cannot mount it, `UnreachableError` when it cannot be pulled.
    """
    if not isinstance(model, ModelImage):
        return
    _check(program, model, podman=podman)
    if run([program, "image", "inspect", model.reference], timeout=60).returncode == 0:
        return
    context.console.say(f"pulling {model.reference}")
    done = run([program, "pull", "--quiet", model.reference], timeout=_PULL_SECONDS)
    if done.returncode != 0:
        raise UnreachableError(
            f"the checkpoint's image cannot be pulled: {model.reference}",
            details=[("why", done.stderr.decode("utf-8", "replace").strip()[-600:])],
            hint="log in to the registry, or name a folder: --model DIR",
        )


def _check(program: str, model: ModelImage, *, podman: bool) -> None:
    what = "{{.Client.Version}}" if podman else "{{.Server.APIVersion}}"
    done = run([program, "version", "--format", what], timeout=60)
    said = done.stdout.decode("utf-8", "replace").strip()
    found = re.match(r"(\d+)\.(\d+)", said)
    if done.returncode != 0 or found is None:
        raise UnreachableError(
            f"{program} does not say its version",
            details=[("why", done.stderr.decode("utf-8", "replace").strip()[-600:])],
        )
    version = int(found[1]), int(found[2])
    if podman and model.folder is not None and version < _PODMAN_FOLDERS:
        raise InputError(
            f"podman {said} mounts whole images only, and the checkpoint is in {model.folder}/ of its image",
            hint="use podman 5.4 or newer, an image with the files at its root, or a folder: --model DIR",
        )
    if not podman and version < _API:
        raise InputError(
            "this Docker engine does not mount images, and the checkpoint is one",
            details=[("engine", f"API {said}; it can from 1.48 on, which is Docker 28"), ("image", model.reference)],
            hint="update Docker, use --engine podman, or name a folder: --model DIR",
        )
