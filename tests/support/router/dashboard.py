"""The router's Grafana dashboard, made with Grafana's own SDK: `python -m tests.support.router.dashboard` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import prometheus, table, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from builder.serve.router import rules

PATH = Path(rules.__file__).with_name("dashboard.json")
_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
_HALF = 12

ROWS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "The envelope": [
        ("Requests by route and reason", "reqps", [("sum by (route, reason) (rate(envelope_requests_total[5m]))", "{{route}} {{reason}}")]),
        ("Share over the cap", "percentunit", [(rules.OVER_CAP, "over the cap")]),
        ("Refused in ten minutes", "short", [(rules.REFUSED, "{{reason}}")]),
        ("Rerouted in ten minutes", "short", [(rules.REROUTED, "{{route}}")]),
        ("Prompt tokens", "short", [(f"histogram_quantile({each}, sum by (le) (rate(envelope_prompt_tokens_bucket[5m])))", f"p{each * 100:g}") for each in (0.5, 0.9, 0.99)]),
        ("Time of the count", "s", [(f"histogram_quantile({each}, sum by (le) (rate(envelope_count_seconds_bucket[5m])))", f"p{each * 100:g}") for each in (0.5, 0.99)]),
        ("Time to first token by prompt length", "s", [("histogram_quantile(0.9, sum by (le, prompt) (rate(envelope_first_token_seconds_bucket[5m])))", "{{prompt}} tokens")]),
        ("Counts that failed", "short", [("sum by (backend, reason) (increase(envelope_count_failures_total[10m]))", "{{backend}} {{reason}}")]),
    ],
    "The backends": [
        ("KV cache in use", "percentunit", [(rules.KV_CACHE, "{{backend}}")]),
        ("Preemptions in ten minutes", "short", [(rules.PREEMPTIONS, "{{backend}}")]),
    ],
}  # fmt: skip
TABLES = [
    ("Which image runs", [("envelope_backend_info", "image"), ("envelope_backend_promoted", "promoted"), ("envelope_backend_as_built", "as built"), ("envelope_backend_up", "up")]),
    ("Which verdicts its image has", [("envelope_backend_verdict", "passed")]),
]  # fmt: skip


def _query(expression: str, legend: str, letter: str, *, instant: bool = False) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter).datasource(_SOURCE)
    return query.instant() if instant else query


def _filled(panel: Any, queries: list[tuple[str, str]], *, instant: bool = False) -> Any:
    for letter, (expression, legend) in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(_query(expression, legend, letter, instant=instant))
    return panel.datasource(_SOURCE)


def text() -> str:
    """The dashboard as JSON, as Grafana imports it."""
    built = (
        Dashboard("Envelope").uid("envelope").tags(["vllm", "envelope"]).refresh("30s").time("now-3h", "now")
        .with_variable(DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )  # fmt: skip
    for title, panels in ROWS.items():
        built = built.with_row(Row(title))
        for name, unit, queries in panels:
            panel = timeseries.Panel().title(name).unit(unit).min(0).height(8).span(_HALF)
            built = built.with_panel(_filled(panel, queries))
    for name, queries in TABLES:
        built = built.with_panel(_filled(table.Panel().title(name).height(6).span(24), queries, instant=True))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def expressions(document: dict[str, Any]) -> list[str]:
    """Every query of a dashboard."""
    panels = [*document["panels"], *(each for row in document["panels"] for each in row.get("panels") or ())]
    return [target["expr"] for panel in panels for target in panel.get("targets") or ()]


if __name__ == "__main__":
    PATH.write_text(text())
    print(f"{PATH}: {len(expressions(json.loads(text())))} queries")
