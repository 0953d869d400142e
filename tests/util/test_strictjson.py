"""JSON with one meaning only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.util.strictjson import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_writes_is_read(value: object) -> None:
    assert strict_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' is repeated"), ('[{"b": {"a": 1, "a": 2}}]', "the key 'a' is repeated"),
        ("[NaN]", "NaN is not"), ('{"a": -Infinity}', "-Infinity is not"), ("{", "Expecting"), (b"\xff", "decode"),
    ],
)  # fmt: skip
def test_what_readers_differ_about_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json(text)


def test_case_counts_unless_it_is_ignored() -> None:
    text = '{"Digest": 1, "digest": 2}'
    assert strict_json(text) == {"Digest": 1, "digest": 2}
    with pytest.raises(ValueError, match="the key 'digest' is repeated"):
        strict_json(text, ignore_case=True)
