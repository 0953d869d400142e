"""What Prometheus asks of the router and the backends, and when it gives an alarm: all about the envelope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from builder.serve.router.backends import Target

OVER_CAP = 'sum(rate(envelope_requests_total{reason="prompt-over-cap"}[15m])) / sum(rate(envelope_requests_total[15m]))'
REFUSED = 'sum by (reason) (increase(envelope_requests_total{route="none"}[10m]))'
REROUTED = 'increase(envelope_requests_total{route="long", reason="short-down"}[10m])'
PREEMPTIONS = 'increase({__name__=~"vllm:num_preemptions_total", job="vllm"}[10m])'
STALE_SECONDS = 86400
"""How old the last look at the promoted tag may be."""
KV_CACHE = '{__name__="vllm:kv_cache_usage_perc", job="vllm"}'


def prometheus(targets: Sequence[Target], router: str) -> dict[str, Any]:
    """`prometheus.yml`. `router` is HOST:PORT of the hook's metrics."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": "router", "static_configs": [{"targets": [router]}]},
            *(
                {
                    "job_name": f"vllm-{each.name}",
                    "scheme": urlsplit(each.url).scheme,
                    "static_configs": [
                        {"targets": [urlsplit(each.url).netloc], "labels": {"backend": each.name, "role": each.role}}
                    ],
                    # One name for both, so that rules need not list them.
                    "relabel_configs": [{"target_label": "job", "replacement": "vllm"}],
                }
                for each in targets
            ),
        ],
    }


def rules() -> dict[str, Any]:
    """`rules.yml`."""
    return {
        "groups": [
            {
                "name": "envelope",
                "rules": [
                    _alert("PromptsOverCap", f"{OVER_CAP} > 0.2", "15m", "warning", "{{ $value | humanizePercentage }} of the requests have prompts over the cap"),
                    _alert("RequestsRefused", f"{REFUSED} > 10", "0m", "warning", "{{ $value | humanize }} requests were refused in ten minutes: {{ $labels.reason }}"),
                    _alert("ShortRequestsOnTheLongPath", f"{REROUTED} > 0", "0m", "warning", "short requests use the long path, since no short backend is up"),
                    _alert("KvCacheFull", f"{KV_CACHE} > 0.95", "5m", "warning", "{{ $labels.backend }} uses {{ $value | humanizePercentage }} of its KV cache"),
                    _alert("Preemptions", f"{PREEMPTIONS} > 0", "0m", "warning", "{{ $labels.backend }} preempted requests: its KV cache does not hold what it lets in"),
                    _alert("BackendDown", "envelope_backend_up == 0", "2m", "critical", "the router does not use {{ $labels.backend }}: it is down, or has another tokenizer"),
                    _alert("BackendNotPromoted", "envelope_backend_promoted == 0", "5m", "critical", "{{ $labels.backend }} runs an image that is not the promoted one"),
                    _alert("BackendVerdictMissing", "envelope_backend_verdict == 0", "5m", "critical", "{{ $labels.backend }} runs an image without the verdict of {{ $labels.suite }}: {{ $labels.reason }}"),
                    _alert("PromotionNotChecked", f"time() - envelope_promotion_checked_timestamp_seconds > {STALE_SECONDS}", "5m", "warning", "nobody has asked for {{ $value | humanizeDuration }} which image is promoted: run `builder deploy promoted RECIPE FOLDER`"),
                    _alert("BackendNotAsBuilt", "envelope_backend_as_built == 0", "5m", "critical", "{{ $labels.backend }} has other overlays than the image that it was deployed from"),
                    _alert("RouterDown", 'absent(up{job="router"} == 1)', "2m", "critical", "the router shows no metrics"),
                ],
            }
        ]
    }  # fmt: skip


def _alert(name: str, expression: str, lasting: str, severity: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name, "expr": expression, "for": lasting, "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }  # fmt: skip
