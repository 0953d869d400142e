"""Policies: what they say, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.documents.policy import SCHEMA_ID, json_schema, load_policy
from builder.documents.recipe import Recipe
from builder.util.errors import InputError
from tests.support.cli import builder

ROOT = Path(__file__).parents[2]


def write(root: Path, **document: Any) -> Path:
    path = root / "gates/production.yaml"
    path.parent.mkdir(exist_ok=True)
    whole = {"name": "production", "suites": [{"name": "sample"}], "signers": [{"key": "gates/gate.pub"}], **document}
    path.write_text(yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))
    return path


def test_the_shipped_policy_names_suites_and_a_profile_that_are_shipped() -> None:
    loaded = load_policy(ROOT / "gates/production.yaml")
    assert loaded.root == ROOT
    assert loaded.uri == "gates/production.yaml"
    for suite in loaded.policy.suites:
        assert (ROOT / f"gates/{suite.name}.yaml").is_file()
    assert (ROOT / f"profiles/{loaded.policy.profile}.yaml").is_file()
    profile = yaml.safe_load((ROOT / f"profiles/{loaded.policy.profile}.yaml").read_text())
    assert profile["hardware"]["gpu"] == loaded.policy.gpu


def test_the_schema_takes_the_shipped_policy_and_has_an_id() -> None:
    printed = builder("schema", "policy", cwd=ROOT)
    assert printed.code == 0, printed.err
    schema = json.loads(printed.out)
    assert schema == json_schema()
    assert schema["$id"] == SCHEMA_ID
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((ROOT / "gates/production.yaml").read_text()), schema)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signer": []}, "did you mean 'signers'"),
        ({"suites": []}, "suites"),
        ({"suites": [{"name": "a"}, {"name": "a"}]}, "listed twice"),
        ({"suites": [{"name": "smoke:tiny"}]}, "has no file here"),
        ({"suites": [{"name": "../etc"}]}, "suites"),
        ({"suites": [{"name": "a", "sha256": "AB"}]}, "sha256"),
        ({"signers": None}, "who may sign"),
        ({"signers": [{"key": "a", "identity": "b", "issuer": "https://c"}]}, "either 'key'"),
        ({"signers": [{"identity": "b"}]}, "'identity' and 'issuer'"),
        ({"signers": [{"identity": "b", "issuer": "c"}]}, "issuer"),
        ({"max_age_days": 0}, "max_age_days"),
        ({"allow_unsigned": "yes"}, "allow_unsigned"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_policy(write(tmp_path, **change))
    assert message in "\n".join(caught.value.data["problems"])
    assert "gates/production.yaml" in caught.value.message
    assert caught.value.hint == "`builder schema policy` prints what is allowed"


@given(data=st.binary(max_size=200))
def test_whatever_is_no_policy_is_refused_in_words(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("policy") / "x.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError):
        load_policy(path)


def test_the_tags_of_a_recipe_are_no_part_of_its_digest() -> None:
    plain = Recipe.model_validate({"name": "a", "base": "docker.io/x/y:z"})
    with_policy = Recipe.model_validate(
        {"name": "a", "base": "docker.io/x/y:z", "policies": {"production": "gates/production.yaml"}}
    )
    assert plain.digest == with_policy.digest
    with pytest.raises(ValueError, match="policies"):
        Recipe.model_validate({"name": "a", "base": "docker.io/x/y:z", "policies": {"no tag": "x"}})
