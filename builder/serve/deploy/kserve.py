"""KServe's LLMInferenceService for profiles of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.serve.deploy.kubernetes import manifests
from builder.serve.deploy.service import Service

_FOLDER = "/mnt/models"


def services(
    found: Sequence[Service], *, model_claim: str, cache_gib: int, oci: str | None
) -> dict[str, dict[str, Any]]:
    """Manifests by file name. The model is the claim, or the OCI image `oci` (REF@DIGEST), which KServe mounts at /mnt/models."""
    documents: dict[str, dict[str, Any]] = {}
    for service in found:
        plain = manifests([service], model_claim=model_claim, cache_gib=cache_gib)
        pod = plain[f"{service.name}.deployment.yaml"]["spec"]["template"]["spec"]
        container = pod["containers"][0]
        # KServe's own template has a container of this name, with a command and TLS probes that are replaced here.
        container |= {"name": "main", "command": ["/opt/builder/serve"]}
        container["env"] = [*container["env"], {"name": "BUILDER_MODEL", "value": _FOLDER}]
        container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] != "model"]
        pod["volumes"] = [each for each in pod["volumes"] if each["name"] != "model"]
        documents[f"{service.name}.pvc.yaml"] = plain[f"{service.name}.pvc.yaml"]
        documents[f"{service.name}.llminferenceservice.yaml"] = {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": service.name},
            "spec": {
                "model": {"uri": f"oci://{oci}" if oci else f"pvc://{model_claim}", "name": service.recipe},
                "replicas": 1,
                "template": pod,
                "router": {"route": {}, "gateway": {}},
            },
        }
    return documents
