"""YAML as people write it: right values, right places, and no surprises."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from builder.documents.lock import parse_lock
from builder.documents.recipe import Recipe
from builder.documents.yamlfile import parse_yaml, read_yaml, validate
from builder.util.errors import InputError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pull: str = ""
    fuzz: int = 0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    overlays: tuple[Inner, ...] = ()


def test_values_stay_what_was_written() -> None:
    value = parse_yaml(
        "a: on\nb: 010\nc: 1:30\nd: 2026-01-02\ne: 0.90\nf: 12\ng: true\nh: ~\ni: 'true'\nj: 0x10\n", "f"
    ).value
    assert value == {
        "a": "on", "b": "010", "c": "1:30", "d": "2026-01-02", "e": 0.9, "f": 12, "g": True, "h": None, "i": "true", "j": "0x10",
    }  # fmt: skip
    assert str(value["e"]) == "0.90"


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("name: a\nname: b\n", "f:2:1", "is repeated"),
        ("a: &x [1]\nb: *x\n", "f:2:4", "aliases are not taken"),
        ("a: !!python/object:os.system x\n", "f:1:4", "tag"),
        ("a: [1, 2\n", "f:1:4", "has no `]`"),
        ("? [a]\n: 1\n", "f:1:3", "a key is a word"),
        ("a: b: c\n", "f:1:5", "in one line"),
    ],
)
def test_what_is_refused_names_its_place(text: str, place: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        parse_yaml(text, "f")
    assert caught.value.message.startswith(f"{place}:")


def test_a_character_that_yaml_does_not_take_is_named_with_its_line() -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml("a: 1\nb: \0\n", "f")
    assert caught.value.message == "f:2: the character U+0000 is not allowed in YAML"


def test_a_text_that_is_too_long_is_told_with_its_length(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"name: {'a' * 300}\nbase: x\n")
    with pytest.raises(InputError, match="name: must have at most 100 characters, has 300"):
        validate(Recipe, tmp_path / "x.yaml")


def test_what_is_no_lock_is_not_told_how_a_recipe_begins() -> None:
    with pytest.raises(InputError, match="is not a mapping") as caught:
        parse_lock(b"hello", "x.lock.yaml")
    assert "take an edited lock back from git" in (caught.value.hint or "")


def test_deep_nesting_ends_in_an_error_not_a_crash() -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        parse_yaml("[" * 60 + "]" * 60, "f")
    with pytest.raises(InputError, match="nested too deeply"):
        parse_yaml("[" * 5000 + "]" * 5000, "f")


def test_every_error_of_a_model_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("nmae: x\noverlays:\n  - pul: a\n    fuzz: many\n")
    with pytest.raises(InputError) as caught:
        validate(Outer, path)
    problems = "\n".join(caught.value.data["problems"])
    assert "r.yaml:1:1: unknown key 'nmae'; did you mean 'name'?" in problems
    assert "r.yaml:3:5: unknown key 'pul'; did you mean 'pull'?" in problems
    assert "r.yaml:4:11: overlays.0.fuzz: expected a whole number, found the text 'many'" in problems
    assert "'name' is missing" in problems


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"- a\n- b\n", b"", b"\x00"])
def test_what_is_no_mapping_of_text_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError):
        validate(Outer, path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


# PyYAML folds the three line breaks of Unicode even in what it wrote itself.
TEXT = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_what_pyyaml_writes_is_read_back(value: object) -> None:
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "f").value == value


@given(st.text(max_size=200))
def test_any_text_gives_a_value_or_an_input_error(text: str) -> None:
    try:
        parse_yaml(text, "f")
    except InputError as error:
        assert error.message
