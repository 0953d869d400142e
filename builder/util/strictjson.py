"""JSON that has one meaning: what Python reads and other readers refuse, or read in another way, is an error."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def strict_json(data: str | bytes, *, ignore_case: bool = False) -> Any:
    """The document. With `ignore_case`, keys that differ in case alone are the same key, as they are for Go.

    Raises `ValueError` for what is not valid JSON, for NaN and Infinity, and for a repeated key: readers differ about which
    one counts. Raises `RecursionError` for a document that is nested too deeply.
    """
    return json.loads(data, object_pairs_hook=_folded if ignore_case else _unique, parse_constant=_refuse)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _repeated([key for key, _ in pairs])
    return found


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key.lower() for key, _ in pairs]
    if len(set(keys)) != len(pairs):
        raise _repeated(keys)
    return dict(pairs)


def _repeated(keys: list[str]) -> ValueError:
    name = next(key for key in keys if keys.count(key) > 1)
    return ValueError(f"the key {name[:80]!r} is repeated")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")
