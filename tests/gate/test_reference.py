"""Two sides on the same rows, and rows that are asked several times: who is asked what, and what the verdict says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.documents.verdict import Verdict
from builder.gate.assemble import Written, write_run
from tests.support.chatserver import ChatServer, chatting, hang_up, prompt_of
from tests.support.suites import row, run, say, write_suite

REQUIRE = [
    {"rows": "answered", "min": 10},
    {"metric": "agreement", "not_worse_than": "reference", "margin": 0.5},
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, list[str], Path]:
    """12 rows; ours is wrong on r01 and loses r02, the reference is wrong on r03 and loses r04."""
    root = tmp_path_factory.mktemp("compared")
    order: list[str] = []

    def side(name: str, wrong: str, lost: str) -> Any:
        def script(_server: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
            asked = prompt_of(body).removeprefix("ask ")
            order.append(f"{name} {asked}")
            return hang_up(handler) if asked == lost else say(legal=asked != wrong)

        return script

    limits = {"attempt_seconds": 60, "tries": 1, "connections": 1}
    suite = write_suite(
        root, [row(f"r{number:02}", legal=True) for number in range(12)], require=REQUIRE, limits=limits
    )
    with (
        chatting(side("ours", "r01", "r02")) as server,
        chatting(side("theirs", "r03", "r04"), model="reference-model") as reference,
    ):
        found = run(root, suite, server, reference=reference)
        return write_run(found, root / "dist/gate", redact=False), order, root


def test_sides_are_asked_in_turns(compared: tuple[Written, list[str], Path]) -> None:
    order = compared[1]
    for side in ("ours", "theirs"):
        assert [each for each in order if each.startswith(side)] == [f"{side} r{number:02}" for number in range(12)]
    # Neither side is ever more than two rows ahead.
    for end in range(len(order)):
        asked = [each.split()[0] for each in order[:end]]
        assert abs(asked.count("ours") - asked.count("theirs")) <= 2


def test_pairs_and_lost_rows(compared: tuple[Written, list[str], Path]) -> None:
    verdict = compared[0].verdict
    reference = verdict.details.reference
    assert reference is not None
    assert (reference.model, reference.lost_here, reference.lost_there) == ("reference-model", ("r02",), ("r04",))
    found = reference.comparisons[0]
    assert (found.pairs, found.ours, found.theirs, found.only_ours, found.only_theirs) == (10, 9, 9, 1, 1)
    assert found.p_value == 1.0
    test = next(each for each in verdict.details.tests if each.name == "agreement-not-worse")
    assert test.outcome == "passed"
    assert test.found.startswith("matched: 9 and 9 of 10")
    assert verdict.result == "PASSED"


def test_the_reference_has_a_verdict_of_its_own(compared: tuple[Written, list[str], Path]) -> None:
    written = compared[0]
    assert written.reference is not None
    theirs = Verdict.parse(written.reference.read_bytes())
    assert not theirs.bound
    assert theirs.details.metrics[0].numerator == 10
    assert [test.name for test in theirs.details.tests] == ["answered"]
    import hashlib

    digest = hashlib.sha256(written.reference.read_bytes()).hexdigest()
    assert written.verdict.config("reference verdict") == digest


def test_without_a_reference_the_comparison_warns(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row(f"r{number:02}", legal=True) for number in range(12)], require=REQUIRE)
    with chatting(lambda _s, _b, _h: say(legal=True)) as server:
        found = write_run(run(tmp_path, suite, server), tmp_path / "dist/gate", redact=False)
    assert found.verdict.result == "WARNED"
    assert found.verdict.named("warned") == ("small/agreement-not-worse",)


def test_repeats_that_differ_are_listed_and_not_passed(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row("steady", legal=True), row("flaky", legal=True), row("wrong", legal=True)])

    def script(server: ChatServer, body: Mapping[str, Any], _handler: Any) -> str:
        name = prompt_of(body).removeprefix("ask ")
        return say(legal=name == "steady" or (name == "flaky" and server.asked.count("ask flaky") < 3))

    with chatting(script) as server:
        found = run(tmp_path, suite, server, repeat=3)
        assert sorted(server.asked) == sorted(["ask steady", "ask flaky", "ask wrong"] * 3)
    written = write_run(found, tmp_path / "dist/gate", redact=False)
    repeats = written.verdict.details.repeats
    assert repeats is not None
    assert (repeats.times, repeats.flaky) == (3, ("flaky",))
    assert repeats.pass_at_1 == pytest.approx(5 / 9)
    assert repeats.agreement == pytest.approx(2 / 3)
    assert (written.verdict.details.metrics[0].numerator, written.verdict.details.metrics[0].denominator) == (1, 3)
    assert written.verdict.result == "FAILED"
    assert "Flaky, and counted as wrong: flaky." in written.html.read_text()
