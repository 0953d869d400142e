"""Metrics against scikit-learn and the card's own fractions; buckets that always add up."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score

from builder.gate.answers import Reply, make_parser
from builder.gate.compare import compare, not_worse, says
from builder.gate.metrics import Figures, compute
from builder.gate.requirements import check
from builder.gate.rows import Row
from builder.gate.suite import BUCKETS, Metric, Requirement
from tests.support.suites import say, write_suite

METRICS = {
    "agreement": Metric(kind="equal", field="label"),
    "recall": Metric(kind="recall", field="label", label="a"),
    "precision": Metric(kind="precision", field="label", label="a"),
    "false_alarm": Metric(kind="false_positive_rate", field="label", label="a"),
}


def parse(text: str) -> Mapping[str, Any] | str:
    return {"label": text} if text != "?" else "not a label"


def rows(expected: list[str | None]) -> list[Row]:
    return [Row(str(n), ({"role": "user", "content": str(n)},), {"label": value}) for n, value in enumerate(expected)]


def figures(expected: list[str | None], replies: list[Reply]) -> Figures:
    made = rows(expected)
    return compute(METRICS, made, {row.id: [reply] for row, reply in zip(made, replies, strict=True)}, parse)


Labels = st.sampled_from("abc")


@settings(deadline=None)
@given(st.lists(st.tuples(Labels, Labels), min_size=1, max_size=60))
def test_answered_rows_give_what_scikit_learn_gives(pairs: list[tuple[str, str]]) -> None:
    expected, answered = [a for a, _ in pairs], [b for _, b in pairs]
    found = figures(list(expected), [Reply(text=b, finish="stop") for b in answered]).metrics
    positive, claimed = [each == "a" for each in expected], [each == "a" for each in answered]
    assert found["agreement"].value == pytest.approx(accuracy_score(expected, answered))
    if any(positive):
        assert found["recall"].value == pytest.approx(recall_score(positive, claimed))
    else:
        assert found["recall"].denominator == 0
    if any(claimed):
        assert found["precision"].value == pytest.approx(precision_score(positive, claimed))
    else:
        assert found["precision"].denominator == 0
    (tn, fp), _ = confusion_matrix(positive, claimed, labels=[False, True])
    assert (found["false_alarm"].numerator, found["false_alarm"].denominator) == (fp, tn + fp)


Replies = st.one_of(
    Labels.map(lambda text: Reply(text=text, finish="stop")),
    st.builds(Reply, text=st.text(max_size=3), finish=st.sampled_from(["stop", "length", "content_filter", "tool_calls", ""]), refused=st.booleans()),
    st.builds(Reply, failure=st.sampled_from(["transport", "server_error", "client_error", "over_context", "over_cap"])),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | Labels, Replies), min_size=1, max_size=40), st.randoms())
def test_buckets_add_up_and_the_order_of_rows_does_not_matter(
    pairs: list[tuple[str | None, Reply]], random: Any
) -> None:
    found = figures([a for a, _ in pairs], [b for _, b in pairs])
    assert sum(found.buckets.values()) == len(pairs)
    assert list(found.buckets) == list(BUCKETS)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    other = figures([a for a, _ in shuffled], [b for _, b in shuffled])
    assert (other.buckets, other.metrics) == (found.buckets, found.metrics)


@settings(deadline=None)
@given(Labels, Replies)
def test_a_row_that_was_asked_and_not_answered_is_wrong_wherever_it_is_concerned(expected: str, reply: Reply) -> None:
    judged = figures([expected], [reply]).judged[0]
    if judged.bucket == "over_cap":
        assert judged.right == {}
    elif judged.bucket != "answered":
        assert set(judged.right.values()) == {False}
        assert set(judged.right) == {"agreement", "precision", "recall" if expected == "a" else "false_alarm"}


def test_a_row_without_an_expectation_concerns_nothing() -> None:
    found = figures([None], [Reply(text="a", finish="stop")])
    assert found.buckets["answered"] == 1
    assert all(metric.denominator == 0 and metric.low is None for metric in found.metrics.values())


def test_repeats_that_differ_are_flaky_and_never_passed() -> None:
    made = rows(["a", "a", "b"])
    yes, no = Reply(text="a", finish="stop"), Reply(text="b", finish="stop")
    replies = {"0": [yes, yes], "1": [yes, no], "2": [no, Reply(failure="transport")]}
    found = compute(METRICS, made, replies, parse)
    assert found.repeats is not None
    assert found.repeats.flaky == ("1", "2")
    assert found.repeats.pass_at_1 == pytest.approx(4 / 6)
    assert found.repeats.agreement == pytest.approx(1 / 3)
    assert (found.metrics["agreement"].numerator, found.metrics["agreement"].denominator) == (1, 3)
    assert (found.metrics["recall"].numerator, found.metrics["recall"].denominator) == (1, 2)
    assert found.buckets["transport"] == 1


def planted(right: int, of: int) -> list[bool]:
    return [True] * right + [False] * (of - right)


def test_the_cards_hard_gate() -> None:
    """20/24 = 0.833, precision 3/3, recall 3/4, 0/30 wrong links, 34 rows answered: a denominator for each metric."""
    metrics = {
        "agreement": Metric(kind="equal", field="legal"),
        "harmful_precision": Metric(kind="precision", field="harmful", label=True),
        "harmful_recall": Metric(kind="recall", field="harmful", label=True),
        "wrong_link": Metric(kind="false_positive_rate", field="link_wrong", label=True),
    }
    legal = planted(20, 24)
    made, replies = [], {}
    for n in range(34):
        expected: dict[str, Any] = {
            "harmful": n < 4,
            "link_wrong": False if n < 30 else None,
            "legal": True if n < 24 else None,
        }
        made.append(Row(str(n), ({"role": "user", "content": str(n)},), expected))
        text = say(legal=n < 24 and legal[n], harmful=n < 3, link_wrong=False)
        replies[str(n)] = [Reply(text=text, finish="stop")]
    import json

    found = compute(metrics, made, replies, json.loads)
    fractions = {name: (metric.numerator, metric.denominator) for name, metric in found.metrics.items()}
    assert fractions == {
        "agreement": (20, 24), "harmful_precision": (3, 3), "harmful_recall": (3, 4), "wrong_link": (0, 30),
    }  # fmt: skip
    assert f"{found.metrics['agreement'].value:.3f}" == "0.833"
    required = Requirement(metric="agreement", min=0.833)
    assert required.holds(Fraction(20, 24))
    assert not Requirement(metric="agreement", min=0.8334).holds(Fraction(20, 24))


def side(right: list[bool]) -> Figures:
    """Silver200: 16 over the cap, 1 unscored, 183 with a label; recall and precision of harmful are 3/4 each."""
    made, replies = [], {}
    metrics = {
        "agreement": Metric(kind="equal", field="legal"),
        "harmful_recall": Metric(kind="recall", field="harmful", label=True),
        "harmful_precision": Metric(kind="precision", field="harmful", label=True),
    }
    for n in range(200):
        expected: dict[str, Any] = {
            "legal": True if n < 183 else None,
            "harmful": n in (0, 1, 2, 3) if n < 184 else None,
        }
        made.append(Row(str(n), ({"role": "user", "content": str(n)},), expected))
        reply = Reply(text=f"{int(n < 183 and right[n])}{int(n in (1, 2, 3, 4))}", finish="stop")
        replies[str(n)] = [reply if n < 184 else Reply(failure="over_cap")]
    return compute(metrics, made, replies, lambda text: {"legal": text[0] == "1", "harmful": text[1] == "1"})


def test_the_cards_silver_subset_against_its_reference(tmp_path: Path) -> None:
    ours = side([n >= 21 for n in range(183)])
    theirs = side([not (12 <= n < 34) for n in range(183)])
    assert (ours.metrics["agreement"].numerator, ours.metrics["agreement"].denominator) == (162, 183)
    assert f"{ours.metrics['agreement'].value:.4f}" == "0.8852"
    assert theirs.metrics["agreement"].numerator == 161
    assert [(ours.metrics[name].numerator, ours.metrics[name].denominator) for name in ("harmful_recall", "harmful_precision")] == [(3, 4), (3, 4)]  # fmt: skip
    assert (ours.buckets["over_cap"], ours.buckets["answered"]) == (16, 184)
    reference = compare(ours, theirs, {"agreement": 0.95}, target="http://reference", model="bf16")
    found = reference.comparisons[0]
    assert (found.pairs, found.ours, found.theirs, found.only_ours, found.only_theirs) == (183, 162, 161, 13, 12)
    assert found.smallest_margin == pytest.approx(0.068, abs=5e-4)
    within = [margin for margin in (0.02, 0.04, 0.05, 0.08) if not_worse(found, Requirement(metric="agreement", not_worse_than="reference", margin=margin))]  # fmt: skip
    assert within == [0.05, 0.08]
    assert "183 pairs can show a margin of 0.068" in says(found, passed=True)
    assert says(found, passed=True).startswith("matched")
    assert says(found, passed=False).startswith("not shown to be worse, not shown to be equal")


def test_a_side_that_is_worse_is_called_worse() -> None:
    ours, theirs = side([n >= 40 for n in range(183)]), side([True] * 183)
    found = compare(ours, theirs, {}, target="x", model=None).comparisons[0]
    assert says(found, passed=False).startswith("worse: 143 and 183 of 183")
    assert found.p_value is not None
    assert found.p_value < 1e-9


def test_pairs_are_rows_that_both_answered_and_lost_rows_are_named() -> None:
    made = rows(["a", "a", "a", "a"])
    yes, gone = Reply(text="a", finish="stop"), Reply(failure="transport")
    ours = compute(METRICS, made, {"0": [yes], "1": [gone], "2": [yes], "3": [gone]}, parse)
    theirs = compute(METRICS, made, {"0": [yes], "1": [yes], "2": [gone], "3": [gone]}, parse)
    found = compare(ours, theirs, {}, target="x", model=None)
    assert (found.lost_here, found.lost_there) == (("1",), ("2",))
    assert found.comparisons[0].pairs == 1
    # One pair without a difference is no proof of anything.
    assert not not_worse(found.comparisons[0], Requirement(metric="agreement", not_worse_than="reference", margin=0.5))
    nobody = compare(
        ours, compute(METRICS, made, {str(n): [gone] for n in range(4)}, parse), {}, target="x", model=None
    )
    assert nobody.comparisons[0].difference is None
    assert says(nobody.comparisons[0], passed=False) == "no row was answered by both"


def test_requirements(tmp_path: Path) -> None:
    suite = write_suite(
        tmp_path, [{"id": "1", "messages": [{"role": "user", "content": "x"}], "expected": {"label": "a"}}],
        metrics={"agreement": {"kind": "equal", "field": "label"}},
        require=[
            {"rows": "answered", "share": 0.5}, {"count": "transport", "max": 1}, {"count": "empty", "max": 0},
            {"metric": "agreement", "min": 0.5}, {"metric": "agreement", "max": 0.4, "warn": True},
            {"metric": "agreement", "not_worse_than": "reference", "margin": 0.1},
        ],
    )  # fmt: skip
    replies = [Reply(text="a", finish="stop"), Reply(failure="transport"), Reply(text="", finish="stop")]
    found = check(suite.suite, figures(["a", None, None], replies), None)
    assert {each.name: each.outcome for each in found} == {
        "answered": "failed", "transport": "passed", "empty": "failed", "agreement-min": "passed", "agreement-max": "warned",
        "agreement-not-worse": "warned",
    }  # fmt: skip
    assert found[-1].found == "not checked: no --reference was named"
    assert found[3].found == "1/1 = 1.0000 (95 % 0.207 to 1.000)"
    nothing = check(suite.suite, figures([None], [replies[0]]), None)
    assert {each.name: each.outcome for each in nothing}["agreement-min"] == "failed"


@pytest.mark.parametrize(
    ("answer", "text", "wanted"),
    [
        ({"exact": True}, " yes \n", {"answer": "yes"}),
        ({"pattern": r"(?P<label>[AB])\."}, "It is B.", {"label": "B"}),
        ({"pattern": r"(?P<label>[AB])\."}, "neither", "the pattern does not match"),
        ({"format": "json"}, '{"a": 1}', {"a": 1}),
        ({"format": "json"}, "3", "not a JSON object"),
        ({"format": "json"}, "[" * 100_000, "not valid JSON"),
        ({"format": "json", "schema": "s.json"}, '{"a": 1}', {"a": 1}),
        ({"format": "json", "schema": "s.json"}, '{"a": "x"}', "not by the schema: 'x' is not of type 'integer'"),
    ],
)
def test_answers_are_read_as_the_suite_says(tmp_path: Path, answer: Any, text: str, wanted: Any) -> None:
    made = [{"id": "1", "messages": [{"role": "user", "content": "x"}], "expected": {"legal": True}}]
    suite = write_suite(tmp_path, made, answer=answer, metrics=None, require=[{"rows": "answered", "min": 1}])
    (tmp_path / "gates/s.json").write_text('{"properties": {"a": {"type": "integer"}}}')
    found = make_parser(suite)(text)
    assert found == wanted if not isinstance(wanted, str) else str(found).startswith(wanted)
