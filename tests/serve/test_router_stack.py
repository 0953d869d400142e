"""The fleet's Compose file, Prometheus' rules and the dashboard, judged by Compose, promtool and Prometheus themselves."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from builder.serve.router.rules import rules
from tests.serve.test_deploy import IMAGE, compose_config
from tests.support.cli import builder
from tests.support.loopback import serving
from tests.support.router.dashboard import PATH, expressions, text
from tests.support.router.prometheus import prometheus
from tests.support.services import require

ROOT = Path(__file__).parents[2]
OTHER = f"registry.example/other@sha256:{'cd' * 32}"


def render(folder: Path, *more: str) -> Any:
    done = builder("deploy", "router", "demo", "--output", str(folder), "--json", *more, cwd=ROOT)
    assert done.code == 0, done.err
    return done.document["documents"]


def both(folder: Path) -> Any:
    return render(folder, "--short", "envelope-16k", "--long", "production-ceiling", "--image", IMAGE, "--long-image", OTHER, "--router-image", OTHER, "--prometheus-image", OTHER, "--model", "/models/m")  # fmt: skip


def test_compose_takes_router_both_backends_and_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-x")
    documents = both(tmp_path)
    document = compose_config((tmp_path / "compose.yaml").read_text(), tmp_path)
    assert set(document["services"]) == {
        "cache-owner",
        "demo-envelope-16k",
        "demo-production-ceiling",
        "router",
        "prometheus",
    }
    router = document["services"]["router"]
    assert set(router["depends_on"]) == {"demo-envelope-16k", "demo-production-ceiling"}
    assert router["environment"]["LITELLM_MASTER_KEY"] == "sk-x"
    for each in router["volumes"]:
        assert (tmp_path / Path(each["target"]).name).exists()
        assert each["read_only"] is True
    images = {name: each["image"] for name, each in document["services"].items()}
    assert all("@sha256:" in each for each in images.values())
    assert (images["demo-envelope-16k"], images["demo-production-ceiling"]) == (IMAGE, OTHER)
    settings = json.loads(documents["envelope.json"])
    assert settings["metrics_host"] == "0.0.0.0"
    assert not any("4001" in str(each) for each in router["ports"])
    backends = settings["backends"]
    assert [each["url"] for each in backends] == [
        "http://demo-envelope-16k:8000",
        "http://demo-production-ceiling:8000",
    ]
    assert [each["image"] for each in backends] == [IMAGE, OTHER]
    assert json.loads(documents["watched/promoted.json"]) == {
        "backends": {
            "short-1": {"image": IMAGE, "promoted": IMAGE.split("@")[1]},
            "long-1": {"image": OTHER, "promoted": OTHER.split("@")[1]},
        }
    }


def test_without_the_key_compose_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)
    both(tmp_path)
    with pytest.raises(AssertionError, match="LITELLM_MASTER_KEY"):
        compose_config((tmp_path / "compose.yaml").read_text(), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--short", "smoke@http://a", "--long", "http://b", "--router-image", OTHER], "needs both images"),
        (["--short", "smoke@http://a", "--long", "http://b", "--router-image", "litellm:1", "--prometheus-image", OTHER], "has no digest"),
        (["--short", "smoke", "--image", IMAGE, "--long", "http://b"], "would run the backends"),
        (["--short", "smoke", "--image", IMAGE, "--long", "http://b", "--router-image", OTHER, "--prometheus-image", OTHER], "which checkpoint"),
    ],
)  # fmt: skip
def test_wrong_input(tmp_path: Path, arguments: list[str], why: str) -> None:
    done = builder("deploy", "router", "demo", *arguments, "--output", str(tmp_path / "out"), cwd=ROOT)
    assert done.code == 2
    assert why in done.err


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack")
    render(folder, "--short", "envelope-16k@http://127.0.0.1:8001", "--long", "https://long.example")
    return folder


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    require("promtool")
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.service("prometheus")
def test_promtool_takes_configuration_and_rules(files: Path) -> None:
    done = promtool("check", "config", "prometheus.yml", cwd=files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 rules found" in done.stdout
    broken = files / "broken.yml"
    broken.write_text((files / "rules.yml").read_text().replace("== 0", "== = 0"))
    assert promtool("check", "rules", "broken.yml", cwd=files).returncode != 0


# One series and the alert that it must raise, after twenty minutes.
RAISED = {
    "PromptsOverCap": [('envelope_requests_total{route="long",reason="prompt-over-cap"}', "0+3x60"), ('envelope_requests_total{route="short",reason="fits"}', "0+7x60")],
    "RequestsRefused": [('envelope_requests_total{route="none",reason="fits-nowhere"}', "0+5x60")],
    "ShortRequestsOnTheLongPath": [('envelope_requests_total{route="long",reason="short-down"}', "0+1x60")],
    "KvCacheFull": [('vllm:kv_cache_usage_perc{job="vllm",backend="short-1"}', "0.97x60")],
    "Preemptions": [('vllm:num_preemptions_total{job="vllm",backend="short-1"}', "0+1x60")],
    "BackendDown": [('envelope_backend_up{backend="short-1"}', "0x60")],
    "BackendNotPromoted": [('envelope_backend_promoted{backend="short-1"}', "0x60")],
    "BackendVerdictMissing": [('envelope_backend_verdict{backend="short-1",suite="sample",reason="expired"}', "0x60")],
    "PromotionNotChecked": [("envelope_promotion_checked_timestamp_seconds", "-86400x60")],
    "BackendNotAsBuilt": [('envelope_backend_as_built{backend="short-1"}', "0x60")],
    "RouterDown": [('up{job="router"}', "0x60")],
}  # fmt: skip
QUIET = [
    ('up{job="router"}', "1x60"), ('envelope_requests_total{route="short",reason="fits"}', "0+9x60"),
    ('envelope_requests_total{route="long",reason="prompt-over-cap"}', "0+1x60"), ('vllm:kv_cache_usage_perc{job="vllm"}', "0.5x60"),
    ('vllm:num_preemptions_total{job="vllm"}', "3x60"), ('envelope_backend_up{backend="short-1"}', "1x60"),
    ('envelope_backend_verdict{backend="short-1",suite="sample",reason="passed"}', "1x60"), ("envelope_promotion_checked_timestamp_seconds", "0x60"),
    ('envelope_backend_promoted{backend="short-1"}', "1x60"), ('envelope_backend_as_built{backend="short-1"}', "1x60"),
]  # fmt: skip


@pytest.mark.service("prometheus")
@pytest.mark.parametrize("alert", [*RAISED, None])
def test_each_alert_is_raised_by_what_it_is_for_and_by_nothing_else(
    files: Path, tmp_path: Path, alert: str | None
) -> None:
    series = RAISED[alert] if alert else QUIET
    names = [each["alert"] for each in rules()["groups"][0]["rules"]]
    assert set(names) == set(RAISED)
    query = f'count(ALERTS{{alertstate="firing", alertname{"=" if alert else "!="}"{alert}"}}) or vector(0)'
    test = {
        "rule_files": [str(files / "rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [{"expr": query, "eval_time": "40m", "exp_samples": [{"labels": "{}", "value": 1 if alert else 0}]}],
            }
        ],
    }  # fmt: skip
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", "test.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_what_grafanas_sdk_makes() -> None:
    assert PATH.read_text() == text()


SHOWN = """\
envelope_requests_total{route="short",reason="fits"} %(n)d
envelope_requests_total{route="long",reason="prompt-over-cap"} %(n)d
envelope_requests_total{route="long",reason="short-down"} %(n)d
envelope_requests_total{route="none",reason="fits-nowhere"} %(n)d
envelope_prompt_tokens_bucket{le="+Inf"} %(n)d
envelope_prompt_tokens_bucket{le="1024"} %(n)d
envelope_count_seconds_bucket{le="+Inf"} %(n)d
envelope_count_seconds_bucket{le="0.01"} %(n)d
envelope_first_token_seconds_bucket{prompt="up to 1024",le="+Inf"} %(n)d
envelope_first_token_seconds_bucket{prompt="up to 1024",le="1"} %(n)d
envelope_count_failures_total{backend="short-1",reason="slow"} %(n)d
envelope_backend_up{backend="short-1",role="short"} 1
envelope_backend_info{backend="short-1",role="short",image="sha256:1"} 1
envelope_backend_promoted{backend="short-1",role="short"} 0
envelope_backend_verdict{backend="short-1",role="short",suite="sample",reason="passed"} 1
envelope_backend_as_built{backend="short-1",role="short"} 1
vllm:kv_cache_usage_perc{model_name="m"} 0.5
vllm:num_preemptions_total{model_name="m"} %(n)d
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real Prometheus with our files, which has scraped a router and a backend a few times."""
    require("prometheus")
    folder, scrapes = tmp_path_factory.mktemp("prometheus"), [0]

    def show(handler: Any) -> None:
        scrapes[0] += 1
        handler.say(200, (SHOWN % {"n": 10 * scrapes[0]}).encode(), Content_Type="text/plain; version=0.0.4")

    with serving(show) as shown:
        render(folder, "--short", f"envelope-16k@{shown.url}", "--long", shown.url.replace("127.0.0.1", "localhost"))
        with prometheus(folder, router=shown.url.removeprefix("http://")) as url:
            end = time.monotonic() + 120
            while scrapes[0] < 12:
                assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
                time.sleep(0.2)
            yield url


@pytest.mark.service("prometheus")
@pytest.mark.parametrize("expression", expressions(json.loads(PATH.read_text())))
def test_prometheus_answers_each_query_of_the_dashboard(watched: str, expression: str) -> None:
    reply = requests.get(f"{watched}/api/v1/query", params={"query": expression}, timeout=30)
    assert reply.status_code == 200, reply.text
    assert reply.json()["data"]["result"], expression


@pytest.mark.service("prometheus")
def test_prometheus_knows_each_backend_by_name_and_runs_the_rules(watched: str) -> None:
    targets = requests.get(f"{watched}/api/v1/targets", timeout=30).json()["data"]["activeTargets"]
    found = {(each["labels"]["job"], each["labels"].get("backend")): each["health"] for each in targets}
    assert found == {("router", None): "up", ("vllm", "short-1"): "up", ("vllm", "long-1"): "up"}
    groups = requests.get(f"{watched}/api/v1/rules", timeout=30).json()["data"]["groups"]
    assert {each["health"] for group in groups for each in group["rules"]} == {"ok"}
