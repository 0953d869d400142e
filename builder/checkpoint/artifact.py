"""A checkpoint in a registry: an OCI artifact with one blob for each file, as `oras push` makes it, or an image.

The manifest has path, size and SHA-256 of each file, so the checkpoint's digest is known without reading one. An image's
layers are archives: what is in them is checked by the runtime that mounts it, by the image's digest.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from builder.checkpoint.digest import CheckpointDigest, combine, is_served
from builder.documents.reference import Reference
from builder.oci.registry.client import Registry
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import cache_dir

_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_ARCHIVES = ("tar", "tar+gzip", "tar+zstd", "tar.gzip")


@dataclass(frozen=True)
class Artifact:
    """What a registry has under a digest: the files with the blobs that hold them; none for an image."""

    reference: Reference
    blobs: Mapping[str, Descriptor]

    @property
    def mounted(self) -> bool:
        """Whether it is an image, which a runtime mounts."""
        return not self.blobs

    def digest(self) -> CheckpointDigest:
        """The checkpoint's digest, of the files that a server loads."""
        return combine((path, blob.digest.removeprefix("sha256:"), blob.size) for path, blob in self.blobs.items())


def pinned(text: str) -> Reference:
    """A reference with a digest. Raises `InputError` for another one."""
    reference = Reference.parse(text)
    if reference.digest is None:
        raise InputError(f"{text} has no digest", hint="checkpoint: {oci: REGISTRY/REPOSITORY@sha256:...}")
    return reference


def read_artifact(text: str, *, context: Context) -> Artifact:
    """What the registry has, without reading a file. Raises `InputError` for what is neither files nor an image."""
    reference = pinned(text)
    data, _, _ = Registry(reference.registry, context=context).manifest(reference.repository, str(reference.digest))
    document = json.loads(data)
    layers = document.get("layers")
    if not isinstance(layers, list) or not layers:
        raise InputError(
            f"{text} is neither an artifact with files nor an image", hint="push the checkpoint's files: `oras push`"
        )
    if all(
        str(each.get("mediaType", "")).endswith(_ARCHIVES) and _UNPACK not in (each.get("annotations") or {})
        for each in layers
    ):
        return Artifact(reference, {})
    blobs: dict[str, Descriptor] = {}
    for each in layers:
        path = _path(each, text)
        if path in blobs:
            raise InputError(f"{text} has {path} repeatedly")
        if is_served(path):
            blobs[path] = Descriptor.from_json(each)
    if not blobs:
        raise InputError(f"{text} has no file that a server loads")
    return Artifact(reference, blobs)


def _path(layer: Mapping[str, Any], text: str) -> str:
    """The file's path. Raises `InputError` for a blob without one, a folder's archive, or a path that leaves the checkpoint."""
    annotations = layer.get("annotations") or {}
    path = annotations.get(_TITLE)
    if not isinstance(path, str) or not path or annotations.get(_UNPACK) == "true":
        raise InputError(f"{text} has a blob that is not a file: {path or layer.get('digest')}", hint="name each file, not their folder: `oras push REF config.json model.safetensors ...`")  # fmt: skip
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or str(PurePosixPath(path)) != path:
        raise InputError(f"{text} has a file that would be outside the checkpoint: {path!r}")
    return path


def pulled_folder(wanted: str) -> Path:
    """Where a checkpoint of this digest is once it was pulled."""
    return cache_dir("checkpoints") / wanted


def pull(text: str, wanted: str, *, context: Context) -> Path:
    """The checkpoint's folder in the cache, pulled when it is not there; each file is checked by its digest.

    `wanted` is the checkpoint digest that the files must have. Raises `InputError` when they have another one, or for an image.
    """
    artifact = read_artifact(text, context=context)
    if artifact.mounted:
        raise InputError(
            f"{text} is an image: it is mounted, not pulled",
            hint="Kubernetes and KServe mount it; here, name a folder: --model DIR",
        )
    found = artifact.digest().digest
    if found != wanted:
        raise InputError(f"{text} is another checkpoint", details=[("wanted", wanted), ("found", found)], hint="run `builder lock` again")  # fmt: skip
    folder = pulled_folder(wanted)
    if not folder.is_dir():
        temporary = Path(tempfile.mkdtemp(prefix=f"{wanted}.", dir=folder.parent))
        try:
            registry = Registry(artifact.reference.registry, context=context)
            for path, blob in artifact.blobs.items():
                context.console.say(f"pulling {path}, {blob.size / 1e9:.2f} GB")
                _fetch(registry, artifact.reference.repository, blob, temporary / path)
            temporary.chmod(0o755)
            if not folder.is_dir():
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fetch(registry: Registry, repository: str, blob: Descriptor, target: Path) -> None:
    """Write one file. The client has checked its digest when the last chunk was taken."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file, registry.blob(repository, blob) as chunks:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
