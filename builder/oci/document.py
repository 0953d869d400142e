"""The JSON documents of an image (index, manifest, config), read with limits and with the place of every error.

Source: OCI image spec 1.1 (image index, image manifest, image config) and Docker's manifest schema 2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.oci.types import Descriptor
from builder.util.errors import InputError
from builder.util.strictjson import strict_json

DOCUMENT_LIMIT = 16 << 20
"""Bytes of one document. Registries take manifests of 4 MiB; a config with a long history is larger."""
_DEPTH = 64
_HINT = "this is not an image that a registry or Docker would take"


Shape = Callable[[Any, str], None]
"""Raises `_WrongShapeError` when a value is not what a place must have."""


class _WrongShapeError(Exception):
    """A value of another type; the text begins with its place."""


def _plain(kind: type, word: str) -> Shape:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _WrongShapeError(f"{place or 'the document'} must be {word}, not {_word(value)}")

    return check


def _word(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return words.get(type(value), "a number")


def _maybe(shape: Shape) -> Shape:
    return lambda value, place: None if value is None else shape(value, place)


def _each(shape: Shape) -> Shape:
    def check(value: Any, place: str) -> None:
        _plain(list, "a list")(value, place)
        for index, each in enumerate(value):
            shape(each, f"{place}[{index}]")

    return check


def _values(shape: Shape) -> Shape:
    def check(value: Any, place: str) -> None:
        _OBJECT(value, place)
        for key, each in value.items():
            shape(each, f"{place}.{key[:80]}")

    return check


def _fields(needed: Mapping[str, Shape], optional: Mapping[str, Shape]) -> Shape:
    """An object with fields that must be present, and others that may be missing or null. Further ones are not looked at."""

    def check(value: Any, place: str) -> None:
        _OBJECT(value, place)
        for key, shape in needed.items():
            name = f"{place}.{key}" if place else key
            if key not in value:
                raise _WrongShapeError(f"{name} is missing")
            shape(value[key], name)
        for key, shape in optional.items():
            _maybe(shape)(value.get(key), f"{place}.{key}" if place else key)

    return check


_OBJECT = _plain(dict, "an object")
_TEXT = _plain(str, "a text")
_TEXTS = _each(_TEXT)
_DESCRIPTOR = _fields(
    {"mediaType": _TEXT, "digest": _TEXT, "size": _plain(int, "a whole number")},
    {"platform": _OBJECT, "annotations": _values(_TEXT)},
)
_INDEX = _fields({"manifests": _each(_DESCRIPTOR)}, {"mediaType": _TEXT})
_MANIFEST = _fields(
    {"config": _DESCRIPTOR, "layers": _each(_DESCRIPTOR)}, {"mediaType": _TEXT, "annotations": _values(_TEXT)}
)
_CONFIG = _fields(
    {
        "architecture": _TEXT,
        "os": _TEXT,
        "rootfs": _fields({"type": _TEXT, "diff_ids": _TEXTS}, {}),
    },
    {
        "variant": _TEXT,
        "created": _TEXT,
        "author": _TEXT,
        "config": _fields(
            {},
            {
                **dict.fromkeys(("User", "WorkingDir", "StopSignal"), _TEXT),
                **dict.fromkeys(("Env", "Entrypoint", "Cmd"), _TEXTS),
                **dict.fromkeys(("ExposedPorts", "Volumes"), _OBJECT),
                "Labels": _values(_TEXT),
            },
        ),
        "history": _each(
            _fields(
                {},
                {
                    **dict.fromkeys(("created", "created_by", "author", "comment"), _TEXT),
                    "empty_layer": _plain(bool, "a boolean"),
                },
            )
        ),
    },
)


@dataclass(frozen=True)
class ImageManifest:
    """A manifest: as it was written, and the descriptors in it (layers bottom first)."""

    document: Mapping[str, Any] = field(repr=False)
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class ImageConfig:
    """A config: as it was written, and the parts of it that decide something."""

    document: Mapping[str, Any] = field(repr=False)
    platform: Mapping[str, str]
    """`os`, `architecture`, and `variant` when it has one."""
    created: str | None
    settings: Mapping[str, Any] = field(repr=False)
    """What a container gets: `Env`, `Entrypoint`, `Cmd`, `Labels`, ..."""
    diff_ids: tuple[str, ...]
    """Digests of the uncompressed layers, bottom first."""

    @property
    def environment(self) -> dict[str, str]:
        """`Env` as a mapping; of a repeated name the last value counts, as in a container."""
        return dict(each.split("=", 1) for each in self.settings.get("Env") or [] if "=" in each)


def parse_object(data: bytes, what: str, *, limit: int = DOCUMENT_LIMIT) -> dict[str, Any]:
    """A JSON object; `what` names it in errors.

    Raises `InputError` for anything that other readers would read in another way or not at all: a key that is repeated,
    also in another case (Go ignores case), NaN, half a surrogate pair, and nesting below 64 levels.
    """
    if len(data) > limit:
        raise InputError(f"{what} is larger than {limit >> 20} MiB", hint=_HINT)
    try:
        document = strict_json(data, ignore_case=True)
        _check_depth(document)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply", hint=_HINT) from error
    except ValueError as error:
        raise InputError(f"{what} is not valid JSON: {error}", hint=_HINT) from error
    if not isinstance(document, dict):
        raise InputError(f"{what} is not a JSON object", hint=_HINT)
    return document


def _check_depth(document: object) -> None:
    level: list[object] = [document]
    for _ in range(_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEPTH} levels deep")


def read_index(data: bytes, what: str) -> tuple[Descriptor, ...]:
    """The entries of an image index, in its order. Raises `InputError` with the place of what is wrong."""
    document = parse_object(data, what)
    _check(_INDEX, document, what)
    return tuple(Descriptor.from_json(each) for each in document["manifests"])


def read_manifest(data: bytes, what: str) -> ImageManifest:
    """Read an image manifest. Raises `InputError` with the place of what is wrong."""
    document = parse_object(data, what)
    _check(_MANIFEST, document, what)
    return ImageManifest(
        document,
        Descriptor.from_json(document["config"]),
        tuple(Descriptor.from_json(each) for each in document["layers"]),
    )


def read_config(data: bytes, what: str) -> ImageConfig:
    """Read an image config. Raises `InputError` with the place of what is wrong."""
    document = parse_object(data, what)
    _check(_CONFIG, document, what)
    platform = {key: document[key] for key in ("os", "architecture", "variant") if document.get(key)}
    return ImageConfig(
        document, platform, document.get("created"), document.get("config") or {}, tuple(document["rootfs"]["diff_ids"])
    )


def _check(shape: Shape, document: Mapping[str, Any], what: str) -> None:
    try:
        shape(document, "")
    except _WrongShapeError as error:
        raise InputError(f"{what}: {error}", hint=_HINT) from None
