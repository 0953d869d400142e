"""The record: one type for its writer and its readers, and a schema that others can use."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from builder.documents.lock import Lock, read_lock
from builder.documents.record import SCHEMA_ID, make_record, read_record
from builder.util.errors import InputError
from tests.support.cli import builder

ROOT = Path(__file__).parents[2]


def lock() -> Lock:
    return read_lock(ROOT / "images/demo.lock.yaml")


def test_a_record_reads_back_to_its_bytes() -> None:
    data = make_record(lock(), "linux/amd64", base_config={"Entrypoint": ["vllm", "serve"], "Cmd": None})
    assert read_record(data).dump() == data
    # A key without a value is left out, as it always was.
    assert "head" not in json.loads(data)["overlays"][0]
    assert list(json.loads(data))[:3] == ["schema", "name", "description"]


def test_the_published_schema_takes_it_and_nothing_else() -> None:
    printed = builder("schema", "record", "--json", cwd=ROOT)
    assert printed.code == 0, printed.err
    schema = json.loads(printed.out)
    assert schema["$id"] == SCHEMA_ID
    document = json.loads(make_record(lock(), "linux/amd64", base_config={}))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "evil": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "schema": 2}, schema)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"schema": 2}', b"[" * 10_000])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read_record(data)


@pytest.mark.parametrize("config", [{"Entrypoint": "vllm serve"}, {"Entrypoint": [1]}, {"Cmd": {"a": 1}}])
def test_a_base_whose_entrypoint_is_no_list_of_words_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        make_record(lock(), "linux/amd64", base_config=config)
    assert "another shape" in str(caught.value.hint)
