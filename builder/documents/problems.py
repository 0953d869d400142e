"""What a model refuses, in plain words: pydantic's errors as `place: key: expected A or B, found C`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

_EXPECTED = {
    "bool_type": "true or false", "bool_parsing": "true or false",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number",
    "string_type": "text",
    "tuple_type": "a list", "list_type": "a list",
    "dict_type": "keys with values", "model_type": "keys with values", "model_attributes_type": "keys with values",
    "mapping_type": "keys with values",
    "none_required": "nothing",
}  # fmt: skip
"""pydantic's error type -> what it wanted (pydantic 2, "Validation errors")."""
_LIMITS = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"), "less_than": ("lt", "below"),
           "less_than_equal": ("le", "at most")}  # fmt: skip

_NAMES = {
    r"^[a-z0-9]+(?:[._-]+[a-z0-9]+)*$": ": lower-case letters, digits, and `-`, `_` or `.` between them",
    r"^[0-9a-f]{64}$": ": 64 hexadecimal digits",
    r"^[0-9a-f]{40}$": ": a commit's 40 hexadecimal digits",
}
"""A pattern of our models in words."""

Location = tuple[str | int, ...]


class PlacedError(ValueError):
    """A validator's refusal of something below what it validates; `location` is relative to that."""

    def __init__(self, message: str, location: Location) -> None:
        super().__init__(message)
        self.location = location


def plain(errors: Sequence[Mapping[str, Any]], places: Collection[Location]) -> list[tuple[Location, str]]:
    """Errors as (location, message), one for each place of the document.

    The branches of a union each give an error at a location that no document has, such as `flags.x.int`: those of one place
    become one message that lists what it may be.
    """
    groups: dict[Location, list[Mapping[str, Any]]] = {}
    for error in errors:
        groups.setdefault(_place(error, places), []).append(error)
    return [_message(location, group) for location, group in groups.items()]


def _place(error: Mapping[str, Any], places: Collection[Location]) -> Location:
    """The longest beginning of an error's location that the document has; for a missing or unknown key the key itself."""
    location: Location = tuple(error["loc"])
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, PlacedError):
        location += cause.location
    if error["type"] in ("missing", "extra_forbidden"):
        return location
    while location and location not in places:
        location = location[:-1]
    return location


def _message(location: Location, group: Sequence[Mapping[str, Any]]) -> tuple[Location, str]:
    dotted = ".".join(str(part) for part in location)
    subject = f"{dotted}: " if dotted else ""
    kinds = [_EXPECTED.get(str(error["type"])) for error in group]
    if group[0]["type"] == "missing":
        return location[:-1], f"{dotted!r} is missing"
    if all(kinds):
        wanted = list(dict.fromkeys(kind for kind in kinds if kind))
        return location, f"{subject}expected {_either(wanted)}, found {_found(group[0]['input'])}"
    other = next(error for error, kind in zip(group, kinds, strict=True) if kind is None)
    if other["type"] in _LIMITS:
        key, word = _LIMITS[str(other["type"])]
        return location, f"{subject}must be {word} {other['ctx'][key]}, is {other['input']}"
    if other["type"] == "literal_error":
        return location, f"{subject}must be {other['ctx']['expected']}, found {_found(other['input'])}"
    if other["type"] == "string_pattern_mismatch":
        text = f"{str(other['input'])[:100]!r} is not of the form {other['ctx']['pattern']}"
        text += _NAMES.get(other["ctx"]["pattern"], "")
        return location, f"{subject}{text}"
    if other["type"] == "string_too_long":
        length = len(other["input"])
        return location, f"{subject}must have at most {other['ctx']['max_length']} characters, has {length}"
    message = str(other["msg"]).removeprefix("Value error, ")
    if isinstance((other.get("ctx") or {}).get("error"), PlacedError):
        # It names what it is about.
        return location, message
    return location, f"{subject}{message}"


def _either(words: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _found(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "a list"
    if isinstance(value, int | float):
        return f"the number {value}"
    text = str(value)
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return f"the text {shown!r}" if text.isprintable() else "text"
