"""Keys of config classes: what the source does not decide is left out, so that no value of it is refused."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.vllm.flagvalues import of_key
from builder.vllm.lint.keyvalues import takes, with_numbers
from builder.vllm.reader.keys import Keys
from builder.vllm.reader.modules import Modules, class_bodies
from builder.vllm.reader.source import from_files

_HEAD = """
import enum
from typing import Annotated, Any, Literal
from pydantic import BeforeValidator, ConfigDict, Field, SkipValidation, field_validator, model_validator
from pydantic.dataclasses import dataclass

Word = Literal["a", "b"]
Both = Literal[Word, "c"]

class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2

class Kind(enum.Enum):
    A = "a"

class Odd(enum.Enum):
    A = "a"
    @classmethod
    def _missing_(cls, value):
        return cls.A

"""


def keys(
    body: str, options: str = "(config=ConfigDict(extra='forbid'))"
) -> tuple[tuple[str, ...], Mapping[str, object]]:
    text = f"{_HEAD}@dataclass{options}\nclass Config:\n" + "\n".join(f"    {line}" for line in body.splitlines())
    modules = Modules(from_files({"vllm/config.py": text.encode()}, version="9"))
    module = modules.at("vllm/config.py")
    assert module is not None
    node = next(each for each in module.tree.body if isinstance(each, ast.ClassDef) and each.name == "Config")
    names, typed = Keys(modules).of(class_bodies(modules, module, node))
    return names, {key[0]: key for key in typed}


def judged(body: str, value: object, options: str = "(config=ConfigDict(extra='forbid'))") -> bool | None:
    key = keys(body, options)[1].get("x")
    return takes(key, value) if key is not None else None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("annotation", "taken", "refused"),
    [
        ("Word", "a", "c"),
        ("Both | None", None, "d"),
        ("'Both'", "c", "d"),
        ("Literal[1, 2]", 2, 3),
        ("Annotated[int, Field(ge=1)]", 1, 0),
        ("Level", 2, 3),
        ("Kind", "a", "A"),
        ("bool", "on", "maybe"),
    ],
)
def test_a_value_is_judged_where_the_source_decides_it(annotation: str, taken: object, refused: object) -> None:
    body = f"x: {annotation} = None"
    assert judged(body, refused) is False
    assert judged(body, taken) is True


@pytest.mark.parametrize(
    "body",
    [
        "x: Word | Any",
        "x: Literal[MADE]",
        "x: Annotated[Word, BeforeValidator(len)]",
        "x: SkipValidation[Word]",
        "x: Odd",
        "x: Word\n@field_validator('x', mode='before')\n@classmethod\ndef f(cls, value):\n    return value.strip()",
        "x: Word\n@field_validator('*', mode='before')\n@classmethod\ndef f(cls, value):\n    return 'a'",
        "x: Word\n@field_validator('x', mode='wrap')\n@classmethod\ndef f(cls, value, handler):\n    return 'a'",
        "x: Word\n@field_validator('x', mode='plain')\n@classmethod\ndef f(cls, value):\n    return 'a'",
        "x: Word\n@field_validator(*NAMES, mode='before')\n@classmethod\ndef f(cls, value):\n    return 'a'",
        "x: Word\n@model_validator(mode='before')\n@classmethod\ndef f(cls, value):\n    return {'x': 'a'}",
        "x: Word\n@classmethod\ndef __get_pydantic_core_schema__(cls, source, handler):\n    return any_schema()",
    ],
)
def test_what_only_running_tells_is_left_out(body: str) -> None:
    assert judged(body, "z") is None


def test_a_class_that_reads_values_in_its_own_way_is_left_out() -> None:
    assert judged("x: Word", "z", "(config=ConfigDict(extra='forbid', use_enum_values=True))") is None
    assert judged("x: Word", "z", "(config=OPTIONS)") is None
    # Values are judged where further keys are ignored; which keys those are is not known.
    assert keys("x: Word", "")[0] == ()
    assert judged("x: Word", "z", "") is False


def test_validators_of_known_forms() -> None:
    before = "x: Level | None\n@field_validator('x', mode='before')\n@classmethod\ndef f(cls, value):\n    if isinstance(value, str):\n"
    named = f"{before}        if value.lower() == 'auto':\n            return None\n        return Level[value.upper()]\n    return value"
    assert [judged(named, each) for each in ("low", "AUTO", "none", 2, 3)] == [True, True, False, True, False]
    assert judged(f"{before}        return Level[value]\n    return value", "low") is None
    passing = "x: Word\n@field_validator('x', mode='wrap')\n@classmethod\ndef f(cls, value, handler):\n    if value is None:\n        return value\n    return handler(value)"
    assert [judged(passing, each) for each in (None, "z")] == [True, False]


def test_what_is_not_given_is_no_key() -> None:
    names, _ = keys("x: int\ny: ClassVar[int] = 1\nz: int = Field(default=1, init=False)")
    assert names == ("x",)


@given(st.integers(0, 999), st.sampled_from("kKmMgG"), st.text(max_size=5))
def test_numbers_with_a_unit_are_read_outside_of_texts(number: int, unit: str, text: str) -> None:
    size = of_key(f"{number}{unit}")
    assert isinstance(size, int)
    assert with_numbers(f'{{"80m": {number}{unit}}}') == f'{{"80m": {size}}}'
    assert isinstance(of_key(f"x{text}"), str)
