"""llama-swap's configuration: each profile is a model that it starts by Docker or podman when it is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.serve.container import Container
from builder.serve.deploy.service import Service, served_name
from builder.serve.model import ModelImage
from builder.util.errors import InputError

# llama-swap puts a free port here.
_PORT = "${PORT}"
_ANY = 1


def config(services: Sequence[Service], *, model: str | ModelImage, engine: str = "docker") -> dict[str, Any]:
    """`config.yaml`. `model` is the checkpoint's folder on the machine, or its image, which must have been pulled."""
    return {
        "healthCheckTimeout": max(each.startup_seconds for each in services),
        "models": {service.name: _model(service, model, engine) for service in services},
    }


def _model(service: Service, model: str | ModelImage, engine: str) -> dict[str, Any]:
    container = Container(
        image=service.image, profile=service.profile, model=model if isinstance(model, ModelImage) else Path(model), cache=f"{service.recipe}-cache-{service.cache_key}",
        port=_ANY, gpus="all" if service.gpus else "none", startup_seconds=service.startup_seconds, name=service.name, podman=engine == "podman",
    )  # fmt: skip
    words = container.argv(engine)
    macro = next((each for each in words if "${" in each), None)
    if macro is not None:
        raise InputError(
            f"llama-swap would read a macro in {macro!r}", hint="take ${ out of the profile's flags and env"
        )
    words[words.index("--publish") + 1] = f"127.0.0.1:{_PORT}:{service.port}"
    return {
        "name": f"{service.recipe}, {service.profile.name}",
        "cmd": shlex.join(words),
        "cmdStop": shlex.join([engine, "stop", "--time", "30", service.name]),
        "proxy": f"http://127.0.0.1:{_PORT}",
        "checkEndpoint": "/health",
        "useModelName": served_name(service.profile),
    }
