"""Kubernetes manifests for profiles of an image: Deployment, Service and volume claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.serve.container import CACHE_FOLDER, SHARED_MEMORY_GIB, server_environment
from builder.serve.deploy.service import USER, Service
from builder.serve.model import ModelImage, pod_mount, pod_volume

_PROBE_SECONDS = 10
_NAME = "app.kubernetes.io/name"
_INSTANCE = "app.kubernetes.io/instance"


def manifests(
    services: Sequence[Service], *, model_claim: str, cache_gib: int, model_image: ModelImage | None = None
) -> dict[str, dict[str, Any]]:
    """Manifests by file name. `model_claim` is a claim that exists and holds the checkpoint; the cache's is made here.

    `model_image` is an image volume with the checkpoint instead of the claim, for Kubernetes 1.33 and newer.
    """
    found: dict[str, dict[str, Any]] = {}
    for service in services:
        found[f"{service.name}.pvc.yaml"] = _cache_claim(service, cache_gib)
        found[f"{service.name}.deployment.yaml"] = _deployment(service, model_claim, model_image)
        found[f"{service.name}.service.yaml"] = _service(service)
    return found


def _labels(service: Service) -> dict[str, str]:
    return {_NAME: "vllm", _INSTANCE: service.name}


def _metadata(service: Service, name: str | None = None) -> dict[str, Any]:
    return {"name": name or service.name, "labels": _labels(service)}


def _cache_name(service: Service) -> str:
    """Keyed by the stack: a changed overlay begins with an empty cache."""
    return f"{service.name}-cache-{service.cache_key}"


def _cache_claim(service: Service, gib: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(service, _cache_name(service)),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": f"{gib}Gi"}}},
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(service),
        "spec": {
            "selector": _labels(service),
            "ports": [{"name": "http", "port": service.port, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _deployment(service: Service, model_claim: str, model_image: ModelImage | None) -> dict[str, Any]:
    volumes = [
        pod_volume(model_image, model_claim),
        {"name": "cache", "persistentVolumeClaim": {"claimName": _cache_name(service)}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GIB}Gi"}},
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(service),
        "spec": {
            "replicas": 1,
            # A second server would wait for the first one's GPU for ever.
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": service.startup_seconds + 600,
            "selector": {"matchLabels": _labels(service)},
            "template": {
                "metadata": {"labels": _labels(service)},
                "spec": {
                    "automountServiceAccountToken": False,
                    # A Service named vllm would set VLLM_PORT to an address, which vLLM refuses as a port.
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "fsGroup": USER,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "terminationGracePeriodSeconds": 30,
                    "containers": [_container(service, model_image)],
                    "volumes": volumes,
                },
            },
        },
    }


def _container(service: Service, model_image: ModelImage | None) -> dict[str, Any]:
    resources: dict[str, Any] = {"requests": {"cpu": "2", "memory": "16Gi"}}
    if service.gpus:
        resources["limits"] = {"nvidia.com/gpu": str(service.gpus)}
    return {
        "name": "vllm",
        "image": service.image,
        "args": [dollars(service.profile.name)],
        "env": [{"name": name, "value": dollars(text)} for name, text in server_environment(service.profile).items()],
        "ports": [{"name": "http", "containerPort": service.port, "protocol": "TCP"}],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe(-(-service.startup_seconds // _PROBE_SECONDS)),
        "readinessProbe": _probe(3),
        # Slow to give up: under load a healthy server may be late, and a restart costs the whole start.
        "livenessProbe": _probe(6),
        "volumeMounts": [
            pod_mount(model_image),
            {"name": "cache", "mountPath": CACHE_FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _probe(failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def dollars(text: str) -> str:
    """A text as Kubernetes takes it literally: `$(NAME)` would be a variable."""
    return text.replace("$(", "$$(")
