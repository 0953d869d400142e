"""YAML that people write: read safely and within limits, with the place of every error.

Duplicate keys, aliases and tags are refused. Of YAML 1.1's implicit types only null, booleans spelt `true` and `false`,
decimal integers and decimal floats are taken: `on`, `yes`, `010`, `1:30` and dates stay the text that was written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from builder.documents.problems import plain
from builder.util.errors import InputError
from builder.util.files import read_regular, unreadable

_LIMIT = 4 << 20
_EVENTS = 100_000
"""What a document may have of values, keys, beginnings and ends; parsing as many takes some 3 seconds."""
_DEPTH = 40
# Outside of comments, a `?` can be a key's sign.
_ONLY_EXACT = re.compile(r"[^\n -~\u00a0-\u2027\u2030-\ud7ff]|^(?! *#).*\?|[|>][-+0-9]*#", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]


class DecimalFloat(float):
    """A float that prints as it was written: `0.90` stays `0.90`, which matters for a flag that others compare."""

    text: str

    def __new__(cls, text: str) -> DecimalFloat:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


@dataclass
class Document:
    """A YAML document as plain values, and the place (line, column; from 1) of each node and each key."""

    name: str
    value: Any
    places: dict[Location, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Location, tuple[int, int]] = field(default_factory=dict)
    below: Document | None = None
    """A document whose values hold where this one has none."""

    def at(self, location: Location, *, key: bool = False) -> str:
        """`FILE:LINE:COLUMN` of a node, or of the nearest one around it."""
        if self.below is not None and len(location) > 1 and location not in self.places and location not in self.keys:
            return self.below.at(location, key=key)
        tables = (self.keys, self.places) if key else (self.places, self.keys)
        for length in range(len(location), -1, -1):
            for table in tables:
                place = table.get(location[:length])
                if place is not None:
                    return f"{self.name}:{place[0]}:{place[1]}"
        return self.name


def read_yaml(path: Path, *, name: str | None = None) -> Document:
    """Read a YAML file. Raises `InputError` when it cannot be read or is not the YAML that this tool takes."""
    name = name or str(path)
    try:
        text = read_regular(path, limit=_LIMIT, name=name).decode("utf-8")
    except OSError as error:
        raise unreadable(name, error) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}", hint="save it as UTF-8"
        ) from error
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML text; `name` is the file in messages."""
    return quick(text, name) or exact(text, name)


def quick(text: str, name: str) -> Document | None:
    """The document as libyaml reads it; None when it is not installed, or for text that only `exact` may judge.

    libyaml is ten times as fast. It refuses in other words, and takes a few texts that PyYAML's own parser refuses: tabs
    between tokens, a `?` in a flow, `|#`. Both agree on everything else: tests/documents/test_yaml_parsers.py.
    """
    if not hasattr(yaml, "CSafeLoader") or _ONLY_EXACT.search(text):
        return None
    try:
        if not _is_simple(text):
            return None
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        document = Document(name, None)
        document.value = _build(node, (), document) if node is not None else None
    except (yaml.YAMLError, InputError):
        return None
    return document


def _is_simple(text: str) -> bool:
    """Whether the events are within limits, and none is an empty scalar: the two parsers give it different places."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent) or (
            isinstance(event, yaml.ScalarEvent) and not event.value and not event.style
        ):
            return False
        if depth > _DEPTH or count > _EVENTS:
            return False
    return True


def exact(text: str, name: str) -> Document:
    """The document as PyYAML's own parser reads it."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        _check_events(text, name)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = _mark(error)
        what = error.problem or error.context or "not YAML"
        what = next((plain for part, plain in _PLAIN.items() if part in what), what)
        if error.context and what.startswith("but "):
            # The second half of a sentence.
            what = f"{error.context} {what}"
        raise _error(name, mark, what, "see the line that is named") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{name}:{line}: the character U+{ord(text[error.position]):04X} is not allowed in YAML",
            hint="remove it, or save the file as text",
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"{name}: {error}", hint="this is not YAML text") from error
    except RecursionError as error:
        raise InputError(f"{name} is nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()
    document = Document(name, None)
    document.value = _build(node, (), document) if node is not None else None
    return document


_PLAIN = {
    "could not find expected ':'": "this key has no `: ` and value behind it",
    "found unexpected end of stream": "what is quoted here does not end",
    "found unexpected document separator": "what is quoted here does not end",
    "expected ',' or ']'": "the list that begins here has no `]`",
    "expected ',' or '}'": "the mapping that begins here has no `}`",
    "mapping values are not allowed here": "a second `: ` in one line, or a line that is indented too far",
    "found character '\\t' that cannot start": "a tab; YAML is indented with spaces",
}
"""Parts of PyYAML's messages, in words of the file."""
_BEGUN = tuple(_PLAIN)[:5]
"""What was begun and is not ended: PyYAML notices it lines later."""


def _mark(error: yaml.MarkedYAMLError) -> yaml.Mark | None:
    """Where a person has to look: at the beginning of what is not ended."""
    begun = any(part in (error.problem or "") for part in _BEGUN)
    return error.context_mark if begun and error.context_mark else error.problem_mark or error.context_mark


def _check_events(text: str, name: str) -> None:
    """Refuse what is costly before anything is built of it: depth, number, aliases. Stops at the first that is too much.

    A parser that goes on into a document of 5,000 levels takes time that grows with their square.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise _error(name, event.start_mark, "aliases are not taken", "write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH:
                raise _error(name, event.start_mark, "nested too deeply", "no file of this tool is")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if count > _EVENTS:
            raise InputError(
                f"{name} has more than {_EVENTS:,} values and keys", hint="this cannot be the file that was meant"
            )


def _build(node: yaml.Node, location: Location, document: Document) -> Any:
    document.places[location] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if len(location) > _DEPTH:
        raise _error(document.name, node.start_mark, "nested too deeply", "no file of this tool is")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, location, document)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*location, index), document) for index, child in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)  # noqa: S101  YAML has no other kind of node
    return _scalar(node, document.name)


def _mapping(node: yaml.MappingNode, location: Location, document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _error(document.name, key_node.start_mark, "a key is a word, not a list or a mapping", "quote it")
        key = str(key_node.value)
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if key in found:
            first = document.keys[(*location, key)]
            raise _error(document.name, key_node.start_mark, f"{key!r} is repeated", f"it is first in line {first[0]}")
        document.keys[(*location, key)] = place
        found[key] = _build(value_node, (*location, key), document)
    return found


def _scalar(node: yaml.ScalarNode, name: str) -> Any:
    text = str(node.value)
    # libyaml calls the style of a plain scalar "", PyYAML None.
    if node.style:
        return text
    if node.tag not in (
        "tag:yaml.org,2002:" + kind for kind in ("str", "null", "bool", "int", "float", "timestamp", "merge", "value")
    ):
        raise _error(name, node.start_mark, f"the tag {node.tag} is not taken", "write a plain value")
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return DecimalFloat(text)
    return text


def _error(name: str, mark: Any, what: str, hint: str) -> InputError:
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
    return InputError(f"{place}: {what}", hint=hint)


_SCHEMAS = {"Profile": " profile", "Suite": " gate", "Policy": " policy"}
"""The argument of `builder schema` for a model that is not a recipe."""


_LOCK_HINT = "take an edited lock back from git; for the lock of a newer builder, upgrade this one"


def validate(model: type[Model], path: Path, *, name: str | None = None) -> Model:
    """Read a YAML file into a model. Raises one `InputError` that names the place of every error in it."""
    document = read_yaml(path, name=name or path.name)
    return validate_document(model, document)


def validate_document(model: type[Model], document: Document) -> Model:
    """Turn a document into a model, or raise one `InputError` with every error's place."""
    if not isinstance(document.value, Mapping):
        raise InputError(
            f"{document.name} is not a mapping of keys to values",
            hint=_hint(model, "it begins with `name: ...`"),
        )
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        unknown = [_unknown_key(document, model, each["loc"]) for each in found if each["type"] == "extra_forbidden"]
        others = plain([each for each in found if each["type"] != "extra_forbidden"], document.places.keys())
        problems = unknown + [f"{document.at(location)}: {message}" for location, message in others]
    first, *rest = problems
    raise InputError(
        first,
        details=[("also", problem) for problem in rest],
        hint=_hint(model, f"`builder schema{_SCHEMAS.get(model.__name__, '')}` prints what is allowed"),
        data={"problems": problems},
    )


def _hint(model: type[BaseModel], by_hand: str) -> str:
    """What to do about a document that is not one of `model`: a lock is written by no hand."""
    return _LOCK_HINT if model.__name__ == "Lock" else by_hand


def _unknown_key(document: Document, model: type[BaseModel], location: Location) -> str:
    key = str(location[-1])
    near = difflib.get_close_matches(key, _known_keys(model, location[:-1]), n=1)
    suggestion = f"; did you mean {near[0]!r}?" if near else ""
    return f"{document.at(location, key=True)}: unknown key {key!r}{suggestion}"


def _known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the model at `location` knows; empty when the place is not a model."""
    current: Any = model
    for part in location:
        models = _models(current)
        if isinstance(part, int) or (models and not any(_fields(each).get(str(part)) for each in models)):
            continue
        annotations = [_fields(each)[str(part)] for each in models if str(part) in _fields(each)]
        if annotations:
            current = annotations[0]
    return sorted({key for each in _models(current) for key in _fields(each)})


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside an annotation such as `tuple[Model, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models(part)]
