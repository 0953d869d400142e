"""A Compose file for the whole fleet on one machine: router, Prometheus, and the backends that are ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.documents.reference import Reference
from builder.serve.deploy.compose import compose
from builder.serve.model import ModelImage
from builder.serve.router.backends import Target
from builder.serve.router.proxy import METRICS_PORT, PROMOTED
from builder.serve.router.rules import prometheus, rules
from builder.util.errors import InputError

ROUTER_PORT, PROMETHEUS_PORT = 4000, 9090
_FOLDER = "/etc/envelope"
_DASHBOARD = Path(__file__).with_name("dashboard.json")
_PROBE = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/health/liveliness', timeout=5)"


def monitoring(targets: Sequence[Target], *, composed: bool) -> dict[str, Any]:
    """Prometheus' configuration and rules, and the dashboard. In Compose the router has a name of its own."""
    import yaml

    router = f"{'router' if composed else '127.0.0.1'}:{METRICS_PORT}"
    return {
        "prometheus.yml": prometheus(targets, router),
        "rules.yml": str(yaml.safe_dump(rules(), sort_keys=False, allow_unicode=True, width=1000)),
        "dashboard.json": _DASHBOARD.read_text(),
    }


def stack(
    targets: Sequence[Target], *, router: str, watcher: str, model: str | ModelImage | None, port: int
) -> dict[str, Any]:
    """`compose.yaml`. `router` and `watcher` are images with digests, of LiteLLM and of Prometheus.

    `model` is the checkpoint's folder or image; the backends are on `port` and the following ones of this machine. Raises
    `InputError` for an image without a digest, or when a backend is ours and no checkpoint is named.
    """
    services = [each.service for each in targets if each.service is not None]
    if services and model is None:
        raise InputError("which checkpoint do the backends serve?", hint="name its folder: --model DIR")
    document = compose(services, model=model, port=port) if services and model else {"services": {}}
    started = {each.name: {"condition": "service_healthy"} for each in services}
    document["services"]["router"] = {
        "image": _pinned(router, "--router-image"),
        "command": ["--config", f"{_FOLDER}/config.yaml", "--port", str(ROUTER_PORT), "--telemetry", "False"],
        # With both backends up, a start compares their tokenizers.
        **({"depends_on": started} if started else {}),
        "environment": {
            "LITELLM_MASTER_KEY": "${LITELLM_MASTER_KEY:?the key that clients use, such as sk-...}",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "SHORT_API_KEY": "${SHORT_API_KEY:-none}",
            "LONG_API_KEY": "${LONG_API_KEY:-none}",
        },
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": [
            # What changes while it runs is in a folder: a file that is mounted alone stays what it was.
            _file(name, f"{_FOLDER}/{name}") for name in ("config.yaml", "envelope.json", "envelope.py", Path(PROMOTED).parent.name)
        ],
        "ports": [f"127.0.0.1:${{ROUTER_PORT:-{ROUTER_PORT}}}:{ROUTER_PORT}"],
        "healthcheck": {
            "test": ["CMD", "python3", "-c", _PROBE.format(port=ROUTER_PORT)],
            "interval": "10s", "timeout": "6s", "retries": 3, "start_period": "120s",
        },
        "restart": "unless-stopped",
    }  # fmt: skip
    document["services"]["prometheus"] = {
        "image": _pinned(watcher, "--prometheus-image"),
        "command": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": [
            *(_file(name, f"/etc/prometheus/{name}") for name in ("prometheus.yml", "rules.yml")),
            {"type": "volume", "source": "prometheus", "target": "/prometheus"},
        ],
        "ports": [f"127.0.0.1:${{PROMETHEUS_PORT:-{PROMETHEUS_PORT}}}:{PROMETHEUS_PORT}"],
        "restart": "unless-stopped",
    }
    document.setdefault("volumes", {})["prometheus"] = {}
    return document


def _file(name: str, target: str) -> dict[str, Any]:
    return {"type": "bind", "source": f"./{name}", "target": target, "read_only": True}


def _pinned(image: str, option: str) -> str:
    if Reference.parse(image).digest is None:
        raise InputError(f"{option} {image} has no digest: another image could have that name tomorrow", hint=f"{option} REPOSITORY@sha256:...: `skopeo inspect docker://{image}` prints it")  # fmt: skip
    return image
