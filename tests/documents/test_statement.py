"""Statements: read so that nobody can read them as something else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.documents.statement import make_statement, parse_statement
from builder.util.errors import InputError

_HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 50), 1 << 50) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(
    subjects=st.lists(st.tuples(st.text(min_size=1, max_size=20), _HEX), min_size=1, max_size=4),
    predicate=st.dictionaries(st.text(min_size=1, max_size=9), _JSON, min_size=1, max_size=4),
)
def test_what_is_written_is_read_again(subjects: list[tuple[str, str]], predicate: dict[str, object]) -> None:
    found = parse_statement(
        make_statement([(n, f"sha256:{d}") for n, d in subjects], "https://x.example/v1", predicate)
    )
    assert found.digests == tuple(f"sha256:{digest}" for _, digest in subjects)
    assert found.predicate == predicate


@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_statement(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"_type": "https://in-toto.io/Statement/v1", "_type": "https://in-toto.io/Statement/v1"}',
        b'{"_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicateType": "x", "predicate": {}}',
        b'{"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": "x", "predicate": {}}',
        b'{"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha1": "a"}}], "predicateType": "x", "predicate": {}}',
        b'{"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": "a"}}], "predicateType": "", "predicate": {}}',
        b"[" * 100_000,
    ],
)
def test_statements_of_another_shape_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_statement(data)
