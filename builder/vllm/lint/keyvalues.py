"""Values inside a flag's JSON object, as vLLM's parser reads them and pydantic judges them (2.12 to 2.14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from builder.vllm.flagvalues import human_int
from builder.vllm.lint.limits import outside
from builder.vllm.reader.keys import Alternative, Key

_YES_OR_NO = {"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"}
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
_PLAIN_INT = re.compile(r"[+-]?[0-9]+")
_PLAIN_FLOAT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_WORDS = {
    "bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text", "list": "a list", "dict": "a JSON object",
    "object": "a JSON object",
}  # fmt: skip


def with_numbers(text: str) -> str:
    """JSON with numbers such as `80m` written out, as the parser does before it reads a config (`_expand_json_human_readable_numbers`)."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    for index in range(0, len(parts), 2):
        parts[index] = _NUMBER.sub(_written_out, parts[index])
    return "".join(parts)


def _written_out(found: re.Match[str]) -> str:
    number = human_int(found[0])
    return found[0] if number is None else str(number)


def leaves(value: Mapping[str, Any], known: tuple[str, ...], above: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a JSON object with their values; of an object for another config class, its own keys after it."""
    for key, inner in value.items():
        name = f"{above}{key}"
        yield name, inner
        if isinstance(inner, dict) and any(each.startswith(f"{name}.") for each in known):
            yield from leaves(inner, known, f"{name}.")


def takes(key: Key, value: Any) -> bool | None:
    """Whether a key takes a value; None when the source does not tell."""
    alternatives = key[1]
    if isinstance(value, str) and any(kind == "names" for kind, _ in alternatives):
        alternatives = tuple(each for each in alternatives if each[0] == "names")
    judged = [_takes(each, key[2], value) for each in alternatives]
    return True if True in judged else None if None in judged else False


def wanted(key: Key) -> str:
    """What a key takes, in words."""
    choices = listed(key)
    if choices:
        return f"one of {', '.join(choices)}"
    words = [_WORDS[kind] for kind, _ in key[1] if kind in _WORDS]
    limits = outside(key[2], None)
    return " or ".join(dict.fromkeys(words)) + (f" {limits}" if limits else "")


def listed(key: Key) -> list[str]:
    """The texts or numbers that a key takes, when it takes nothing else."""
    if any(kind not in ("literal", "folded", "enum", "names", "numbers", "other", "none") for kind, _ in key[1]):
        return []
    named = any(kind == "names" for kind, _ in key[1])
    found = (str(value) for kind, values in key[1] if not (named and kind == "numbers") for value in values)
    return list(dict.fromkeys(found))


def _takes(alternative: Alternative, limits: tuple[tuple[str, float], ...], value: Any) -> bool | None:
    kind, values = alternative
    if kind in _JUDGES:
        judged = _JUDGES[kind](value)
        return outside(limits, _number(value)) is None if judged and kind in ("int", "float") else judged
    if kind == "literal":
        if isinstance(value, float) and value in values:
            return None
        return any(type(each) is type(value) and each == value for each in values)
    if kind == "folded":
        return isinstance(value, str) and value.lower().replace("-", "_") in values
    if kind == "names":
        return isinstance(value, str) and (value.upper() in values or value.lower() in values)
    if kind == "enum":
        return value in values if isinstance(value, str) else None
    if kind == "numbers" and isinstance(value, int) and not isinstance(value, bool):
        return value in values
    return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _bool(value: Any) -> bool | None:
    if isinstance(value, str):
        return value.lower() in _YES_OR_NO
    return isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1))


def _int(value: Any) -> bool | None:
    if isinstance(value, str):
        return _digits(value, _PLAIN_INT)
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _float(value: Any) -> bool | None:
    if isinstance(value, str):
        return _digits(value, _PLAIN_FLOAT)
    return isinstance(value, int | float)


def _digits(text: str, plain: re.Pattern[str]) -> bool | None:
    """What pydantic makes of `1_000` or `0x10` is its own affair; a word is no number to it, `inf` and `nan` apart."""
    if plain.fullmatch(text):
        return True
    return False if text.isalpha() and text.isascii() and text.lower() not in ("inf", "infinity", "nan") else None


_JUDGES: Mapping[str, Callable[[Any], bool | None]] = {
    "none": lambda value: value is None,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": lambda value: isinstance(value, str),
    # What is inside is not judged.
    "list": lambda value: None if isinstance(value, list) else False,
    "dict": lambda value: None if isinstance(value, dict) else False,
    "object": lambda value: isinstance(value, dict),
}
