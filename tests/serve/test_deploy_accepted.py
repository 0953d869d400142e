"""An image that no policy of its recipe accepts is not deployed, unless that is said, and then the files say it too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.cli.commands.deploy_files import accepted, write
from builder.cli.console import Console
from builder.util.errors import GateError, UnreachableError
from tests.support.clock import Owned
from tests.support.promotion import Stage, stage

pytestmark = pytest.mark.service("docker-registry")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("accepted")) as made:
        made.policy()
        yield made


def workspace(scene: Stage, **policies: str) -> Any:
    """What of an opened recipe is read here."""
    return SimpleNamespace(
        recipe=SimpleNamespace(policies=policies), project=SimpleNamespace(root=scene.root), context=Owned().context
    )


def test_an_image_is_deployed_when_a_policy_accepts_exactly_it(scene: Stage) -> None:
    opened = workspace(scene, production="gates/production.yaml")
    name = scene.repository()
    one, two = (f"{scene.host}/{name}@{scene.digests[tag]}" for tag in ("one", "two"))
    with pytest.raises(GateError) as caught:
        accepted(opened, [one], allow=False)
    assert caught.value.exit_code == 6
    assert "--allow-unaccepted" in (caught.value.hint or "")
    assert any("sample" in label or "sample" in text for label, text in caught.value.details)
    scene.attach(name)
    assert accepted(opened, [one], allow=False) is None
    # The verdict is about one digest. Both must be accepted where both are deployed.
    with pytest.raises(GateError):
        accepted(opened, [one, two], allow=False)


def test_a_recipe_without_policies_deploys_anything_and_asks_nobody(scene: Stage) -> None:
    assert accepted(workspace(scene), ["127.0.0.1:1/none@sha256:" + "0" * 64], allow=False) is None


def test_a_registry_that_does_not_respond_is_no_acceptance(scene: Stage) -> None:
    opened = workspace(scene, production="gates/production.yaml")
    with pytest.raises(UnreachableError):
        accepted(opened, ["127.0.0.1:1/none@sha256:" + "0" * 64], allow=False)


def test_what_is_allowed_is_said_in_each_file(scene: Stage, tmp_path: Path) -> None:
    opened = workspace(scene, production="gates/production.yaml")
    note = accepted(opened, ["127.0.0.1:1/none@sha256:" + "0" * 64], allow=True)
    assert note is not None
    write({"a.yaml": {"x": 1}, "b.container": "[Container]\n", "c.json": "{}\n"}, str(tmp_path), False, Console(), note)
    assert (tmp_path / "a.yaml").read_text() == f"# {note}\nx: 1\n"
    assert (tmp_path / "b.container").read_text() == f"# {note}\n[Container]\n"
    assert (tmp_path / "c.json").read_text() == "{}\n"
    assert "NOT ACCEPTED" in note
    assert "gates/production.yaml" in note
