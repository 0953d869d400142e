"""Suites and rows that cannot be used: each is refused with its place, before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.gate.answers import make_parser
from builder.gate.lint import lint
from builder.gate.rows import read_rows, same
from builder.gate.suite import SCHEMA_ID, json_schema, load_suite
from builder.util.errors import InputError
from tests.support.suites import row, write_suite

ROOT = Path(__file__).parents[2]
ROWS = [row(f"r{number}", legal=number % 2 == 0) for number in range(20)]


def refused(root: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        suite = load_suite("small", root)
        make_parser(suite)
        read_rows(suite)
    return caught.value


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"mertics": {}}, "gates/small.yaml:22:1: unknown key 'mertics'; did you mean 'metrics'?"),
        ({"answer": {"format": "json", "pattern": "(?P<a>.)"}}, "an answer has one of"),
        ({"answer": {"pattern": "("}}, "is not a regular expression"),
        ({"answer": {"pattern": "a"}}, "has no named group"),
        ({"answer": {"exact": True, "schema": "x.json"}}, "'schema' belongs to"),
        ({"metrics": {"a": {"kind": "recall", "field": "legal"}}, "require": [{"rows": "answered", "min": 1}]}, "'label' belongs to"),
        ({"require": [{"metric": "agreemnet", "min": 1}]}, "there is no metric 'agreemnet'"),
        ({"require": [{"metric": "agreement", "min": 1, "max": 2}]}, "has one of"),
        ({"require": [{"metric": "agreement", "not_worse_than": "reference"}]}, "belong together"),
        ({"require": [{"rows": "answered", "max": 1}]}, "has one of"),
        ({"require": [{"count": "transport", "rows": "answered", "max": 1}]}, "is about one of"),
        ({"require": [{"count": "empty", "max": 0}, {"count": "empty", "max": 1}]}, "required more than once"),
        ({"require": []}, "require"),
        ({"require": [{"metric": "agreement", "min": 83.3}]}, "a metric is a share, from 0 to 1"),
        ({"require": [{"metric": "agreement", "max": -0.1}]}, "a metric is a share, from 0 to 1"),
        ({"require": [{"rows": "answered", "min": 21}]}, "gates/small.yaml requires 21 rows to be answered, and gates/small.jsonl has 20"),
        ({"require": [{"count": "transport", "max": -1}]}, "a count is not negative"),
        ({"answer": {"exact": True}}, "the metric agreement is about 'legal'; answers here have: answer"),
        ({"answer": {"pattern": "(?P<verdict>yes|no)"}}, "the metric agreement is about 'legal'; answers here have: verdict"),
        (
            {"answer": {"pattern": "(?P<legal>yes|no)"}, "metrics": {"agreement": {"kind": "recall", "field": "legal", "label": True}}},
            "the label of agreement is not text",
        ),
        ({"answer": {"pattern": "(?P<legal>yes|no)"}}, "gates/small.jsonl:1: legal is true, and the suite reads text: agreement would be wrong"),
        ({"prompt_cap": 10}, "leaves rows out"),
        ({"sampling": {"temperature": 0}}, "max_tokens"),
        ({"limits": {"tries": 0}}, "must be at least 1"),
        ({"rows_sha256": "0" * 64}, "is not the file that the suite pins"),
        ({"rows": "nowhere.jsonl"}, "the rows of small are missing"),
        ({"answer": {"format": "json", "schema": "absent.json"}}, "cannot read the answer schema absent.json"),
        ({"answer": {"format": "json", "schema": "bad.json"}}, "the answer schema bad.json does not compile"),
        ({"answer": {"format": "json", "schema": "type.json"}}, "the answer schema type.json does not compile"),
        ({"metrics": {"agreement": {"kind": "equal", "field": "legl"}}}, "no row expects a 'legl'"),
        ({"metrics": {"agreement": {"kind": "recall", "field": "legal", "label": "yes"}}}, 'no row has legal = "yes", the label of agreement'),
        ({"name": "other"}, "calls itself 'other'"),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_used(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    write_suite(tmp_path, ROWS)
    path = tmp_path / "gates/small.yaml"
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**document, **keys}, sort_keys=False))
    (tmp_path / "gates/bad.json").write_text("{")
    (tmp_path / "gates/type.json").write_text('{"type": "objekt"}')
    assert says in str(refused(tmp_path).message)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not valid JSON"), ("[]", "is not a JSON object"), ('{"id": "x"}', "'messages' is a list"),
        ('{"id": "", "messages": []}', "'id' is a short text"), ('{"id": "r1", "messages": [{"role": "user", "content": "x"}]}', "the id 'r1' is repeated"),
        ('{"id": "x", "messages": [{"role": "usr", "content": "x"}]}', "has a role of"),
        ('{"id": "x", "messages": [{"role": "user", "content": "x"}], "expect": {}}', "unknown key 'expect'"),
        ('{"id": "x", "messages": [{"role": "user", "content": "x"}], "expected": {"a": []}}', "'expected' has plain values"),
        ('{"id": "x", "messages": [{"role": "user", "content": "x"}], "tools": {}}', "'tools' is a list"),
        ('{"id": "x", "id": "y", "messages": [{"role": "user", "content": "x"}]}', "the key 'id' is repeated"),
        ('{"id": "x", "messages": [{"role": "user", "content": "x"}], "expected": {"a": NaN}}', "NaN is not a JSON value"),
        ('{"id": "x", "messages": [{"role": "user", "content": "\\ud800"}]}', "has characters that UTF-8 does not have"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, line: str, says: str) -> None:
    write_suite(tmp_path, ROWS)
    path = tmp_path / "gates/small.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:16], line, *lines[16:]]) + "\n")
    error = refused(tmp_path)
    assert error.message.startswith("gates/small.jsonl:17: ")
    assert says in error.message


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_line_is_a_row_or_refused(data: bytes) -> None:
    from builder.gate.rows import parse_row

    try:
        found = parse_row(data, 1, "rows")
    except InputError as error:
        assert error.message.startswith("rows:1: ")
    else:
        assert found.id


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.text(max_size=5) | st.integers(), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["id", "messages", "role", "user", "content", "expected", "tools"]), x)))  # fmt: skip
def test_any_json_is_a_row_or_refused(value: Any) -> None:
    test_any_line_is_a_row_or_refused.hypothesis.inner_test(json.dumps(value).encode())  # type: ignore[attr-defined]


def test_what_a_suite_ships_with(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = json_schema()
    assert schema["$id"] == SCHEMA_ID
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in ("hard-gate-34", "silver200", "sample"):
        suite = load_suite(name, ROOT)
        jsonschema.validate(yaml.safe_load((ROOT / "gates" / f"{name}.yaml").read_text()), schema)
        if name == "sample":
            found = lint(suite)
            assert len(found.rows) >= 34
            assert min(found.labels["language"].values()) >= 15
            assert found.warnings == ("urgent_recall has a denominator of 8: its interval is wide",)
        else:
            with pytest.raises(InputError, match=f"the rows of {name} are missing"):
                read_rows(suite)
    assert {each.name: each.min for each in load_suite("hard-gate-34", ROOT).suite.require if each.metric} == {
        "agreement-min": 0.833, "harmful_precision-min": 1.0, "harmful_recall-min": 0.75, "wrong_link-max": None,
    }  # fmt: skip


def test_lint_says_what_thresholds_show(tmp_path: Path) -> None:
    rows = [row(f"r{number}", legal=number % 2 == 0, note="x") for number in range(183)]
    rows[7]["messages"] = rows[8]["messages"]
    suite = write_suite(
        tmp_path, rows,
        metrics={"agreement": {"kind": "equal", "field": "legal"}, "recall": {"kind": "recall", "field": "legal", "label": True}},
        require=[
            {"rows": "answered", "share": 0.9}, {"metric": "agreement", "min": 0.8852},
            {"metric": "agreement", "not_worse_than": "reference", "margin": 0.05},
        ],
    )  # fmt: skip
    found = lint(suite)
    shows = dict(found.shows)
    assert shows["agreement-min"] == "at least 0.8852: 162 of 183 at least, which is 0.8852 (95 % 0.831 to 0.924)"
    assert "with 183 pairs and 10% discordant ones, two equal sides pass in 69% of runs" in shows["agreement-not-worse"]
    assert "the smallest margin that passes in 80% is 0.058" in shows["agreement-not-worse"]
    assert found.labels["legal"] == {"true": 92, "false": 91}
    assert found.warnings[:3] == (
        "the same prompt: r7, r8", "no metric is about 'note'", "the metric recall is not required",
    )  # fmt: skip


@pytest.mark.parametrize(("one", "other", "equal"), [(True, 1, False), (1, 1.0, True), ("c\u030c ", "\u010d", True), (None, "x", False), ("1", 1, False)])  # fmt: skip
def test_equality(one: object, other: object, equal: bool) -> None:
    assert same(one, other) is equal
