"""A Compose file for profiles of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.documents.record import MODEL_FOLDER
from builder.serve.container import CACHE_FOLDER, SHARED_MEMORY_GIB, server_environment
from builder.serve.deploy.service import USER, Service, gpu_numbers
from builder.serve.model import ModelImage

_OWNER = f"{USER}:{USER}"


def compose(services: Sequence[Service], *, model: str | ModelImage, port: int) -> dict[str, Any]:
    """The document: a server per profile on `port` and the following ones, and a first step that owns the cache.

    Several servers get the machine's GPUs in their order: the first one number 0, and so on.

    `model` is the checkpoint's folder on the machine, or its image (Docker 28, Compose 2.35). A new volume is root's, so a container that may do nothing else
    gives it to the servers' user.
    """
    volume = "cache"
    document: dict[str, Any] = {
        "services": {
            "cache-owner": {
                "image": services[0].image,
                "entrypoint": ["chown", _OWNER, CACHE_FOLDER],
                "command": [],
                "user": "0:0",
                "network_mode": "none",
                "read_only": True,
                "cap_drop": ["ALL"],
                "cap_add": ["CHOWN"],
                "security_opt": ["no-new-privileges:true"],
                "volumes": [_mount("volume", volume, CACHE_FOLDER)],
            }
        },
        "volumes": {volume: {"name": _dollars(f"{services[0].recipe}-cache-{services[0].cache_key}")}},
    }
    # A count gives each server the first GPUs, so several servers name theirs.
    for index, (service, ids) in enumerate(zip(services, gpu_numbers(services), strict=True)):
        document["services"][service.name] = _server(service, model, port + index, volume, ids)
    return document


def _server(service: Service, model: str | ModelImage, port: int, volume: str, ids: list[str] | None) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if service.gpus:
        which = {"count": service.gpus} if ids is None else {"device_ids": ids}
        device = {"driver": "nvidia", **which, "capabilities": ["gpu"]}
        limits = {"deploy": {"resources": {"reservations": {"devices": [device]}}}}
    return {
        "image": service.image,
        "command": [_dollars(service.profile.name)],
        "depends_on": {"cache-owner": {"condition": "service_completed_successfully"}},
        "environment": {name: _dollars(text) for name, text in server_environment(service.profile).items()},
        "user": _OWNER,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "shm_size": f"{SHARED_MEMORY_GIB}gb",
        # Kernels that are compiled at run time are loaded from here: the default is noexec.
        "tmpfs": ["/tmp:rw,exec,mode=1777"],  # noqa: S108
        "volumes": [
            _model(model),
            _mount("volume", volume, CACHE_FOLDER),
        ],
        "ports": [f"127.0.0.1:{port}:{service.port}"],
        "healthcheck": {
            "test": ["CMD", "/opt/builder/serve", "health", "--port", str(service.port)],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": f"{service.startup_seconds}s",
        },
        "stop_grace_period": "30s",
        "restart": "unless-stopped",
        **limits,
    }


def _model(model: str | ModelImage) -> dict[str, Any]:
    if not isinstance(model, ModelImage):
        return _mount("bind", _dollars(model), MODEL_FOLDER, read_only=True)
    mount = _mount("image", model.reference, MODEL_FOLDER)
    return {**mount, "image": {"subpath": _dollars(model.folder)}} if model.folder else mount


def _mount(kind: str, source: str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"type": kind, "source": source, "target": target, **({"read_only": True} if read_only else {})}


def _dollars(text: str) -> str:
    """A text as Compose takes it literally: `$` would begin a variable."""
    return text.replace("$", "$$")
