"""Quadlet units for podman: a `.container` for each profile and a `.volume` for their caches, run by systemd."""

from __future__ import annotations

from collections.abc import Sequence

from builder.documents.record import MODEL_FOLDER
from builder.serve.container import CACHE_FOLDER, SHARED_MEMORY_GIB, server_environment
from builder.serve.deploy.service import USER, Service, gpu_numbers
from builder.serve.model import ModelImage
from builder.util.errors import InputError

_PULL_SECONDS = 1800


def units(services: Sequence[Service], *, model: str | ModelImage, port: int) -> dict[str, str]:
    """Unit files by name, for podman 5.0 or newer. Servers are on `port` and the following ones.

    Several servers get the machine's GPUs in their order. `model` is the checkpoint's folder on the machine, or its image:
    that has a unit of its own, which pulls it.
    """
    volume = f"{services[0].recipe}-cache-{services[0].cache_key}"
    found = {f"{volume}.volume": f"[Volume]\nVolumeName={_value(volume)}\nUser={USER}\nGroup={USER}\n"}
    if isinstance(model, ModelImage):
        found[_image_unit(services[0])] = f"[Image]\nImage={_value(model.reference)}\n"
    for index, (service, numbers) in enumerate(zip(services, gpu_numbers(services), strict=True)):
        gpus = numbers if numbers is not None else ["all"] if service.gpus else []
        found[f"{service.name}.container"] = _container(service, model, port + index, volume, gpus)
    return found


def _image_unit(service: Service) -> str:
    return f"{service.recipe}-model.image"


def _model(service: Service, model: str | ModelImage) -> str:
    if not isinstance(model, ModelImage):
        return f"Volume={_path(model)}:{MODEL_FOLDER}:ro"
    mount = ModelImage(_image_unit(service), model.folder and _path(model.folder)).mount(podman=True)
    return f"Mount={mount}"


def _container(service: Service, model: str | ModelImage, port: int, volume: str, gpus: Sequence[str]) -> str:
    lines = [
        "[Unit]",
        f"Description={_value(f'{service.recipe}, profile {service.profile.name}')}",
        "",
        "[Container]",
        f"Image={_value(service.image)}",
        f"ContainerName={service.name}",
        f"Exec={_word(service.profile.name)}",
        *(f"Environment={_word(f'{name}={text}')}" for name, text in server_environment(service.profile).items()),
        _model(service, model),
        f"Volume={volume}.volume:{CACHE_FOLDER}:U",
        *(f"AddDevice=nvidia.com/gpu={each}" for each in gpus),
        f"PublishPort=127.0.0.1:{port}:{service.port}",
        f"ShmSize={SHARED_MEMORY_GIB}g",
        f"User={USER}",
        f"Group={USER}",
        "ReadOnly=true",
        # Kernels that are compiled at run time are loaded from here.
        "Tmpfs=/tmp:rw,exec,mode=1777",
        "DropCapability=all",
        "NoNewPrivileges=true",
        f"HealthCmd=/opt/builder/serve health --port {service.port}",
        "HealthInterval=10s",
        "HealthTimeout=6s",
        "HealthRetries=3",
        f"HealthStartPeriod={service.startup_seconds}s",
        "Notify=healthy",
        "StopTimeout=30",
        "",
        "[Service]",
        "Restart=always",
        f"TimeoutStartSec={service.startup_seconds + _PULL_SECONDS}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join([*lines, ""])


def _value(text: str) -> str:
    """A text in a unit, where `%` begins a specifier."""
    if "\n" in text:
        raise InputError(f"{text!r} has a line ending, which a unit cannot hold")
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """One word of a unit's list, quoted."""
    escaped = _value(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return (
        escaped
        if escaped.isascii() and escaped.replace("-", "").replace("_", "").replace(".", "").isalnum()
        else f'"{escaped}"'
    )


def _path(text: str) -> str:
    if ":" in text or any(character.isspace() for character in text):
        raise InputError(
            f"the folder {text!r} has a space or a colon, which Volume= cannot hold",
            hint="name another folder: --model DIR",
        )
    return _value(text)
