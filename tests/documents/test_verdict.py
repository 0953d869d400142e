"""Verdicts are in-toto statements that read back as they were written, and that cannot contradict themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from builder.documents.verdict import (
    EXTENSION,
    PREDICATE,
    Details,
    ImageIdentity,
    Judged,
    Metric,
    Outcome,
    Resource,
    Suite,
    Verdict,
)
from builder.util.errors import InputError

IMAGE = "sha256:" + "1" * 64
SUITE = "2" * 64


def made(*outcomes: Outcome, bound: bool = True, **details: Any) -> Verdict:
    image = ImageIdentity(reference="registry.test/team/image:1", digest=IMAGE, id=IMAGE)
    return Verdict(
        subject=(Resource(name="registry.test/team/image", sha256=("1" if bound else "3") * 64),),
        configuration=(Resource(name="suite", sha256=SUITE),),
        details=Details(
            kind="gate", bound=bound, suite=Suite(name="sample", sha256=SUITE), target="http://127.0.0.1:8000",
            image=image if bound else None, profile="smoke", gpu="rtx-5090",
            begun="2026-01-02T03:04:05Z", ended="2026-01-02T03:05:05Z", expires="2026-04-02T03:05:05Z",
            rows=3, buckets={"answered": 2, "empty": 1},
            metrics=(Metric(name="agreement", kind="equal", numerator=2, denominator=3, low=0.2, high=0.9),),
            tests=tuple(Judged(name=f"test-{i}", outcome=each) for i, each in enumerate(outcomes)) , **details,
        ),
    )  # fmt: skip


def test_it_reads_back_as_it_was_written_and_says_what_a_promoter_asks() -> None:
    verdict = made("passed", "warned")
    data = verdict.statement()
    found = Verdict.parse(data)
    assert found == verdict
    assert found.statement() == data
    assert (found.result, found.bound, found.image_digests) == ("WARNED", True, (IMAGE,))
    assert (found.suite, found.suite_digest, found.profile, found.gpu) == (
        "sample",
        f"sha256:{SUITE}",
        "smoke",
        "rtx-5090",
    )
    assert found.expires - found.ended == timedelta(days=90)
    assert found.expired(found.expires)
    assert not found.expired(found.ended)


def test_in_toto_reads_statement_and_predicate() -> None:
    data = made("passed", "failed").statement()
    statement = Parse(data, statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()
    predicate = json.loads(data)["predicate"]
    predicate.pop(EXTENSION)
    found = Parse(json.dumps(predicate), test_result_pb2.TestResult())
    assert (found.result, list(found.passed_tests), list(found.failed_tests)) == (
        "FAILED", ["sample/test-0"], ["sample/test-1"],
    )  # fmt: skip
    assert json.loads(data)["predicateType"] == PREDICATE


def test_an_unbound_verdict_is_about_no_image() -> None:
    found = Verdict.parse(made("passed", bound=False).statement())
    assert not found.bound
    assert found.image_digests == ()


def _set(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


OURS = ("predicate", EXTENSION)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("_type", value="https://in-toto.io/Statement/v0.1"), "_type"),
        (_set("predicateType", value="https://slsa.dev/provenance/v1"), "predicateType"),
        (_set("predicate", value={}), "does not have the field"),
        (_set("predicate", "result", value="PASSED"), "result is not what its tests say"),
        (_set("predicate", "failedTests", value=[]), "failedTests"),
        (_set("subject", 0, "digest", "sha256", value="4" * 64), "its subject is not the image"),
        (_set("subject", 0, "digest", value={"sha1": "1"}), "by sha256"),
        (_set("subject", value=[]), "subject"),
        (_set(*OURS, "buckets", "answered", value=3), "the buckets hold 4 rows of 3"),
        (_set(*OURS, "suite", "sha256", value="5" * 64), "suite of its configuration"),
        (_set(*OURS, "metrics", 0, "numerator", value=9), "9 of 3"),
        (_set(*OURS, "expires", value="2025-01-01T00:00:00Z"), "in this order"),
        (_set(*OURS, "bound", value=False), None),
        (_set(*OURS, "surprise", value=1), "surprise"),
        (_set(*OURS, "seconds", value="NaN"), "seconds"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(change: Callable[[dict[str, Any]], None], says: str | None) -> None:
    document = json.loads(made("passed", "failed").statement())
    change(document)
    data = json.dumps(document).encode()
    if says is None:
        assert Verdict.parse(data).image_digests == ()
        return
    with pytest.raises(InputError) as caught:
        Verdict.parse(data, name="old.json")
    assert caught.value.message == "old.json is not a verdict"
    assert says in caught.value.details[0][1]


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"all passed on sha256:" + b"1" * 64, b'{"a":1,"a":2}'])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="is not a verdict"):
        Verdict.parse(data)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["_type", "subject", "predicate", EXTENSION]), x)).map(lambda x: json.dumps(x).encode()))  # fmt: skip
def test_any_bytes_are_a_verdict_or_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        Verdict.parse(data)
