"""A promotion behind a faulty network, and one that is killed: the tag is the old or the new one, never without its evidence."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from builder.oci.registry.client import Registry
from builder.util.errors import BuilderError, MismatchError, UnreachableError
from tests.support.faultproxy import LOST, WRONG, Plan, fault_proxy
from tests.support.promotion import Stage, stage


class Scene:
    """A registry behind a faulty proxy, and an image whose tag `production` names another one."""

    def __init__(self, made: Stage, proxy: str, plan: Plan) -> None:
        self.made, self.proxy, self.plan = made, proxy, plan
        self.first = made.repository()
        made.attach(self.first)
        self.second = made.copy(self.first)
        made.attach(self.second, tag="two")
        made.promote(self.second, ref="two")

    def ready(self, *, first: bool = False) -> str:
        """A repository with an image that may be promoted; `production` names the other image, or nothing when `first`."""
        return self.made.copy(self.first if first else self.second)

    def check(self, name: str, before: str | None) -> str | None:
        """What the tag names: the old image, or the new one with its summary."""
        holds = self.made.holds(name)
        assert holds in (before, self.made.digests["one"])
        if holds == self.made.digests["one"]:
            passed = [each for each in self.made.summaries(name) if each["verificationResult"] == "PASSED"]
            assert passed, "the tag names an image without its summary"
            assert passed[0]["inputAttestations"]
        return holds

    def promote(self, name: str, fault: str | None, first: int, *, lasting: bool = False) -> str:
        plan = self.plan
        plan.fault, plan.first, plan.lasting, plan.seen = fault, first, lasting, 0
        plan.requests.clear()
        before = self.made.holds(name)
        try:
            self.made.promote(name, host=self.proxy)
            outcome = "done"
        except UnreachableError:
            outcome = "unreachable"
        except MismatchError:
            outcome = "mismatch"
        plan.fault = None
        holds = self.check(name, before)
        if outcome == "done":
            assert holds == self.made.digests["one"]
        return outcome


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    plan = Plan()
    with stage(tmp_path_factory.mktemp("faults")) as made, fault_proxy(made.host, plan) as proxy:
        yield Scene(made, proxy, plan)


@pytest.fixture(scope="module")
def total(scene: Scene) -> int:
    """How many requests a promotion takes."""
    assert scene.promote(scene.ready(), None, 0) == "done"
    return scene.plan.seen


@pytest.mark.parametrize("fault", (*LOST, *WRONG))
def test_a_single_fault_at_every_request(scene: Scene, total: int, fault: str) -> None:
    outcomes = []
    for position in range(total):
        name = scene.ready()
        outcomes.append(scene.promote(name, fault, position))
        if position % 3 == 0:
            # Whatever a fault left behind, the next promotion ends it.
            scene.made.promote(name)
            assert scene.check(name, None) == scene.made.digests["one"]
    assert outcomes.count("done") > total // 2, outcomes
    assert "mismatch" not in outcomes, outcomes


@pytest.mark.parametrize("fault", ["drop", "500", "lose-response"])
def test_a_registry_that_dies_at_every_request(scene: Scene, total: int, fault: str) -> None:
    """Before, between and after summary and tag."""
    for position in range(total):
        name = scene.ready(first=position % 2 == 0)
        outcome = scene.promote(name, fault, position, lasting=True)
        # Where the tag is new, a promotion asks a little less.
        assert outcome == "unreachable" or scene.plan.seen <= position
        # The registry is back: the promotion that was cut off is made again, and ends as it should.
        scene.made.promote(name)
        assert scene.made.holds(name) == scene.made.digests["one"]


def killed_at(made: Stage, name: str, number: int, *, after: bool) -> bool:
    """Promote in a child process that kills itself at its request `number`; whether it came to that.

    `after` kills it when the registry has done what was asked, and the child does not know yet.
    """
    child = os.fork()
    if child == 0:
        send, count = Registry.send, itertools.count(1)

        def counted(*arguments: Any, **options: Any) -> Any:
            mine = next(count) == number
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            response = send(*arguments, **options)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return response

        Registry.send = counted  # type: ignore[method-assign]
        try:
            made.promote(name)
        except BuilderError:
            os._exit(1)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_step(scene: Scene, after: bool) -> None:
    kills = moved = 0
    for number in itertools.count(1):
        name = scene.ready()
        killed = killed_at(scene.made, name, number, after=after)
        if scene.check(name, scene.made.digests["two"]) == scene.made.digests["one"]:
            moved += 1
        elif number % 3 == 0:
            scene.made.promote(name)
            assert scene.check(name, None) == scene.made.digests["one"]
        if not killed:
            break
        kills += 1
    # Resolve, judge, summary, tag: each takes more than one request; some kills come after the tag is set.
    assert kills > 12
    assert moved >= 2
