"""A wrong response, once, in every position of a publication: the right image, or exit code 5 and no tag that is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faultproxy import WRONG
from tests.support.faultscene import Scene, fault_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with fault_scene(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.mark.parametrize("fault", WRONG)
def test_a_single_fault_in_every_position(scene: Scene, fault: str) -> None:
    scene.publish(None, 0)
    total = scene.plan.seen
    outcomes = [scene.publish(fault, position)[0] for position in range(total)]
    # Most single faults are overcome without anybody's help.
    assert outcomes.count("done") > len(outcomes) // 2, outcomes
