"""Archives that `docker load` takes: an OCI layout in a tar, with a docker `manifest.json` that points at its blobs.

Engines before 25 read only `manifest.json`, newer ones read the layout; both find the same blobs.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from builder.documents.reference import Platform
from builder.oci.blobs import BlobStream
from builder.oci.document import read_manifest
from builder.oci.layout import REF_NAME, Layout
from builder.oci.platforms import choose_image
from builder.oci.types import INDEX_TYPES, Descriptor
from builder.util.errors import InputError
from builder.util.files import replacing

_EPOCH = 315532800


def choose_manifest(layout: Layout, top: Descriptor, platform: Platform) -> Descriptor:
    """The manifest for one platform below `top`, which is a manifest or an index."""
    if top.media_type not in INDEX_TYPES:
        return top
    return choose_image(top, layout.read(top), platform, str(layout.folder), layout.read)[0]


def write_archive(
    path: Path, layout: Layout, top: Descriptor, names: Sequence[str], platform: Platform, *, skip_missing: bool = False
) -> None:
    """Write one image of `layout` as a tar. `names` are full names for Docker (`NAME:TAG`).

    With `skip_missing`, layers that the layout does not have are named only: a daemon that has them does not ask.
    Every blob is checked while it is copied. Raises `MismatchError` when one is not what its descriptor says.
    """
    chosen = choose_manifest(layout, top, platform)
    manifest = read_manifest(layout.read(chosen), f"manifest {chosen.digest}")
    config, layers = manifest.config, manifest.layers
    docker = [
        {
            "Config": _blob(config.digest),
            "RepoTags": list(names),
            "Layers": [_blob(layer.digest) for layer in layers],
        }
    ]
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                **chosen.as_json(),
                "annotations": {"io.containerd.image.name": name, REF_NAME: name.rsplit(":", 1)[-1]},
            }
            for name in names
        ],
    }
    with replacing(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        _add(archive, "manifest.json", json.dumps(docker).encode())
        added: set[str] = set()
        for descriptor in (chosen, config, *layers):
            blob = layout.blob_path(descriptor.digest)
            if descriptor.digest in added or (skip_missing and not blob.is_file()):
                continue
            added.add(descriptor.digest)
            if not blob.is_file():
                raise InputError(
                    f"the layout does not have layer {descriptor.digest}",
                    hint="build with --with-base, so that the base's layers are in it",
                )
            with layout.chunks(descriptor.digest) as chunks:
                reading = BlobStream(chunks, descriptor)
                try:
                    archive.addfile(
                        _info(_blob(descriptor.digest), descriptor.size), cast("IO[bytes]", io.BufferedReader(reading))
                    )
                except OSError as error:
                    if error.errno is not None:
                        raise
                    # tarfile says only that the file ended too early.
                reading.finish()


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, _EPOCH
    return info


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_info(name, len(data)), io.BytesIO(data))
