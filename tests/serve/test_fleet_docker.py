"""The whole fleet as `builder deploy router` writes it, run by Docker and Compose: router, two servers, Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from builder.serve.container import free_port
from builder.serve.router.proxy import PROMOTED
from tests.support.cli import builder
from tests.support.fleet import Fleet, containers, override, prometheus_image, pushed, quick, router_image
from tests.support.realstack import overlay_diffs
from tests.support.registry import registry
from tests.support.router.dashboard import PATH, expressions
from tests.support.smallwheel import make_project
from tests.support.standin import standin_base

pytestmark = [pytest.mark.service("litellm"), pytest.mark.service("prometheus"), pytest.mark.timeout(600)]
PROFILES = {
    "near": "name: near\nflags: {max-model-len: 200}\nhardware: {gpu: cpu}\nenvelope: {prompt: 100, completion: 50}\n",
    "far": "name: far\nflags: {max-model-len: 2000}\nhardware: {gpu: cpu}\n",
}
NAMES = {"short": "small-near", "long": "small-far"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, docker_engine: str) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("fleet")
    project = make_project(
        root / "project", {"20-1.diff": overlay_diffs()[0]}, base=f"oci:{standin_base()}", profiles=[*PROFILES],
        default_profile="near", checkpoint={"digest": "c0" * 32},
    )  # fmt: skip
    for name, text in PROFILES.items():
        (project / f"profiles/{name}.yaml").write_text(text)
    (root / "model").mkdir()
    (root / "model/config.json").write_text("{}")
    with registry(root / "registry") as host:
        built = builder("build", "small", "--output", f"oci:{root / 'image'}", "--json", cwd=project)
        assert built.code == 0, built.err
        image = pushed(host, "team/small", root / "image", built.document["tags"][0])
        router = pushed(host, "litellm", router_image(root / "router"))
        prometheus = pushed(host, "prometheus", prometheus_image(root / "prometheus"))
        folder = root / "files"
        done = builder(
            "deploy", "router", "small", "--short", "near", "--long", "far", "--image", image, "--router-image", router,
            "--prometheus-image", prometheus, "--model", str(root / "model"), "--port", str(free_port()), "--output", str(folder),
            cwd=project,
        )  # fmt: skip
        assert done.code == 0, done.err
        (folder / "override.yaml").write_text(override())
        quick(folder)
        made = Fleet(folder, docker_engine, "fleet", free_port(), free_port(), ("compose.yaml", "override.yaml"))
        try:
            made.compose("up", "-d")
            yield made
        finally:
            made.compose("down", "--volumes", "--timeout", "5", check=False)


def body(words: int, **more: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": " ".join(["slovo"] * words)}], **more}


def asked(fleet: Fleet) -> dict[str, int]:
    """How many requests each server has had, as it says itself to Prometheus."""
    found = fleet.query("vllm:request_success_total")
    return {each["metric"]["role"]: int(float(each["value"][1])) for each in found}


def test_compose_up_routes_watches_and_goes_down_again(fleet: Fleet) -> None:
    """One story, since a start takes most of a minute: up, requests, Prometheus, an alert, a server that goes, down."""
    fleet.until(lambda: requests.get(f"{fleet.router}/health/liveliness", timeout=5).ok, "the router does not start")
    up = 'up{job=~"router|vllm"} == 1'
    fleet.until(lambda: len(fleet.query(up)) == 3, "Prometheus does not see all three")
    before = asked(fleet)

    for words, side, why in ((50, "short", "fits"), (97, "short", "fits"), (98, "long", "prompt-over-cap"), (1900, "long", "prompt-over-cap")):  # fmt: skip
        reply = fleet.ask(body(words, max_tokens=50))
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"]
        assert (reply.headers["x-envelope-route"], reply.headers["x-envelope-reason"]) == (side, why)
        assert reply.headers["x-envelope-tokens"] == str(words + 3)
    refused = fleet.ask(body(2500))
    assert refused.status_code == 400, refused.text
    for number in ("2503", "100", "200", "2000"):
        assert number in refused.text
    # What arrived, by the servers' own counts: nothing twice, nothing at the wrong side.
    sent = {role: count + 2 for role, count in before.items()}
    fleet.until(lambda: asked(fleet) == sent, f"{sent} were to arrive")

    state = json.loads((fleet.folder / PROMOTED).read_text())
    info = "envelope_backend_info * on (backend) group_left () (envelope_backend_promoted == 1)"
    fleet.until(lambda: len(fleet.query(info)) == 2, "which image runs is not shown")
    assert {each["metric"]["image"] for each in fleet.query(info)} == {state["backends"]["short-1"]["image"]}

    groups = requests.get(f"{fleet.prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    fired = [each for group in groups for each in group["rules"] if each["state"] != "inactive"]
    assert len(groups) == 1
    assert not fired
    for expression in expressions(json.loads(PATH.read_text())):
        fleet.query(expression)

    # The file is replaced while the router runs, and an image that is not the promoted one is seen.
    state["backends"]["short-1"]["promoted"] = f"sha256:{'0' * 64}"
    (fleet.folder / f"{PROMOTED}.new").write_text(json.dumps(state))
    (fleet.folder / f"{PROMOTED}.new").replace(fleet.folder / PROMOTED)
    pending = 'ALERTS{alertname="BackendNotPromoted", backend="short-1", alertstate="pending"}'
    fleet.until(lambda: fleet.query(pending), "no alert for an image that is not the promoted one")

    for _ in range(15):
        assert fleet.ask(body(2500)).status_code == 400
    firing = 'ALERTS{alertname="RequestsRefused", alertstate="firing"}'
    fleet.until(lambda: fleet.query(firing), "no alert for what was refused")

    fleet.compose("stop", "--timeout", "5", NAMES["long"])
    gone = fleet.ask(body(1900))
    assert gone.status_code == 503, gone.text
    assert gone.headers["retry-after"]
    assert fleet.ask(body(50)).headers["x-envelope-route"] == "short"
    fleet.until(lambda: fleet.query('envelope_backend_up{role="long"} == 0'), "it is not shown as down")
    fleet.compose("start", NAMES["long"])
    fleet.until(lambda: fleet.ask(body(1900)).status_code == 200, "it does not come back")

    assert len(containers(fleet)) == 5
    fleet.compose("down", "--volumes", "--timeout", "5")
    assert not containers(fleet)
