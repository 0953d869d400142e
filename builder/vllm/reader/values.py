"""What the reader of flags calculates with: plain Python values where the source is plain, and these where it is not."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from builder.vllm.reader.modules import Module


@dataclass(frozen=True)
class Unknown:
    """A value that only running the package would tell."""

    why: str = ""


@dataclass(frozen=True)
class Opaque:
    """Something outside the package, or a function, by name: `json.loads`, `argparse.BooleanOptionalAction`, `int`."""

    name: str
    inner: Any = None


@dataclass(frozen=True)
class ClassRef:
    module: Module
    node: ast.ClassDef


@dataclass(frozen=True)
class FunctionRef:
    module: Module
    node: ast.FunctionDef
    owner: ClassRef | None = None


class ParserRef:
    """The argument parser, or one of its groups: whatever is added to it becomes a flag."""


_PLAIN = (str, int, float, bool, type(None))


def is_plain(value: Any) -> bool:
    """Whether a value is known as it is."""
    if isinstance(value, list | tuple):
        return all(is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(is_plain(each) for each in value.values())
    return isinstance(value, _PLAIN)
