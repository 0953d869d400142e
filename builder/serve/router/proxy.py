"""LiteLLM's configuration for two roles of one model, and the settings of the hook that routes between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.serve.router.backends import LONG, SHORT, Target
from builder.util.errors import InputError

VERSION = "1.108.7"
"""The release that the hook was tested with: `async_filter_deployments` is not documented."""
METRICS_PORT = 4001
HOOK = Path(__file__).with_name("envelope.py")
"""The hook. It is never imported here: httpx is not among what the builder needs."""
PROMOTED = "watched/promoted.json"
"""Where the hook reads what is promoted."""
KEY = {SHORT: "SHORT_API_KEY", LONG: "LONG_API_KEY"}


def config(model: str, targets: Sequence[Target]) -> dict[str, Any]:
    """`config.yaml`. Nothing is retried, cooled down or fallen back to: the hook alone decides where a request goes."""
    return {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"hosted_vllm/{target.served}",
                    "api_base": f"{target.url}/v1",
                    "api_key": f"os.environ/{KEY[target.role]}",
                    "max_retries": 0,
                },
                "model_info": {"id": target.name, "role": target.role},
            }
            for target in targets
        ],
        "litellm_settings": {"callbacks": "envelope.handler", "num_retries": 0, "telemetry": False},
        # In a cooldown the hook would get no deployment, and could not tell what is down from what fits nowhere.
        "router_settings": {"num_retries": 0, "disable_cooldowns": True, "enable_pre_call_checks": False},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }


def settings(
    model: str,
    targets: Sequence[Target],
    *,
    overflow: str,
    overlays: Sequence[str],
    composed: bool = False,
    metrics_port: int | None = METRICS_PORT,
) -> dict[str, Any]:
    """`envelope.json`: what the hook reads. The reserve is the largest completion of the short profiles."""
    completions = [each.completion for each in targets if each.role == SHORT and each.completion is not None]
    if not completions:
        raise InputError("no short backend has an envelope")
    return {
        "completion": max(completions),
        "model": model,
        "overflow_when_down": overflow,
        "metrics_port": metrics_port,
        # In Compose, Prometheus is another container; its port is not published.
        "metrics_host": "0.0.0.0" if composed else "127.0.0.1",  # noqa: S104
        "backends": [
            {
                "name": each.name, "role": each.role, "url": each.url, "max_prompt": each.max_prompt,
                "max_model_len": each.max_model_len, "api_key_env": KEY[each.role], "image": each.image,
                "overlays": list(overlays) if each.image else None,
            }
            for each in targets
        ],
    }  # fmt: skip


def deployed(folder: Path) -> dict[str, str]:
    """The image of each backend whose image is known, from `envelope.json`. Raises `InputError` when it is not there."""
    path = folder / "envelope.json"
    try:
        document = json.loads(path.read_bytes())
        return {each["name"]: each["image"] for each in document["backends"] if each.get("image")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"{folder} has no router's files",
            details=[("envelope.json", why or "it is not what deploying a router writes")],
            hint="name the folder that the router was deployed to",
        ) from error


def promoted(targets: Sequence[Target]) -> dict[str, Any]:
    """`watched/promoted.json` where no policy says what is promoted: what each backend is deployed from."""
    return {
        "backends": {
            each.name: {"image": each.image, "promoted": each.image.rpartition("@")[2]}
            for each in targets
            if each.image is not None
        }
    }


def files(
    model: str,
    targets: Sequence[Target],
    *,
    overflow: str,
    overlays: Sequence[str],
    state: Mapping[str, Any],
    composed: bool = False,
) -> dict[str, Any]:
    """All files by name: documents, and the hook's text as it is in this package. `state` is what is known to be promoted."""
    found = settings(model, targets, overflow=overflow, overlays=overlays, composed=composed)
    return {
        "config.yaml": config(model, targets),
        "envelope.json": json.dumps(found, indent=2) + "\n",
        PROMOTED: json.dumps(state, indent=2) + "\n",
        "envelope.py": HOOK.read_text(),
    }
