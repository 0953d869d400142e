"""A fault that lasts, from every position of a publication on: the right image, or exit code 5 and no tag that is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faultscene import Scene, fault_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with fault_scene(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.mark.parametrize("fault", ["drop", "500", "wrong-digest"])
def test_a_lasting_fault_from_every_position(scene: Scene, fault: str) -> None:
    scene.publish(None, 0)
    total = scene.plan.seen
    for position in range(0, total, 3):
        outcome, moved = scene.publish(fault, position, lasting=True)
        if fault != "wrong-digest":
            assert outcome == "unreachable"
            assert moved is None or position > total // 2
