"""Which image is promoted, and which verdicts images have that run: what the router's hook is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from builder.documents.policy import load_policy
from builder.release.promote.standing import chosen, standing, standings, state
from builder.util.errors import InputError, UnreachableError
from tests.support.clock import Owned
from tests.support.promotion import Stage, later, stage

pytestmark = pytest.mark.service("docker-registry")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("standing")) as made:
        made.policy()
        yield made


def look(scene: Stage, image: str, **more: Any) -> Any:
    loaded = load_policy(scene.root / "gates/production.yaml")
    return standing(image, "production", loaded, **{"context": Owned().context, **more})


def test_an_image_is_current_when_the_tag_names_it(scene: Stage) -> None:
    name = scene.repository()
    one, two = (f"{scene.host}/{name}@{scene.digests[tag]}" for tag in ("one", "two"))
    nothing = look(scene, one)
    assert (nothing.promoted, nothing.current) == (None, False)
    assert [each["reason"] for each in nothing.verdicts] == ["absent"]
    attached = scene.attach(name)
    scene.promote(name)
    found, other = look(scene, one), look(scene, two)
    assert (found.current, other.current) == (True, False)
    assert found.promoted == other.promoted == scene.digests["one"]
    assert found.verdicts == ({"suite": "sample", "reason": "passed", "verdict": attached.referrer},)
    assert [each["reason"] for each in other.verdicts] == ["absent"]
    # The other one is promoted: the first is what it was, and no longer what should run.
    scene.attach(name, tag="two")
    scene.promote(name, ref="two")
    assert (look(scene, one).current, look(scene, two).current) == (False, True)
    assert [each["reason"] for each in look(scene, one).verdicts] == ["passed"]


def test_a_verdict_that_has_expired_since_is_shown_as_that(scene: Stage) -> None:
    name = scene.repository()
    scene.policy(max_age_days=7)
    scene.attach(name)
    image = f"{scene.host}/{name}@{scene.digests['one']}"
    context = later(Owned(), days=8)
    assert [each["reason"] for each in look(scene, image, context=context).verdicts] == ["expired"]
    scene.policy()


def test_the_state_has_each_backend_and_its_time(scene: Stage) -> None:
    name = scene.repository()
    one, two = (f"{scene.host}/{name}@{scene.digests[tag]}" for tag in ("one", "two"))
    loaded, clock = load_policy(scene.root / "gates/production.yaml"), Owned()
    document = state(standings({"a": one, "b": two, "c": one}, "production", loaded, context=clock.context), context=clock.context)  # fmt: skip
    assert {key: each["image"] for key, each in document["backends"].items()} == {"a": one, "b": two, "c": one}
    assert document["checked"].startswith("2026-01-01T00:00:00")
    assert json.loads(json.dumps(document)) == document


def test_a_registry_that_does_not_respond_says_nothing(scene: Stage) -> None:
    with pytest.raises(UnreachableError):
        look(scene, f"127.0.0.1:1/none@sha256:{'0' * 64}")


@pytest.mark.parametrize(
    ("policies", "tag", "why"),
    [
        ({}, None, "which tag"),
        ({"a": "x", "b": "y"}, None, "which tag"),
        ({"a": "x"}, "b", "no policy for the tag 'b'"),
    ],
)
def test_the_tag_is_named_or_the_only_one(scene: Stage, policies: dict[str, str], tag: str | None, why: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(policies, tag, scene.root)
    assert why in caught.value.message
    found, loaded = chosen({"stable": "gates/production.yaml"}, None, scene.root)
    assert (found, loaded.policy.name) == ("stable", "production")
