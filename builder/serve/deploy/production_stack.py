"""Values for the Helm chart of vLLM's production-stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.documents.record import MODEL_FOLDER
from builder.serve.container import CACHE_FOLDER, SHARED_MEMORY_GIB, server_environment
from builder.serve.deploy.kubernetes import dollars
from builder.serve.deploy.service import USER, Service
from builder.serve.model import ModelImage, pod_mount, pod_volume
from builder.util.errors import InputError

_PROBE_SECONDS = 10
_OWN = ("port", "host", "enable-prefix-caching")


def values(
    services: Sequence[Service], *, model_claim: str, cache_claim: str, model_image: ModelImage | None = None
) -> dict[str, Any]:
    """`values.yaml`. Both claims exist, or `model_image` is an image volume with the checkpoint; each service has a folder of its own in the cache's.

    The chart sets the command itself (`vllm serve`), so the profile's flags are passed one by one and the image's entrypoint is
    run by a first container, which checks the patched files. Raises `InputError` for services on different ports.
    """
    if len({each.port for each in services}) != 1:
        raise InputError("the chart has one port for all models", hint="deploy profiles of one port together")
    seconds = max(each.startup_seconds for each in services)
    return {
        "servingEngineSpec": {
            "enableEngine": True,
            "containerPort": services[0].port,
            "strategy": {"type": "Recreate"},
            "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER},
            "containerSecurityContext": {
                "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "startupProbe": _probe(services[0].port, -(-seconds // _PROBE_SECONDS)),
            "readinessProbe": _probe(services[0].port, 3),
            "livenessProbe": _probe(services[0].port, 6),
            "modelSpec": [_model(each, model_claim, cache_claim, model_image) for each in services],
        }
    }  # fmt: skip


def _model(service: Service, model_claim: str, cache_claim: str, model_image: ModelImage | None) -> dict[str, Any]:
    # The chart joins both with a colon.
    repository, _, digest = service.image.rpartition(":")
    caching = service.profile.flags.get("enable-prefix-caching", False)
    return {
        "name": service.name,
        "repository": repository,
        "tag": digest,
        "modelURL": MODEL_FOLDER,
        "replicaCount": 1,
        "requestCPU": 2,
        "requestMemory": "16Gi",
        "requestGPU": service.gpus,
        "shmSize": f"{SHARED_MEMORY_GIB}Gi",
        "initContainer": {"name": "verify", "image": service.image, "command": ["/opt/builder/serve", "verify"]},
        "vllmConfig": {"enablePrefixCaching": caching is True, "extraArgs": [dollars(each) for each in _flags(service)]},
        "env": [{"name": name, "value": dollars(text)} for name, text in server_environment(service.profile).items()],
        "extraVolumes": [
            pod_volume(model_image, model_claim),
            {"name": "cache", "persistentVolumeClaim": {"claimName": cache_claim}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "extraVolumeMounts": [
            pod_mount(model_image),
            {"name": "cache", "mountPath": CACHE_FOLDER, "subPath": f"{service.name}-{service.cache_key}"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }  # fmt: skip


def _flags(service: Service) -> list[str]:
    """The profile's flags without those that the chart passes itself."""
    kept = {flag: value for flag, value in service.profile.flags.items() if flag.replace("_", "-").removeprefix("no-") not in _OWN}  # fmt: skip
    return service.profile.model_copy(update={"flags": kept}).argv()


def _probe(port: int, failures: int) -> dict[str, Any]:
    return {
        "initialDelaySeconds": 0, "periodSeconds": _PROBE_SECONDS, "timeoutSeconds": 5, "failureThreshold": failures,
        "httpGet": {"path": "/health", "port": port},
    }  # fmt: skip
