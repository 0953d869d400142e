"""From a promotion to an alert: a registry, the command, the hook, and the real Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.serve.container import free_port
from builder.serve.router.envelope import Envelope, load
from builder.serve.router.proxy import PROMOTED
from builder.util.context import Context
from tests.support.cli import Ran, builder
from tests.support.promotion import Stage, stage
from tests.support.router.backend import backends
from tests.support.router.prometheus import prometheus, until_firing
from tests.support.smallwheel import make_project

pytestmark = [pytest.mark.service("docker-registry"), pytest.mark.service("prometheus")]
NEAR = "name: near\nflags: {max-model-len: 200}\nenvelope: {prompt: 100, completion: 50}\n"


@dataclass
class Scene:
    """A project with a policy, a router's files, and the images `one` and `two`, of which `one` is deployed as short."""

    stage: Stage
    folder: Path
    repository: str

    def image(self, tag: str) -> str:
        return f"{self.stage.host}/{self.repository}@{self.stage.digests[tag]}"

    def promote(self, tag: str) -> None:
        self.attach(tag)
        self.stage.promote(self.repository, ref=tag, context=Context())

    def attach(self, tag: str, hours: int = 2, **verdict: Any) -> None:
        self.stage.attach(self.repository, tag=tag, ended=datetime.now(UTC) - timedelta(hours=hours), **verdict)  # fmt: skip

    def run(self, *arguments: str) -> Ran:
        done = builder("deploy", *arguments, cwd=self.stage.root)
        assert done.code == 0, done.err
        return done

    def refresh(self) -> Ran:
        return self.run("promoted", "small", str(self.folder), "--json")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("promoted")
    with stage(root) as made:
        make_project(made.root, {}, profiles=["near"], default_profile="near", policies={"production": "gates/production.yaml"})  # fmt: skip
        (made.root / "profiles/near.yaml").write_text(NEAR)
        done = builder("lock", "small", cwd=made.root)
        assert done.code == 0, done.err
        yield Scene(made, root / "fleet", made.repository())


def test_an_alert_follows_the_promoted_tag_and_the_verdicts(scene: Scene) -> None:
    with backends(200, 2000) as (short, long):
        short.overlays = ()
        scene.attach("one")
        metrics = free_port()
        scene.run("router", "small", "--short", f"near@{short.url}", "--long", long.url, "--image", scene.image("one"), "--output", str(scene.folder))  # fmt: skip
        _at_once(scene.folder, metrics)
        envelope = load(scene.folder / "envelope.json")
        server = envelope.serve_metrics()
        envelope.watch()
        assert server is not None
        try:
            with prometheus(scene.folder, router=f"127.0.0.1:{metrics}") as url:
                _follow(scene, envelope, url)
        finally:
            envelope.ended.set()
            server.shutdown()


def _follow(scene: Scene, envelope: Envelope, url: str) -> None:
    # Accepted and deployed, and no tag names it.
    found = until_firing(url, {"BackendNotPromoted"})
    assert [each["backend"] for each in found["BackendNotPromoted"]] == ["short-1"]
    scene.promote("one")
    assert scene.refresh().document["backends"]["short-1"]["promoted"] == scene.stage.digests["one"]
    until_firing(url, set())
    scene.promote("two")
    scene.refresh()
    until_firing(url, {"BackendNotPromoted"})
    scene.promote("one")
    # The gate was run again, and failed.
    scene.attach("one", hours=0, outcome="failed")
    scene.refresh()
    missing = until_firing(url, {"BackendVerdictMissing"})["BackendVerdictMissing"]
    assert [(each["backend"], each["suite"], each["reason"]) for each in missing] == [("short-1", "sample", "failed")]
    # Nobody has asked for a day.
    state = json.loads((scene.folder / PROMOTED).read_text())
    state["backends"]["short-1"]["verdicts"] = []
    state["checked"] = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    (scene.folder / PROMOTED).write_text(json.dumps(state))
    until_firing(url, {"PromotionNotChecked"})


def _at_once(folder: Path, metrics: int) -> None:
    """Alerts do not wait, and the hook looks often."""
    document = json.loads((folder / "envelope.json").read_text())
    (folder / "envelope.json").write_text(json.dumps({**document, "metrics_port": metrics, "health_seconds": 0.1, "watch_seconds": 0.2}))  # fmt: skip
    path = folder / "rules.yml"
    rules = yaml.safe_load(path.read_text())
    for each in rules["groups"][0]["rules"]:
        each["for"] = "0s"
    path.write_text(yaml.safe_dump(rules))


def test_a_registry_that_does_not_respond_leaves_the_file(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / PROMOTED).write_text("as it was")
    image = f"127.0.0.1:1/none@sha256:{'0' * 64}"
    (tmp_path / "envelope.json").write_text(json.dumps({"backends": [{"name": "short-1", "image": image}]}))
    done = builder("deploy", "promoted", "small", str(tmp_path), cwd=scene.stage.root)
    assert done.code == 5
    assert (tmp_path / PROMOTED).read_text() == "as it was"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "  envelope.json  No such file or directory\n"),
        ("[]", "it is not what deploying a router writes"),
        ('{"backends": [{"name": "short-1"}]}', "has an image that is known"),
    ],
)
def test_wrong_folders(scene: Scene, tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / "envelope.json").write_text(text)
    done = builder("deploy", "promoted", "small", str(tmp_path), cwd=scene.stage.root)
    assert done.code == 2
    assert why in done.err
